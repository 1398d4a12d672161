//! Walks over trees by type: validation, field sets, comparison, merge and removal.

mod atom;
mod compare;
mod field_set;
mod merge;
mod reconcile;
mod remove;
mod validate;

pub(super) use compare::{Comparison, compare};
pub(super) use field_set::field_set;
pub(super) use merge::merge;
pub(super) use reconcile::reconcile;
pub(super) use remove::remove;
pub(super) use validate::validate;
