//! Making, starting, stopping and removing the nodes of a cluster.
//!
//! A driver knows machines, not Kubernetes: it is handed a [`ClusterPlan`] and
//! brings each node to the point where `rkube init` runs in it with the node's
//! configuration in place.

pub mod native;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use rkube_config::Failure;
use serde::{Deserialize, Serialize};

/// What a driver needs to know of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterPlan {
    /// The profile's name.
    pub name: String,
    /// The profile's folder; everything that must survive a reboot is below it.
    pub dir: PathBuf,
    /// For sockets and pid files; lost at reboot.
    pub run_dir: PathBuf,
    /// The binary that the nodes run.
    pub binary: PathBuf,
    /// The nodes' address range; its first address is the gateway.
    pub node_cidr: Ipv4Net,
    /// TCP ports of the host's loopback that nodes reach at the gateway.
    pub loopback_ports: Vec<u16>,
    /// Every node of the cluster.
    pub nodes: Vec<NodePlan>,
}

/// What a driver needs to know of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePlan {
    /// The node's name, unique on the machine.
    pub name: String,
    /// The node's address.
    pub ip: Ipv4Addr,
    /// CPU limit in millicores.
    pub cpu_millis: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
}

impl ClusterPlan {
    /// The host's address in the nodes' range.
    pub fn gateway(&self) -> Ipv4Addr {
        self.node_cidr
            .hosts()
            .next()
            .unwrap_or(self.node_cidr.network())
    }

    /// A node's folder.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    /// What is placed at `/etc/rkube` in a node: configuration, PKI, SSH keys.
    pub fn node_etc(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("etc")
    }

    /// The plan of one node.
    pub fn node(&self, name: &str) -> Option<&NodePlan> {
        self.nodes.iter().find(|n| n.name == name)
    }
}

/// Whether a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Its init runs.
    Running,
    /// It is kept on disk and does not run.
    Stopped,
    /// It was never made, or removed behind our back.
    Missing,
}

/// Something that the host lacks.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is missing and what to do; its code becomes the exit code.
    pub failure: Failure,
    /// Whether a cluster cannot work without it.
    pub fatal: bool,
}

/// One way of making nodes.
pub trait Driver: Send + Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// What the host lacks for `plan`, before anything is made.
    fn preflight(&self, plan: &ClusterPlan) -> Vec<Problem>;

    /// Whether any process of the cluster is there already; asks nobody.
    fn is_up(&self, plan: &ClusterPlan) -> bool;

    /// An address range for the nodes of a new cluster that collides with
    /// nothing on this machine nor with `taken`.
    fn free_range(&self, taken: &[Ipv4Net]) -> Result<Ipv4Net, Failure>;

    /// Starts `nodes`, and whatever they need besides; a node that runs is left alone.
    fn start<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Stops `nodes` in order, keeping their state. When none is left running,
    /// nothing of the cluster but files remains.
    fn stop<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Removes `nodes` with their state. Removing what is not there succeeds.
    fn remove<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// The state of every node of the plan, in its order.
    fn states<'a>(
        &'a self,
        plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<NodeState>, Failure>>;

    /// Removes everything of the cluster but the profile's folder, whatever
    /// state it is in and whoever died.
    fn destroy<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Result<(), Failure>>;
}

/// The driver of that name.
pub fn by_name(name: &str) -> Result<Box<dyn Driver>, Failure> {
    use rkube_config::failure::{Kind, Source};
    match name {
        "native" => Ok(Box::new(native::Native)),
        "docker" | "qemu" => Err(Failure::new(
            Source::Driver,
            Kind::Unsupported,
            format!("the driver '{name}' is not built yet"),
        )
        .advise("use --driver native")),
        _ => Err(Failure::new(
            Source::Driver,
            Kind::NotFound,
            format!("there is no driver '{name}'"),
        )
        .advise("the drivers are: native")),
    }
}
