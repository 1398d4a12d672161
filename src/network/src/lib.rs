//! The network of pods, nodes and services.
//!
//! - [`host`]: the host's interface to a cluster and its packet filter table.
//! - [`node`]: a node's bridge, pod addresses, host ports and routes to other nodes.
//! - [`policy`]: network policies, compiled to a rule set that is changed step by step.
//! - [`proxy`]: services, compiled to a rule set that is applied in one transaction.
//! - [`balance`]: which node answers for a load balancer's address, and that it does.
//! - [`dns`]: the cluster's name server.
//!
//! The node agent passes Kubernetes objects in; the crate has no API client. Interfaces and rules
//! are set through [`rkube_nf`], whose modules are re-exported. Calls to the kernel are synchronous
//! and take from microseconds to a few milliseconds. Call them from async code through
//! `spawn_blocking`.

#![warn(missing_docs)]

pub mod balance;
pub mod dns;
mod error;
mod firewall;
mod hash;
pub mod host;
pub mod node;
pub mod policy;
pub mod proxy;
pub mod sysctl;
#[cfg(test)]
mod testing;

pub use rkube_nf::{netlink, nft};

pub use balance::{Announcer, Balancer, Candidate};
pub use dns::{DnsConfig, DnsServer, DnsState};
pub use error::{NetworkError, Result};
pub use host::{HostNetwork, HostNetworkConfig};
pub use node::{AttachPod, HostPort, Ipv6Config, NetworkConfig, NodeNetwork, PodNetwork, Protocol};
pub use policy::{Policy, PolicyEnforcer, PolicyPod, PolicyState};
pub use proxy::{ProxyConfig, ServiceProxy, ServiceState};
