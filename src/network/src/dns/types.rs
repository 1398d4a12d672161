//! Configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Configuration of the name server.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Addresses to listen on with UDP and TCP: the cluster DNS addresses, port 53.
    pub listen: Vec<SocketAddr>,
    /// Suffix of the cluster's names, such as `cluster.local`.
    pub domain: String,
    /// Servers for other names. If empty, those of `resolv_conf` are used.
    pub upstreams: Vec<IpAddr>,
    /// File with servers, usually `/etc/resolv.conf`. Used if `upstreams` is empty.
    pub resolv_conf: PathBuf,
    /// Address of the machine that the nodes run on.
    pub host: Option<Ipv4Addr>,
    /// Names of that machine, in lower case and without a dot at the end.
    pub host_names: Vec<String>,
}
