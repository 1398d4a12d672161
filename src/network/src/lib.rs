//! The network of pods, nodes and services.
//!
//! - [`host`]: the host's link to a cluster and its packet filter table.
//! - [`node`]: a node's bridge, pod addresses, host ports and routes to other nodes.
//! - [`proxy`]: services, compiled to a rule set that is applied in one transaction.
//! - [`dns`]: the cluster's name server.
//!
//! The node agent passes Kubernetes objects in; the crate has no API client. Links and
//! rules are set by [`rkube_nf`], whose modules are re-exported. Calls that reach the
//! kernel are synchronous and take from microseconds to a few milliseconds; use
//! `spawn_blocking` to make them from async code.

pub mod dns;
mod firewall;
mod hash;
pub mod host;
pub mod node;
pub mod proxy;
pub mod sysctl;
#[cfg(test)]
mod testing;

pub use rkube_nf::{netlink, nft};

pub use dns::{DnsConfig, DnsServer, DnsState};
pub use host::{HostNetwork, HostNetworkConfig};
pub use node::{AttachPod, HostPort, NetworkConfig, NodeNetwork, PodNetwork, Protocol};
pub use proxy::{ProxyConfig, ServiceProxy, ServiceState};

/// An error of a network operation.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a request about links, addresses, routes or rules.
    #[error(transparent)]
    Netlink(#[from] netlink::NetlinkError),
    /// A file (state, sysctl, namespace) could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// The failed operation: `read`, `write`, `open` …
        action: &'static str,
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The address of a server could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The node's pod range has no free address.
    #[error("no free pod address in {0}")]
    AddressesExhausted(ipnet::Ipv4Net),
    /// The request contradicts itself or the current state.
    #[error("{0}")]
    Invalid(String),
}

/// The result of a network operation.
pub type Result<T, E = NetworkError> = std::result::Result<T, E>;
