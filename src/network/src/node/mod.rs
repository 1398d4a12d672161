//! A node's own network: bridge, pod links and addresses, host ports, routes to peers.
//!
//! Pods hang on a bridge, but each sends everything, also to its neighbours, through
//! the bridge's own address: a pod has no route to its network, only to the gateway.
//! So every packet between pods is routed, and services translate it both ways,
//! without the kernel having to pull bridged frames through the packet filter.

mod network;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub use network::NodeNetwork;
pub use types::{AttachPod, Bandwidth, HostPort, NetworkConfig, PodNetwork, Protocol};
