//! Conversion of a container's specification to an OCI configuration.

pub mod capabilities;
mod devices;
mod spec;
pub mod user;

pub use spec::{Inputs, Namespaces, PidNamespace, generate, source};
