//! Tests across all kinds.

mod extremes;
mod robustness;
mod validation;
