//! From what a container is asked to be to what the launcher is told.

pub mod capabilities;
mod devices;
mod spec;
pub mod user;

pub use spec::{Generated, Inputs, Namespaces, PidNamespace, generate};
