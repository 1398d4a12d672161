//! Configuration and attachments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::nft::Family;

/// A transport protocol of services and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Configuration of a node's network.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The node's address on `uplink`.
    pub node_ip: Ipv4Addr,
    /// Address range of nodes.
    pub node_cidr: Ipv4Net,
    /// Address range of this node's pods, at least a /29. The first address is the bridge's.
    pub pod_cidr: Ipv4Net,
    /// Address range of all pods.
    pub cluster_cidr: Ipv4Net,
    /// Address range of services.
    pub service_cidr: Ipv4Net,
    /// Addresses of load balancers that nodes answer for. Host ports are not open there.
    pub load_balancers: Option<Ipv4Net>,
    /// Name of the bridge, such as `rk0`.
    pub bridge: String,
    /// MTU of pods' interfaces, in bytes.
    pub mtu: u32,
    /// Name of the interface to other nodes, such as `eth0`.
    pub uplink: String,
    /// Persistent directory for the module's state.
    pub state_dir: PathBuf,
    /// Whether pods have IPv4 addresses. Without, their address of `pod_cidr` only tells them apart.
    pub ipv4_pods: bool,
    /// The addresses of IPv6, if pods have any.
    pub ipv6: Option<Ipv6Config>,
}

/// The IPv6 addresses of a node's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Config {
    /// The node's address on the uplink.
    pub node_ip: Ipv6Addr,
    /// Address range of nodes.
    pub node_cidr: Ipv6Net,
    /// Address range of this node's pods. The first address is the bridge's. A pod has the address
    /// with the number that its IPv4 address has in its range.
    pub pod_cidr: Ipv6Net,
    /// Address range of all pods.
    pub cluster_cidr: Ipv6Net,
    /// Address range of services.
    pub service_cidr: Ipv6Net,
}

/// A node's addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) family: Family,
    pub(super) node_ip: IpAddr,
    pub(super) node_cidr: IpNet,
    pub(super) pod_cidr: IpNet,
    pub(super) cluster_cidr: IpNet,
}

impl NetworkConfig {
    /// Returns the addresses of each family, IPv4 first: nodes always have it.
    pub(super) fn sides(&self) -> impl Iterator<Item = Side> + use<> {
        let ipv4 = Side {
            family: Family::Ip,
            node_ip: self.node_ip.into(),
            node_cidr: self.node_cidr.trunc().into(),
            pod_cidr: self.pod_cidr.trunc().into(),
            cluster_cidr: self.cluster_cidr.trunc().into(),
        };
        let ipv6 = self.ipv6.map(|ipv6| Side {
            family: Family::Ip6,
            node_ip: ipv6.node_ip.into(),
            node_cidr: ipv6.node_cidr.trunc().into(),
            pod_cidr: ipv6.pod_cidr.trunc().into(),
            cluster_cidr: ipv6.cluster_cidr.trunc().into(),
        });
        std::iter::once(ipv4).chain(ipv6)
    }
}

/// A port of the node that is forwarded to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the node that the port is open on. All addresses if absent, and all of its
    /// family if unspecified (0.0.0.0, ::).
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
}

/// A pod to attach to the network.
#[derive(Clone, Debug)]
pub struct AttachPod {
    /// ID of the sandbox, which identifies the attachment.
    pub sandbox_id: String,
    /// Path of the pod's network namespace, such as `/proc/PID/ns/net`.
    pub netns: PathBuf,
    /// Ports of the node that are forwarded to the pod.
    pub host_ports: Vec<HostPort>,
    /// Traffic limits (`kubernetes.io/ingress-bandwidth` and egress). Not enforced yet.
    pub bandwidth: Option<Bandwidth>,
}

/// Limits of a pod's traffic, in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Limit of traffic to the pod.
    pub ingress: Option<u64>,
    /// Limit of traffic from the pod.
    pub egress: Option<u64>,
}

/// The attachment of a pod, as persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// ID of the sandbox.
    pub sandbox_id: String,
    /// The pod's IPv4 address.
    pub ip: Ipv4Addr,
    /// The pod's IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Default gateway: the bridge's address.
    pub gateway: Ipv4Addr,
    /// Hardware address of the pod's `eth0`.
    pub mac: [u8; 6],
    /// Name of the node's end of the veth pair.
    pub host_link: String,
    /// Ports of the node that are forwarded to the pod.
    pub host_ports: Vec<HostPort>,
}

impl PodNetwork {
    /// Returns the pod's address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::Ip6 => self.ipv6.map(IpAddr::V6),
            Family::Ip | Family::Inet | Family::Bridge => Some(self.ip.into()),
        }
    }

    /// Returns the link-local IPv6 address that the pod's `eth0` derives from its hardware address
    /// (RFC 4291, appendix A).
    pub(super) fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        Ipv6Addr::from([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ])
    }
}

/// Returns the address in `to` with the number that `ip` has in `from`.
pub(super) fn same_place(ip: Ipv4Addr, from: Ipv4Net, to: Ipv6Net) -> Ipv6Addr {
    let number = u32::from(ip) - u32::from(from.network());
    Ipv6Addr::from(u128::from(to.network()) + u128::from(number))
}

impl Protocol {
    /// Returns the protocol's number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Parses the protocol of a Kubernetes field; TCP if absent. Returns `None` if unknown.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

/// First bytes of pods' hardware addresses.
pub(super) const MAC_PREFIX: [u8; 2] = [0x0a, 0x58];

/// Returns the hardware address for an IP address. Neighbours' caches stay valid when another pod
/// gets the address.
pub(super) fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    let [first, second] = MAC_PREFIX;
    [first, second, a, b, c, d]
}
