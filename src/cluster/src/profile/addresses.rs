//! Addresses of a cluster, by family.

use std::net::{IpAddr, Ipv4Addr};

use rkube_config::families::by_family;

use super::{Node, Profile};

impl Profile {
    /// Returns the address of the service `kubernetes`: the first one of the services' range.
    pub(crate) fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_cidr
            .hosts()
            .next()
            .unwrap_or(self.service_cidr.network())
    }

    /// Returns the addresses of the service `kubernetes`, in the order of the families.
    pub(crate) fn kubernetes_ips(&self) -> Vec<IpAddr> {
        let ipv6 = self.ipv6.map(|ipv6| ipv6.kubernetes_ip().into());
        self.by_family(self.kubernetes_ip().into(), ipv6)
    }

    /// Returns a node's addresses, in the order of the families.
    pub fn node_ips(&self, node: &Node) -> Vec<IpAddr> {
        let ipv6 = self.ipv6.map(|ipv6| ipv6.node_ip(node.ip, self.node_cidr));
        self.by_family(node.ip.into(), ipv6.map(IpAddr::V6))
    }

    /// Returns the address of a node that its users are told.
    pub fn node_ip(&self, node: &Node) -> IpAddr {
        let first = self.node_ips(node).first().copied();
        first.unwrap_or(node.ip.into())
    }

    /// Returns a value for each family of the cluster, in their order.
    pub fn by_family<T>(&self, ipv4: T, ipv6: Option<T>) -> Vec<T> {
        by_family(self.ipv6.map(|ipv6| ipv6.place), ipv4, ipv6)
    }
}
