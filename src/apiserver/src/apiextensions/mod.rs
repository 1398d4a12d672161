//! Custom resources, defined by CustomResourceDefinitions.

pub mod controller;
pub mod definition;
pub mod version;
pub mod versions;

mod default_checks;
mod path;
mod rule_checks;
mod rule_types;
mod rules;
mod validate;
