//! Everything between a pod's `eth0` and the rest of the world.
//!
//! - [`netlink`]: links, addresses, routes and network namespaces, over rtnetlink.
//! - [`nft`]: packet filter tables, over nf_tables' netlink protocol.
//! - [`host`]: what the host of a cluster needs: one link, one table.
//! - [`node`]: a node's bridge, pod addresses, host ports and routes to its peers.
//! - [`proxy`]: services, compiled to a rule set and applied in one transaction.
//! - [`dns`]: the cluster's name server.
//!
//! Nothing here speaks HTTP to the API server and nothing runs another program:
//! the node agent feeds objects in, the kernel is spoken to directly. The calls
//! that speak to the kernel are synchronous and take from microseconds to a few
//! milliseconds; from async code run them with `spawn_blocking`.

pub mod dns;
mod firewall;
mod hash;
pub mod host;
pub mod netlink;
pub mod nft;
pub mod node;
pub mod proxy;
pub mod sysctl;
#[cfg(test)]
mod testing;

pub use dns::{DnsConfig, DnsServer, DnsState};
pub use host::{HostNetwork, HostNetworkConfig};
pub use node::{AttachPod, HostPort, NetworkConfig, NodeNetwork, PodNetwork, Protocol};
pub use proxy::{ProxyConfig, ServiceProxy, ServiceState};

/// Why something about the network could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a request about links, addresses, routes or rules.
    #[error(transparent)]
    Netlink(#[from] netlink::NetlinkError),
    /// A file (state, sysctl, namespace) could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read`, `write`, `open` …
        action: &'static str,
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A server's address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The node's pod range has no free address.
    #[error("no free pod address in {0}")]
    AddressesExhausted(ipnet::Ipv4Net),
    /// What was asked for contradicts itself or what is there.
    #[error("{0}")]
    Invalid(String),
}

/// The result of a network operation.
pub type Result<T, E = NetworkError> = std::result::Result<T, E>;
