//! Errors of network operations.

use rkube_nf::netlink;

/// An error of a network operation.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel rejected a request about interfaces, addresses, routes or rules.
    #[error(transparent)]
    Netlink(#[from] netlink::NetlinkError),
    /// A file (state, sysctl, namespace) could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// The failed operation: `read`, `write`, `open` …
        action: &'static str,
        /// The file.
        path: String,
        /// The underlying I/O error.
        source: std::io::Error,
    },
    /// The address of a server could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The underlying I/O error.
        source: std::io::Error,
    },
    /// ARP packets could not be sent or received.
    #[error("cannot exchange ARP packets: {0}")]
    Arp(std::io::Error),
    /// The node's pod range has no free address.
    #[error("no free pod address in {0}")]
    AddressesExhausted(ipnet::Ipv4Net),
    /// The request is contradictory or conflicts with the current state.
    #[error("{0}")]
    Invalid(String),
}

/// The result of a network operation.
pub type Result<T, E = NetworkError> = std::result::Result<T, E>;
