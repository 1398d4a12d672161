//! Tests across all kinds.

mod extremes;
mod facts;
mod robustness;
pub(crate) mod validation;
