//! Rules of the Kubernetes API that several components apply, as in upstream's
//! `k8s.io/component-helpers`.
//!
//! Each rule is implemented once, without I/O and without reading the clock. Typed objects
//! (`k8s_openapi`) and untyped trees ([`rkube_api::Object`]) have thin adapters to that
//! implementation where both are needed.

pub mod backoff;
pub mod conditions;
pub mod cron;
pub mod host_ports;
pub mod label_selector;
pub mod node_affinity;
pub mod qos;
pub mod quota;
pub mod resource;
pub mod resource_names;
pub mod time;
pub mod tolerations;
mod tree;
