//! Configuration and reports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::nft::Family;

/// Configuration of the service proxy.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node's name, for local endpoints.
    pub node_name: String,
    /// Address ranges of all pods, at most one per family. Services are proxied for these families.
    /// Traffic from other addresses to a cluster IP is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service addresses that this node serves itself (cluster DNS). They get no rules.
    pub local_ips: Vec<IpAddr>,
    /// Load balancers' addresses that nodes of the cluster answer for. Only services' ports are open
    /// there, unlike at other addresses of the node.
    pub load_balancers: Option<Ipv4Net>,
}

impl ProxyConfig {
    /// Returns the family and the pods' range of each table.
    pub(super) fn families(&self) -> impl Iterator<Item = (Family, IpNet)> + '_ {
        let ranges = self.cluster_cidrs.iter();
        ranges.map(|net| (Family::of(net.addr()), net.trunc()))
    }

    /// Returns the address that stands for all of the node's. That of IPv6 stands for IPv4, too.
    pub(super) fn any_address(&self) -> IpAddr {
        if self.families().any(|(family, _)| family == Family::Ip6) {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        }
    }
}

/// The result of a sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Whether the kernel's table was changed.
    pub changed: bool,
    /// Number of stale conntrack entries that were removed.
    pub conntrack_removed: usize,
}
