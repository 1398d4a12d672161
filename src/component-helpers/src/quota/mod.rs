//! Usage of resource quotas, as in upstream's `pkg/quota/v1/evaluator/core`.
//!
//! Admission charges objects one by one, and the quota controller adds up all
//! objects of a namespace. Both read an object into a [`Charged`] view and pass
//! it to an [`Evaluator`].

mod evaluator;
mod view;

pub use evaluator::{Evaluator, compute_usage, count};
pub use view::{Charged, ClaimView, PodView, ServiceView};
