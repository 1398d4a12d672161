//! Tests across all kinds.

mod extremes;
mod facts;
mod robustness;
mod validation;
