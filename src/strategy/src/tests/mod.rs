//! Tests across all kinds.

mod robustness;
mod validation;
