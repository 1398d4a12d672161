//! Admission of writes: the built-in plugins, then policies, then webhooks, in upstream's order.

pub mod attributes;
pub mod chain;
mod quotas;
pub mod reinvocation;
pub mod review;
pub mod rules;
