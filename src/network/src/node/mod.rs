//! A node's network: bridge, pod interfaces and addresses, host ports, routes to peers.
//!
//! Pods are attached to a bridge, but a pod has no route to its network, only to its gateway, the
//! bridge's address. So all packets between pods are routed, even between neighbours. Service
//! addresses are therefore translated in both directions without passing bridged frames through the
//! packet filter (`bridge-nf-call-iptables`), and network policies apply to neighbours as well. The
//! bridge's ports are isolated, so that no pod can send frames to another one. They are guarded, so
//! that each pod sends with its own addresses only.

mod guard;
mod network;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub use network::NodeNetwork;
pub(crate) use rules::{loopback, own_address};
pub use types::{AttachPod, Bandwidth, HostPort, Ipv6Config, NetworkConfig, PodNetwork, Protocol};
