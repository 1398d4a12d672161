//! Selectors of objects by labels and by fields.

mod field;
mod label;
mod parse;
mod requirement;
#[cfg(test)]
mod tests;

pub use field::{FieldOperator, FieldRequirement, FieldSelector};
pub use label::LabelSelector;
pub use requirement::{Operator, Requirement};
