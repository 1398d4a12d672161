//! The result of the compilation, and its parts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::nft::{Family, Key, Table, Verdict};

/// The rules and health checks compiled from the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The packet filter's tables, one per family.
    pub tables: Vec<Table>,
    /// Health checks to serve, by port.
    pub health_checks: BTreeMap<u16, HealthCheck>,
    /// Endpoints of UDP services, to detect stale conntrack entries.
    pub udp: UdpBackends,
}

/// The state behind the response to a load balancer's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// Number of the service's ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Addresses and ports of the endpoints of one service port.
pub type UdpEndpoints = BTreeSet<(IpAddr, u16)>;

/// The endpoints of UDP services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpBackends {
    /// Endpoints by address and port of the service.
    pub by_address: BTreeMap<(IpAddr, u16), UdpEndpoints>,
    /// Endpoints by node port, of IPv4 and of IPv6.
    pub by_node_port: [BTreeMap<u16, UdpEndpoints>; 2],
}

impl UdpBackends {
    /// Returns whether there is no UDP service with endpoints.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.iter().all(BTreeMap::is_empty)
    }

    /// Returns the index of a family in `by_node_port`.
    pub(in crate::proxy) fn index(family: Family) -> usize {
        usize::from(family == Family::Ip6)
    }
}

/// Elements of the maps and sets, collected from all service ports.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) service_ips: BTreeMap<Key, Verdict>,
    pub(super) service_node_ports: BTreeMap<Key, Verdict>,
    pub(super) no_endpoint_ips: BTreeMap<Key, Verdict>,
    pub(super) no_endpoint_node_ports: BTreeMap<Key, Verdict>,
    pub(super) firewall_ips: BTreeMap<Key, Verdict>,
    pub(super) cluster_ips: BTreeSet<Key>,
    /// From a chain's hash and a number to address and port.
    pub(super) endpoints: BTreeMap<Key, Key>,
    /// Pairs of a pod's address with itself.
    pub(super) hairpins: BTreeSet<Key>,
}
