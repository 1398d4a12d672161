//! The plan that drivers receive, and the states and problems that they return.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use futures::future::BoxFuture;
use ipnet::{Ipv4Net, Ipv6Net};
use rkube_config::ports;
use rkube_failure::Failure;
use serde::{Deserialize, Serialize};

/// The plan of a cluster, as drivers receive it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterPlan {
    /// The profile's name.
    pub name: String,
    /// The profile's directory, which holds everything that must survive a reboot.
    pub dir: PathBuf,
    /// Directory of sockets and pid files; lost at reboot.
    pub run_dir: PathBuf,
    /// The user who may query the nodes' states without being root; see the module `native`. `None`
    /// means that only the user who runs the driver may.
    #[serde(default)]
    pub owner_uid: Option<u32>,
    /// The binary that the nodes run.
    pub binary: PathBuf,
    /// The nodes' address range; its first address is the gateway.
    pub node_cidr: Ipv4Net,
    /// The nodes' range of IPv6. An address has the same number in it as the one of IPv4 has in
    /// `node_cidr`.
    #[serde(default)]
    pub ipv6: Option<Ipv6Net>,
    /// TCP ports of the host's loopback that nodes reach at the gateway.
    pub loopback_ports: Vec<u16>,
    /// Port of the host's loopback at which drivers that publish ports serve the API server.
    #[serde(default)]
    pub api_port: Option<u16>,
    /// Additional ports of the control-plane node to publish on the host.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Options of virtual machines.
    #[serde(default)]
    pub machine: MachineOptions,
    /// Every node of the cluster.
    pub nodes: Vec<NodePlan>,
}

/// Options of nodes that are virtual machines, used by the qemu driver only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineOptions {
    /// The kernel image. Default: the most suitable kernel that is installed on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The directory of the kernel's modules. Default: looked up relative to the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<PathBuf>,
    /// Disk size of a node, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

impl MachineOptions {
    /// Reads `RKUBE_KERNEL` and `RKUBE_MODULES`, for checks before a cluster exists.
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

    /// Whether all options have their default values.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The plan of a node, as drivers receive it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePlan {
    /// The node's name, unique on the host.
    pub name: String,
    /// The node's address.
    pub ip: Ipv4Addr,
    /// CPU limit in millicores.
    pub cpu_millis: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// Whether the control plane runs on this node.
    #[serde(default)]
    pub control_plane: bool,
    /// Port of the host's loopback at which drivers that publish ports serve the node's SSH server.
    #[serde(default)]
    pub ssh_port: Option<u16>,
    /// Folders of the host that the node sees.
    #[serde(default)]
    pub mounts: Vec<HostMount>,
    /// Ports of this node to publish on the host. Those of the control-plane node are in
    /// [`ClusterPlan::ports`].
    #[serde(default)]
    pub ports: Vec<PortMapping>,
}

/// A folder or file of the host that a node sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostMount {
    /// The absolute path on the host.
    pub host: PathBuf,
    /// The absolute path in the node.
    pub node: PathBuf,
    /// Whether the node cannot write to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Directories of a node in which no folder of the host can be mounted.
const NODES_OWN: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/usr",
    "/etc/rkube",
    "/run/rkube",
    "/var/lib/rkube",
    "/var/log/rkube",
];

impl HostMount {
    /// Creates a mount of `host` at `node`.
    ///
    /// # Errors
    /// Fails with a message if a path is not absolute, or if the node needs its own files there.
    pub fn new(host: PathBuf, node: PathBuf, read_only: bool) -> Result<Self, String> {
        use std::path::Component;
        let plain = |path: &std::path::Path| {
            let named = |part| matches!(part, Component::RootDir | Component::Normal(_));
            path.has_root() && path.components().all(named)
        };
        // On Windows, the host's paths have a drive.
        if !host.is_absolute() {
            return Err(format!("'{}' is not an absolute path", host.display()));
        }
        let shown = node.display();
        if !plain(&node) || node.parent().is_none() {
            return Err(format!(
                "'{shown}' is not an absolute path of a directory in the node"
            ));
        }
        let within =
            |own: &&&str| node.starts_with(own) || std::path::Path::new(own).starts_with(&node);
        if let Some(own) = NODES_OWN.iter().find(within) {
            return Err(format!(
                "'{shown}' would hide {own}, which belongs to the node"
            ));
        }
        // Without repeated or trailing slashes, so that equal paths compare as equal.
        Ok(Self {
            host: host.components().collect(),
            node: node.components().collect(),
            read_only,
        })
    }
}

impl std::fmt::Display for HostMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (host, node) = (self.host.display(), self.node.display());
        write!(
            f,
            "{host}:{node}{}",
            if self.read_only { ":ro" } else { "" }
        )
    }
}

impl std::str::FromStr for HostMount {
    type Err = String;

    /// Parses `HOST:NODE[:ro|:rw]`. A relative path of the host is made absolute.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (paths, read_only) = match text.strip_suffix(":ro") {
            Some(paths) => (paths, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        // The last colon: paths of Windows have one after the drive.
        let (host, node) = match paths.rsplit_once(':') {
            Some((host, node)) if !host.is_empty() && node.starts_with('/') => (host, node),
            _ => return Err(format!("'{text}' is not HOST-PATH:NODE-PATH[:ro]")),
        };
        let host = std::path::absolute(host).map_err(|e| format!("'{host}' is not a path: {e}"))?;
        Self::new(host, node.into(), read_only)
    }
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
    /// Returns the name in lower case, as engines and hypervisors expect it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the control-plane node that is published on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// The host's address to listen on.
    pub host_ip: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The node's port.
    pub node_port: u16,
    /// The protocol of both ports.
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

    /// Parses `[IP:]HOST:NODE[/tcp|/udp]`, like `docker run --publish`. A single number is used for
    /// both ports. The default address is `127.0.0.1`.
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

/// The addresses at which the host reaches a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The API server.
    pub api: SocketAddr,
    /// Each node's SSH server.
    pub ssh: BTreeMap<String, SocketAddr>,
    /// Whether the host routes to the nodes' addresses. Otherwise all traffic but that to the API
    /// server goes through SSH.
    pub routable: bool,
}

impl Endpoints {
    /// Returns the nodes' own addresses.
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

    /// Returns the ports that the plan publishes on the loopback. Servers without a published port
    /// keep their direct address.
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

/// A log of one process of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The process that wrote it: `init`, `agent`, `control-plane`…
    pub name: String,
    /// The log's text.
    pub content: Vec<u8>,
}

impl ClusterPlan {
    /// Returns the host's address in the nodes' range: the first one.
    pub fn gateway(&self) -> Ipv4Addr {
        self.node_cidr
            .hosts()
            .next()
            .unwrap_or(self.node_cidr.network())
    }

    /// Returns the IPv6 address that belongs to an IPv4 address of the nodes' range, with the length
    /// of their prefix.
    pub fn ipv6_of(&self, ip: Ipv4Addr) -> Option<Ipv6Net> {
        let range = self.ipv6?;
        let number = u32::from(ip).saturating_sub(self.node_cidr.network().into());
        let ip = Ipv6Addr::from(u128::from(range.network()) + u128::from(number));
        Ipv6Net::new(ip, range.prefix_len()).ok()
    }

    /// Returns a node's directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    /// Returns the source of `/etc/rkube` in a node: configuration, PKI, SSH keys.
    pub fn node_etc(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("etc")
    }

    /// Returns the node that runs the control plane; by default the first one.
    pub fn control_plane(&self) -> Option<&NodePlan> {
        self.nodes
            .iter()
            .find(|n| n.control_plane)
            .or(self.nodes.first())
    }

    /// Returns the plan of one node.
    pub fn node(&self, name: &str) -> Option<&NodePlan> {
        self.nodes.iter().find(|n| n.name == name)
    }
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Its init process runs.
    Running,
    /// Its processes are there, but get no CPU time.
    Paused,
    /// It exists on disk and does not run.
    Stopped,
    /// It was never created, or was removed by other means than rkube.
    Missing,
}

/// A requirement that the host does not meet.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The problem and how to fix it; its code becomes the exit code.
    pub failure: Failure,
    /// Whether the cluster cannot work until it is fixed.
    pub fatal: bool,
}

/// A way to create and manage nodes, such as containers or virtual machines.
pub trait Driver: Send + Sync {
    /// Returns the driver's name on the command line.
    fn name(&self) -> &'static str;

    /// Returns the requirements of `plan` that the host does not meet, before anything is created.
    /// Has a timeout for every external service that it asks.
    fn preflight<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Vec<Problem>>;

    /// Whether any node of the cluster runs.
    fn is_up<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, bool>;

    /// Returns an address range for the nodes of a new cluster. It overlaps neither with networks
    /// of the host nor with `taken`.
    fn free_range<'a>(&'a self, taken: &'a [Ipv4Net]) -> BoxFuture<'a, Result<Ipv4Net, Failure>>;

    /// Whether the API and SSH servers are published on the host's loopback, at ports that the plan
    /// must contain.
    fn publishes(&self) -> bool {
        false
    }

    /// Returns the addresses at which the host reaches the cluster.
    fn endpoints(&self, plan: &ClusterPlan) -> Endpoints {
        Endpoints::direct(plan)
    }

    /// Returns DNS servers that nodes can reach; `None` if those of the host can be used.
    fn resolvers(&self) -> Option<Vec<IpAddr>> {
        None
    }

    /// Returns the program that nodes run, a file on the host. [`ClusterPlan::binary`] is a copy of
    /// it.
    fn binary(&self) -> BoxFuture<'_, Result<PathBuf, Failure>> {
        Box::pin(async { crate::binary::own_path() })
    }

    /// Starts `nodes` and everything that they depend on. Running nodes are left unchanged.
    fn start<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Stops `nodes` gracefully and keeps their state. After the last one, only files of the
    /// cluster remain.
    fn stop<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Removes `nodes` with their state. Missing nodes are ignored.
    fn remove<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Returns the state of every node, in the order of the plan.
    fn states<'a>(
        &'a self,
        plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<NodeState>, Failure>>;

    /// Returns the logs of the node's own processes, also if it is stopped; empty if there are
    /// none.
    fn logs<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        node: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>>;

    /// Returns the logs of the driver's own processes, if it has any.
    fn driver_logs<'a>(
        &'a self,
        _plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Freezes all processes of running `nodes`, or lets them go on. Their memory is kept. Nodes
    /// that are in that state already, and those that do not run, are left unchanged. [`stop`],
    /// [`remove`] and [`destroy`] also work on paused nodes.
    ///
    /// [`stop`]: Driver::stop
    /// [`remove`]: Driver::remove
    /// [`destroy`]: Driver::destroy
    fn set_paused<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
        paused: bool,
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Why nodes cannot see folders of the host; `None` if they can.
    fn no_mounts(&self) -> Option<&'static str> {
        None
    }

    /// Mounts a folder of the host in a running node, or takes it away. Returns false, without a
    /// change, if the driver can do so only when the node starts.
    fn mount<'a>(
        &'a self,
        _plan: &'a ClusterPlan,
        _node: &'a str,
        _mount: &'a HostMount,
        _present: bool,
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async { Ok(false) })
    }

    /// Removes everything of the cluster but the profile's directory, whatever state it is in. Does
    /// not depend on any process of the cluster.
    fn destroy<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Reads logs from `folder`. `files` holds names and paths below it; missing files are skipped.
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
            // Not every node runs every service.
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
mod tests;
