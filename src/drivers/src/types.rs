//! What drivers are given and what they return.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use rkube_config::ports;
use rkube_failure::Failure;
use serde::{Deserialize, Serialize};

/// What a driver needs to know of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterPlan {
    /// The profile's name.
    pub name: String,
    /// The profile's directory; everything that must survive a reboot is below it.
    pub dir: PathBuf,
    /// For sockets and pid files; lost at reboot.
    pub run_dir: PathBuf,
    /// The user who may ask for the nodes' states without being root; see
    /// the module `native`. `None` leaves that to the user who runs the driver.
    #[serde(default)]
    pub owner_uid: Option<u32>,
    /// The binary that the nodes run.
    pub binary: PathBuf,
    /// The nodes' address range; its first address is the gateway.
    pub node_cidr: Ipv4Net,
    /// TCP ports of the host's loopback that nodes reach at the gateway.
    pub loopback_ports: Vec<u16>,
    /// Where a driver that publishes ports makes the API server reachable on
    /// the host's loopback.
    #[serde(default)]
    pub api_port: Option<u16>,
    /// More ports of the control-plane node to publish on the host.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// What virtual machines are made of.
    #[serde(default)]
    pub machine: MachineOptions,
    /// Every node of the cluster.
    pub nodes: Vec<NodePlan>,
}

/// What nodes that are virtual machines are made of; only the driver qemu asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineOptions {
    /// The kernel's image; the best of the host's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The directory of the kernel's modules; looked for beside it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<PathBuf>,
    /// How big a node's disk is, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

impl MachineOptions {
    /// What the environment says (`RKUBE_KERNEL`, `RKUBE_MODULES`), for questions
    /// that are asked before there is a cluster.
    pub fn from_env() -> Self {
        let path = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        Self {
            kernel: path("RKUBE_KERNEL"),
            modules: path("RKUBE_MODULES"),
            disk_bytes: None,
        }
    }

    /// Whether nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
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
    /// Whether the control plane runs here.
    #[serde(default)]
    pub control_plane: bool,
    /// Where a driver that publishes ports makes the node's SSH server
    /// reachable on the host's loopback.
    #[serde(default)]
    pub ssh_port: Option<u16>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// In lower case, as engines and hypervisors write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the control-plane node that the host publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// The host's address that is listened on.
    pub host_ip: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The node's port.
    pub node_port: u16,
    /// The protocol of both.
    pub protocol: Protocol,
}

impl std::fmt::Display for PortMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}:{}/{}",
            self.host_ip,
            self.host_port,
            self.node_port,
            self.protocol.as_str()
        )
    }
}

impl std::str::FromStr for PortMapping {
    type Err = String;

    /// Reads `[IP:]HOST:NODE[/tcp|/udp]`, as `docker run --publish` does; one
    /// number is both ports. Without an address it is the loopback's.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("'{text}' is not [IP:]HOST-PORT:NODE-PORT[/tcp|udp]");
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(wrong()),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (host_ip, host, node) = match parts.as_slice() {
            [both] => (Ipv4Addr::LOCALHOST, *both, *both),
            [host, node] => (Ipv4Addr::LOCALHOST, *host, *node),
            [ip, host, node] => (ip.parse().map_err(|_| wrong())?, *host, *node),
            _ => return Err(wrong()),
        };
        Ok(Self {
            host_ip,
            host_port: port(host)?,
            node_port: port(node)?,
            protocol,
        })
    }
}

/// How the host reaches a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The API server.
    pub api: SocketAddr,
    /// Each node's SSH server.
    pub ssh: BTreeMap<String, SocketAddr>,
    /// Whether packets to the nodes' addresses reach them. Where they do not,
    /// everything but the API goes through SSH.
    pub routable: bool,
}

impl Endpoints {
    /// By the nodes' own addresses.
    pub fn direct(plan: &ClusterPlan) -> Self {
        let api = plan.control_plane().map_or(Ipv4Addr::LOCALHOST, |n| n.ip);
        Self {
            api: SocketAddr::from((api, ports::API_SERVER)),
            ssh: plan
                .nodes
                .iter()
                .map(|n| (n.name.clone(), SocketAddr::from((n.ip, ports::SSH))))
                .collect(),
            routable: true,
        }
    }

    /// By the ports that the plan publishes on the loopback; a port that it
    /// does not name is reached directly.
    pub fn published(plan: &ClusterPlan, routable: bool) -> Self {
        let mut endpoints = Self::direct(plan);
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Some(port) = plan.api_port {
            endpoints.api = local(port);
        }
        for node in &plan.nodes {
            if let Some(port) = node.ssh_port {
                endpoints.ssh.insert(node.name.clone(), local(port));
            }
        }
        endpoints.routable = routable;
        endpoints
    }
}

/// A log of one of a node's own processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// What wrote it: `init`, `agent`, `control-plane`…
    pub name: String,
    /// What it says.
    pub content: Vec<u8>,
}

impl ClusterPlan {
    /// The host's address in the nodes' range.
    pub fn gateway(&self) -> Ipv4Addr {
        self.node_cidr
            .hosts()
            .next()
            .unwrap_or(self.node_cidr.network())
    }

    /// A node's directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    /// What is placed at `/etc/rkube` in a node: configuration, PKI, SSH keys.
    pub fn node_etc(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("etc")
    }

    /// The node that runs the control plane.
    pub fn control_plane(&self) -> Option<&NodePlan> {
        self.nodes
            .iter()
            .find(|n| n.control_plane)
            .or(self.nodes.first())
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

    /// What the host lacks for `plan`, before anything is made. Answers soon,
    /// also where whatever the driver relies on hangs.
    fn preflight<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Vec<Problem>>;

    /// Whether anything of the cluster runs already.
    fn is_up<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, bool>;

    /// An address range for the nodes of a new cluster that collides with
    /// nothing on this machine nor with `taken`.
    fn free_range<'a>(&'a self, taken: &'a [Ipv4Net]) -> BoxFuture<'a, Result<Ipv4Net, Failure>>;

    /// Whether API and SSH servers are published on the host's loopback, at
    /// ports that the plan must name.
    fn publishes(&self) -> bool {
        false
    }

    /// How the host reaches the cluster.
    fn endpoints(&self, plan: &ClusterPlan) -> Endpoints {
        Endpoints::direct(plan)
    }

    /// DNS servers that nodes reach, where those of the host are not the ones.
    fn resolvers(&self) -> Option<Vec<IpAddr>> {
        None
    }

    /// The program that nodes are to run, a file of this machine: a copy of it is
    /// what the plan names.
    fn binary(&self) -> BoxFuture<'_, Result<PathBuf, Failure>> {
        Box::pin(async { crate::binary::own() })
    }

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

    /// The logs of the node's own processes, also of a stopped node; nothing
    /// where there are none.
    fn logs<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        node: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>>;

    /// The logs of what keeps the nodes running, where the driver has such.
    fn driver_logs<'a>(
        &'a self,
        _plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Removes everything of the cluster but the profile's directory, whatever
    /// state it is in and whoever died.
    fn destroy<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Logs that lie as files in `directory`: name and path below it.
#[cfg(unix)]
pub(crate) fn read_logs(
    folder: &std::path::Path,
    files: &[(&str, &str)],
) -> Result<Vec<Log>, Failure> {
    use rkube_failure::{Kind, Source};
    let mut logs = Vec::new();
    for (name, file) in files {
        let path = folder.join(file);
        match std::fs::read(&path) {
            Ok(content) => logs.push(Log {
                name: (*name).to_owned(),
                content,
            }),
            // Not every node has every service.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Failure::new(
                    Source::Host,
                    Kind::Error,
                    format!("cannot read {}: {e}", path.display()),
                ));
            }
        }
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let read = |text: &str| text.parse::<PortMapping>().map(|p| p.to_string());
        assert_eq!(read("8080:80").unwrap(), "127.0.0.1:8080:80/tcp");
        assert_eq!(read("53:53/udp").unwrap(), "127.0.0.1:53:53/udp");
        assert_eq!(
            read("0.0.0.0:80:30080/tcp").unwrap(),
            "0.0.0.0:80:30080/tcp"
        );
        assert_eq!(read("443").unwrap(), "127.0.0.1:443:443/tcp");
        for bad in ["", "x", "0:80", "80:", "1:2:3:4", "80:80/sctp", "70000:1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn published_ports_replace_addresses() {
        let node = |name: &str, last, control_plane, ssh_port| NodePlan {
            name: name.into(),
            ip: Ipv4Addr::new(10, 0, 0, last),
            cpu_millis: None,
            memory_bytes: None,
            control_plane,
            ssh_port,
        };
        let plan = ClusterPlan {
            name: "p".into(),
            dir: "/p".into(),
            run_dir: "/r".into(),
            owner_uid: None,
            binary: "/b".into(),
            node_cidr: "10.0.0.0/24".parse().unwrap(),
            loopback_ports: Vec::new(),
            api_port: Some(20001),
            ports: Vec::new(),
            machine: MachineOptions::default(),
            nodes: vec![node("a", 2, true, Some(20002)), node("b", 3, false, None)],
        };
        let direct = Endpoints::direct(&plan);
        assert_eq!(direct.api.to_string(), "10.0.0.2:8443");
        assert!(direct.routable);
        let published = Endpoints::published(&plan, false);
        assert_eq!(published.api.to_string(), "127.0.0.1:20001");
        assert_eq!(published.ssh["a"].to_string(), "127.0.0.1:20002");
        assert_eq!(published.ssh["b"].to_string(), "10.0.0.3:22");
        assert!(!published.routable);
    }
}
