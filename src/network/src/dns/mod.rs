//! The cluster's name server.
//!
//! [`DnsState`] holds the names of the Kubernetes DNS specification 1.1.0, made from
//! services and endpoint slices; names elsewhere are asked of other servers. Answers
//! about the cluster come from memory, in the task that received the question.

mod forward;
mod respond;
mod server;
#[cfg(test)]
mod tests;
mod zone;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use server::DnsServer;
pub use zone::DnsState;

/// How names are served.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP: the cluster DNS's address, port 53.
    pub listen: SocketAddr,
    /// Suffix of the cluster's names, `cluster.local`.
    pub domain: String,
    /// Servers for other names; empty: those of `resolv_conf`.
    pub upstreams: Vec<IpAddr>,
    /// Read for servers when `upstreams` is empty, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}
