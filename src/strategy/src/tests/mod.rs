//! Tests across all kinds.

mod robustness;
