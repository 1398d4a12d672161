//! A node's own network: bridge, pod links and addresses, host ports, routes to peers.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A transport protocol that services and ports know.
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

/// What a node's network looks like.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The node's address on `uplink`.
    pub node_ip: Ipv4Addr,
    /// Where the nodes' addresses come from.
    pub node_cidr: Ipv4Net,
    /// This node's own pod range; its first address is the bridge's.
    pub pod_cidr: Ipv4Net,
    /// Where all nodes' pod ranges come from.
    pub cluster_cidr: Ipv4Net,
    /// Where service addresses come from.
    pub service_cidr: Ipv4Net,
    /// The bridge's name, `rk0`.
    pub bridge: String,
    /// Largest packet of pod links, in bytes.
    pub mtu: u32,
    /// The link that leads to other nodes, `eth0`.
    pub uplink: String,
    /// A folder that survives restarts, for this module's own files.
    pub state_dir: PathBuf,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the node it is open on; all of them when absent or 0.0.0.0.
    pub host_ip: Option<Ipv4Addr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
}

/// A pod to be given a link.
#[derive(Clone, Debug)]
pub struct AttachPod {
    /// The sandbox's id, by which the attachment is known from now on.
    pub sandbox_id: String,
    /// The pod's network namespace, a file (`/proc/PID/ns/net`).
    pub netns: PathBuf,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Limits in bits per second (`kubernetes.io/ingress-bandwidth` and egress), not shaped yet.
    pub bandwidth: Option<Bandwidth>,
}

/// Limits of a pod's traffic, in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// To the pod.
    pub ingress: Option<u64>,
    /// From the pod.
    pub egress: Option<u64>,
}

/// What a pod was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Its default gateway, the bridge.
    pub gateway: Ipv4Addr,
    /// Hardware address of its `eth0`.
    pub mac: [u8; 6],
    /// Name of the node's end of its link.
    pub host_link: String,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// A node's network. A cheap handle: clones are the same network. All calls block
/// for at most a few milliseconds.
#[derive(Clone)]
pub struct NodeNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetworkConfig,
}

impl NodeNetwork {
    /// Opens the network in the calling thread's namespace, with what `state_dir`
    /// remembers of an earlier run.
    pub fn new(config: NetworkConfig) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner { config }),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.inner.config
    }

    /// Makes the bridge, kernel parameters and base rules. Can be repeated.
    pub fn setup(&self) -> Result<()> {
        Ok(())
    }

    /// Gives the node itself a further address (`/32`, on loopback), such as the cluster DNS's.
    pub fn add_local_address(&self, _ip: Ipv4Addr) -> Result<()> {
        Ok(())
    }

    /// Gives a pod `eth0` with an address. A sandbox that is attached already is
    /// answered as it is.
    pub fn attach_pod(&self, pod: &AttachPod) -> Result<PodNetwork> {
        Err(crate::NetworkError::Invalid(format!(
            "{} cannot be attached",
            pod.sandbox_id
        )))
    }

    /// Takes a pod's link, host ports and address away. Unknown sandboxes are fine.
    pub fn detach_pod(&self, _sandbox_id: &str) -> Result<()> {
        Ok(())
    }

    /// What a sandbox was given.
    pub fn pod(&self, _sandbox_id: &str) -> Option<PodNetwork> {
        None
    }

    /// Every attached sandbox.
    pub fn pods(&self) -> Vec<PodNetwork> {
        Vec::new()
    }

    /// Detaches every sandbox that `live` does not know and removes pod links that
    /// belong to none. Answers how many went.
    pub fn retain(&self, _live: impl Fn(&str) -> bool) -> Result<usize> {
        Ok(0)
    }

    /// Makes the routes to the other nodes' pod ranges exactly these.
    pub fn set_routes(&self, _routes: &[(Ipv4Net, Ipv4Addr)]) -> Result<()> {
        Ok(())
    }
}
