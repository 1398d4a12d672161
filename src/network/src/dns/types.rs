//! Configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Configuration of the name server.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Address to listen on, UDP and TCP: the cluster DNS's address, port 53.
    pub listen: SocketAddr,
    /// Suffix of the cluster's names, `cluster.local`.
    pub domain: String,
    /// Servers for other names; those of `resolv_conf` if empty.
    pub upstreams: Vec<IpAddr>,
    /// File with servers, used if `upstreams` is empty, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}
