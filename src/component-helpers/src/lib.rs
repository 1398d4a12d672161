//! Rules of the API that several components apply, as in upstream's
//! `k8s.io/component-helpers`.
//!
//! Each rule has one implementation, which performs no I/O and reads no clock.
//! Where both occur, typed objects (`k8s_openapi`) and untyped trees
//! ([`rkube_api::Object`]) have thin adapters onto that implementation.

pub mod backoff;
pub mod conditions;
pub mod cron;
pub mod host_ports;
pub mod label_selector;
pub mod node_affinity;
pub mod qos;
pub mod quota;
pub mod resource;
pub mod tolerations;
mod tree;
