//! Configuration and attachments.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

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
}

/// A port of the node that is forwarded to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the node that the port is open on; all addresses if absent or 0.0.0.0.
    pub host_ip: Option<Ipv4Addr>,
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
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Default gateway: the bridge's address.
    pub gateway: Ipv4Addr,
    /// Hardware address of the pod's `eth0`.
    pub mac: [u8; 6],
    /// Name of the node's end of the veth pair.
    pub host_link: String,
    /// Ports of the node that are forwarded to the pod.
    pub host_ports: Vec<HostPort>,
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
