//! Helpers shared by several controllers.

pub mod claim;
pub mod conditions;
#[cfg(test)]
pub mod extremes;
pub mod go;
pub mod hash;
pub mod intstr;
pub mod pod_control;
pub mod pods;
pub mod revisions;
pub mod semantic;

pub use rkube_client::owners;
