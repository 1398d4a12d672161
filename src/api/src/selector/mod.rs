//! Which objects a request or a rule means: by labels, by fields.

mod field;
mod label;
mod parse;

pub use field::{FieldOperator, FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};
