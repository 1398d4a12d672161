//! Configuration and reports.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Configuration of the service proxy.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node's name, for local endpoints.
    pub node_name: String,
    /// Address range of all pods. Traffic from other addresses to a cluster IP is masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// Service addresses that this node serves itself (cluster DNS). They get no rules.
    pub local_ips: Vec<Ipv4Addr>,
    /// Load balancers' addresses that nodes of the cluster answer for. Only services' ports are open
    /// there, unlike at other addresses of the node.
    pub load_balancers: Option<Ipv4Net>,
}

/// The result of a sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Whether the kernel's table was changed.
    pub changed: bool,
    /// Number of stale conntrack entries that were removed.
    pub conntrack_removed: usize,
}
