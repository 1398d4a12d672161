//! Network policies (`networking.k8s.io/v1`), compiled to rules of the node's packet filter.
//!
//! [`PolicyState`] holds the cluster's policies, namespaces and pods, and compiles a table for the
//! pods of one node, without I/O. [`PolicyEnforcer`] makes the kernel's table equal to it.
//!
//! A connection is judged by the address that opened it and the address, protocol and port that
//! answer it, as connection tracking knows them: after the destination of a service is translated,
//! and regardless of any translation of the source. The same holds for replies, so a change takes
//! effect on open connections, too. A client's node checks its egress, a server's node its ingress.
//!
//! ```text
//! filter forward ─ egress  ─ @isolated-egress  ─ egress-pods-N  ─ egress-N  (one per policy)
//! filter forward ─ ingress ─ @isolated-ingress ─ ingress-pods-N ─ ingress-N (one per policy)
//! filter input   ─ name-server (pods to the cluster's DNS, which the node itself serves)
//! ```
//!
//! Pods to which the same policies apply share a chain; its last rule drops. All policies that
//! select the same peers share one set of their addresses (`peers-N`). If a pod's labels change,
//! only elements of sets and of the two maps change.
//!
//! Neither table nor rules exist without an isolated pod on the node.

mod block;
mod compile;
mod enforcer;
mod members;
mod parse;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub use compile::TABLE;
pub use enforcer::PolicyEnforcer;
pub use state::PolicyState;
pub use types::{Peer, PodPeer, PodPort, Policy, PolicyPod, PolicyRule, Ports, Scope};
