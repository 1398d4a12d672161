//! The IP families of a cluster.
//!
//! Nodes always have IPv4 addresses, by which the machine manages them. The families decide which
//! addresses the API shows: those of nodes, pods and services. The IPv6 addresses of nodes and the
//! IPv6 ranges of their pods follow from those of IPv4, so they need no record of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{ClusterConfig, NodeConfig};

/// Length of the prefix of a node's range of pod addresses.
pub const NODE_POD_PREFIX: u8 = 64;
/// Number of the cluster DNS' address in the range of services.
const DNS_NUMBER: u32 = 10;

/// An IP family, named as in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// The place of IPv6 among the families of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ipv6Place {
    /// `ipv4,ipv6`.
    Second,
    /// `ipv6,ipv4`.
    First,
    /// `ipv6`.
    Only,
}

/// The IPv6 ranges of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ipv6Ranges {
    /// The place of IPv6 among the families.
    pub place: Ipv6Place,
    /// Address range of the nodes.
    pub node_cidr: Ipv6Net,
    /// Address range of pods; each node gets a /64 of it.
    pub pod_cidr: Ipv6Net,
    /// Address range of services.
    pub service_cidr: Ipv6Net,
}

/// Returns a value for each family in the order of the cluster: of IPv4 alone without `ipv6`.
pub fn by_family<T>(place: Option<Ipv6Place>, ipv4: T, ipv6: Option<T>) -> Vec<T> {
    match (place, ipv6) {
        (Some(Ipv6Place::Second), Some(ipv6)) => vec![ipv4, ipv6],
        (Some(Ipv6Place::First), Some(ipv6)) => vec![ipv6, ipv4],
        (Some(Ipv6Place::Only), Some(ipv6)) => vec![ipv6],
        _ => vec![ipv4],
    }
}

/// Returns the address with a number in a range.
fn nth(range: Ipv6Net, number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(range.network()) + u128::from(number))
}

/// Returns the range of nodes that belongs to one of IPv4: unique local addresses (RFC 4193) with
/// the IPv4 range in them, so that they are as unique on the machine as that one.
pub fn node_range(ipv4: Ipv4Net) -> Ipv6Net {
    let [a, b, c, d] = ipv4.network().octets();
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let ip = Ipv6Addr::new(0xfd72, 0x6b75, word(a, b), word(c, d), 0, 0, 0, 0);
    Ipv6Net::new_assert(ip, NODE_POD_PREFIX)
}

impl Ipv6Ranges {
    /// Returns the address with the number that `ip` has in the nodes' range of IPv4.
    pub fn node_ip(&self, ip: Ipv4Addr, nodes: Ipv4Net) -> Ipv6Addr {
        nth(
            self.node_cidr,
            u32::from(ip).saturating_sub(nodes.network().into()),
        )
    }

    /// Returns the range of a node's pods: the /64 with the number that `own` has in the pods' range
    /// of IPv4. `None` if the range has no such part.
    pub fn node_pods(&self, own: Ipv4Net, pods: Ipv4Net) -> Option<Ipv6Net> {
        let first = u32::from(own.network()).saturating_sub(pods.network().into());
        let number = first
            .checked_shr(u32::from(32 - own.prefix_len()))
            .unwrap_or(0);
        let mut parts = self.pod_cidr.subnets(NODE_POD_PREFIX).ok()?;
        parts.nth(number as usize)
    }

    /// Returns the address of the cluster DNS.
    pub fn dns_ip(&self) -> Ipv6Addr {
        nth(self.service_cidr, DNS_NUMBER)
    }

    /// Returns the address of the service `kubernetes`.
    pub fn kubernetes_ip(&self) -> Ipv6Addr {
        nth(self.service_cidr, 1)
    }
}

impl ClusterConfig {
    /// Returns the place of IPv6 among the families; `None` for a cluster of IPv4 alone.
    pub fn ipv6_place(&self) -> Option<Ipv6Place> {
        self.ipv6.map(|ipv6| ipv6.place)
    }

    /// Returns whether pods and services have IPv4 addresses.
    pub fn has_ipv4(&self) -> bool {
        self.ipv6_place() != Some(Ipv6Place::Only)
    }

    fn each<T>(&self, ipv4: impl Into<T>, ipv6: Option<impl Into<T>>) -> Vec<T> {
        by_family(self.ipv6_place(), ipv4.into(), ipv6.map(Into::into))
    }

    /// Returns the ranges of services, in the order of the families.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        self.each(
            self.service_cidr.trunc(),
            self.ipv6.map(|ipv6| ipv6.service_cidr.trunc()),
        )
    }

    /// Returns the ranges of pods, in the order of the families.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.each(
            self.pod_cidr.trunc(),
            self.ipv6.map(|ipv6| ipv6.pod_cidr.trunc()),
        )
    }

    /// Returns the addresses of the cluster DNS, in the order of the families.
    pub fn dns_ips(&self) -> Vec<IpAddr> {
        self.each(self.dns_ip, self.ipv6.map(|ipv6| ipv6.dns_ip()))
    }

    /// Returns the addresses of the node with this IPv4 address, in the order of the families.
    pub fn node_ips(&self, ip: Ipv4Addr) -> Vec<IpAddr> {
        self.each(ip, self.ipv6.map(|ipv6| ipv6.node_ip(ip, self.node_cidr)))
    }
}

impl NodeConfig {
    /// Returns the node's addresses, in the order of the cluster's families.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.cluster.node_ips(self.ip)
    }

    /// Returns the node's first address of the cluster's families.
    pub fn first_ip(&self) -> IpAddr {
        self.ips().first().copied().unwrap_or(self.ip.into())
    }

    /// Returns the ranges of the node's pods, in the order of the cluster's families.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.cluster.each(self.pod_cidr.trunc(), self.ipv6_pods())
    }

    /// Returns the IPv6 range of the node's pods.
    pub fn ipv6_pods(&self) -> Option<Ipv6Net> {
        self.cluster
            .ipv6?
            .node_pods(self.pod_cidr, self.cluster.pod_cidr)
    }

    /// Returns all addresses of a pod by its first one, in the order of the cluster's families: the
    /// node's for a pod on its network.
    pub fn pod_ips(&self, first: IpAddr) -> Vec<IpAddr> {
        let own = self.ips();
        if own.contains(&first) {
            return own;
        }
        let (Some(pods), true) = (self.ipv6_pods(), self.cluster.has_ipv4()) else {
            return vec![first];
        };
        let second: IpAddr = match first {
            IpAddr::V4(ip) => {
                let number = u32::from(ip).saturating_sub(self.pod_cidr.network().into());
                nth(pods, number).into()
            }
            IpAddr::V6(ip) => {
                let number = u128::from(ip).saturating_sub(pods.network().into());
                let network = u32::from(self.pod_cidr.network());
                Ipv4Addr::from(network.saturating_add(number as u32)).into()
            }
        };
        vec![first, second]
    }

    /// Returns the first address of a pod with this IPv4 address, of which the one of IPv6 follows.
    pub fn first_pod_ip(&self, ip: Ipv4Addr) -> IpAddr {
        let pods = self.ipv6_pods().filter(|_| {
            let place = self.cluster.ipv6_place();
            matches!(place, Some(Ipv6Place::First | Ipv6Place::Only))
        });
        let number = u32::from(ip).saturating_sub(self.pod_cidr.network().into());
        pods.map_or(ip.into(), |pods| nth(pods, number).into())
    }

    /// Returns the address to listen on for connections to all addresses of the node.
    pub fn any_address(&self) -> IpAddr {
        match self.cluster.ipv6 {
            Some(_) => Ipv6Addr::UNSPECIFIED.into(),
            None => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(place: Ipv6Place) -> Ipv6Ranges {
        Ipv6Ranges {
            place,
            node_cidr: node_range("192.168.58.0/24".parse().unwrap()),
            pod_cidr: "fd00:10:244::/56".parse().unwrap(),
            service_cidr: "fd00:10:96::/112".parse().unwrap(),
        }
    }

    #[test]
    fn addresses_follow_those_of_ipv4() {
        let ranges = ranges(Ipv6Place::Second);
        assert_eq!(ranges.node_cidr.to_string(), "fd72:6b75:c0a8:3a00::/64");
        let nodes = "192.168.58.0/24".parse().unwrap();
        let ip = ranges.node_ip("192.168.58.18".parse().unwrap(), nodes);
        assert_eq!(ip.to_string(), "fd72:6b75:c0a8:3a00::12");
        let pods = "10.244.0.0/16".parse().unwrap();
        for (own, expected) in [
            ("10.244.0.0/24", Some("fd00:10:244::/64")),
            ("10.244.255.0/24", Some("fd00:10:244:ff::/64")),
        ] {
            let found = ranges.node_pods(own.parse().unwrap(), pods);
            assert_eq!(found, expected.map(|net| net.parse().unwrap()), "{own}");
        }
        let wide = "10.0.0.0/8".parse().unwrap();
        assert_eq!(ranges.node_pods("10.1.0.0/24".parse().unwrap(), wide), None);
        assert_eq!(ranges.dns_ip().to_string(), "fd00:10:96::a");
        assert_eq!(ranges.kubernetes_ip().to_string(), "fd00:10:96::1");
    }

    #[test]
    fn values_are_in_the_order_of_the_families() {
        for (place, expected) in [
            (None, vec![4]),
            (Some(Ipv6Place::Second), vec![4, 6]),
            (Some(Ipv6Place::First), vec![6, 4]),
            (Some(Ipv6Place::Only), vec![6]),
        ] {
            assert_eq!(by_family(place, 4, place.map(|_| 6)), expected, "{place:?}");
        }
    }
}
