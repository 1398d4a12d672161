//! Profiles: the descriptions of clusters.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use rkube_config::families::{Ipv6Ranges, NODE_POD_PREFIX};
use rkube_config::registries::Registries;
use rkube_config::{
    ClusterConfig, KubeletOptions, NodeAddress, NodeConfig, StoreConfig, Taint, ports,
};
use rkube_drivers::{ClusterPlan, HostMount, MachineOptions, NodePlan, PortMapping};
use rkube_failure::Failure;
use rkube_failure::{Kind, Source, command};
use serde::{Deserialize, Serialize};

use crate::files::{Home, io_failure, make_private_dir, write_durable};
use crate::image_cache::{ImageCache, image_cache_listens, with_cache};

mod addresses;

/// The version of the format of `profile.yaml` that this binary writes.
const FORMAT: u32 = 1;
/// Maximum number of pods per node, the kubelet's default.
const MAX_PODS: u32 = 110;

/// The description of a cluster, as stored in `profile.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Version of the format of this file.
    pub format: u32,
    /// The profile's, the cluster's and the kubeconfig context's name.
    pub name: String,
    /// The driver that creates the nodes.
    pub driver: String,
    /// The time of creation, RFC 3339.
    pub created: String,
    /// Address range of the nodes.
    pub node_cidr: Ipv4Net,
    /// Address range of pods; each node gets a subnet of it.
    pub pod_cidr: Ipv4Net,
    /// Address range of services.
    pub service_cidr: Ipv4Net,
    /// The ranges of IPv6; without it, the cluster has IPv4 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Ranges>,
    /// Suffix of service names.
    pub dns_domain: String,
    /// Registries reached over plain HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insecure_registries: Vec<String>,
    /// Mirrors, certificates, credentials and proxies.
    #[serde(default, skip_serializing_if = "Registries::is_default")]
    pub registries: Registries,
    /// The cache that nodes pull through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_cache: Option<ImageCache>,
    /// The API server's port on the host's loopback, if the driver publishes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_port: Option<u16>,
    /// Additional ports of the first node that are published on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Ports of this machine that a process of its own leads to nodes and services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<crate::ports::PortForward>,
    /// Directories of the host that all nodes see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<HostMount>,
    /// Whether nodes and the kubeconfig context are named as kind names them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kind: bool,
    /// Whether the cluster assigns no addresses to services of type LoadBalancer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_load_balancer: bool,
    /// The etcd that stores the cluster's objects; the embedded store if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreConfig>,
    /// Options of virtual-machine nodes.
    #[serde(default, skip_serializing_if = "MachineOptions::is_default")]
    pub machine: MachineOptions,
    /// Options of the nodes' agents.
    #[serde(default, skip_serializing_if = "KubeletOptions::is_default")]
    pub kubelet: KubeletOptions,
    /// The snapshot that is staged on the nodes and restored at their next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// Further names and addresses in the API server's certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_names: Vec<String>,
    /// The nodes; the first runs the control plane.
    pub nodes: Vec<Node>,
}

/// A node of a profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub ip: Ipv4Addr,
    /// Address range of the node's pods.
    pub pod_cidr: Ipv4Net,
    /// Whether the control plane runs on this node.
    #[serde(default)]
    pub control_plane: bool,
    /// CPU limit in millicores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The SSH server's port on the host's loopback, if the driver publishes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_port: Option<u16>,
    /// Labels that the node gets when it registers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints that the node gets when it registers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Directories of the host that this node sees, besides those that all nodes see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<HostMount>,
    /// Ports that are published on the host, of a node that is not the first one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Whether `rkube node stop` stopped the node, so that `rkube start` does not start it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Whether the node was stopped, or not there, while others may have got images.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind: bool,
}

/// The properties that distinguish a node of a new cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// CPU limit in millicores.
    pub cpu_millis: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// Labels that the node gets when it registers.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node gets when it registers.
    pub taints: Vec<Taint>,
    /// Directories of the host that this node sees.
    pub mounts: Vec<HostMount>,
    /// Ports of this node to publish on the host.
    pub ports: Vec<PortMapping>,
}

/// The values of a new profile.
pub(crate) struct NewProfile<'a> {
    /// The profile's name.
    pub name: &'a str,
    /// The driver's name.
    pub driver: &'a str,
    /// The nodes; the first one runs the control plane.
    pub nodes: &'a [NodeSpec],
    /// Address range of the nodes.
    pub node_cidr: Ipv4Net,
    /// Address range of pods.
    pub pod_cidr: Ipv4Net,
    /// Address range of services.
    pub service_cidr: Ipv4Net,
    /// The ranges of IPv6, if the cluster has it.
    pub ipv6: Option<Ipv6Ranges>,
    /// Suffix of service names.
    pub dns_domain: &'a str,
    /// Registries reached over plain HTTP.
    pub insecure_registries: &'a [String],
    /// Ports of the first node to publish on the host.
    pub ports: &'a [PortMapping],
    /// Directories of the host that all nodes see.
    pub mounts: &'a [HostMount],
    /// Whether nodes and the context are named as kind names them.
    pub kind: bool,
    /// The etcd for the cluster's objects, if any.
    pub store: Option<StoreConfig>,
    /// Options of virtual-machine nodes.
    pub machine: &'a MachineOptions,
}

/// Fails unless `name` can name a profile: a DNS label (RFC 1123) short enough for the suffix
/// `-m99`. The name becomes part of node names, of a kubeconfig context and of file names.
pub fn check_name(name: &str) -> Result<(), Failure> {
    if name.len() <= 40 && rkube_api::names::dns1123_label(name).is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Source::Program,
        Kind::Usage,
        format!("'{name}' is not a valid profile name"),
    )
    .advise(
        "use at most 40 lower-case letters, digits and '-', with a letter or digit at both ends",
    ))
}

impl Node {
    /// Whether the node is what `spec` says. `ports` are those of the first node.
    pub(crate) fn is_as(&self, spec: &NodeSpec, ports: &[PortMapping]) -> bool {
        let own = if self.control_plane {
            ports
        } else {
            &self.ports
        };
        self.cpu_millis == spec.cpu_millis
            && self.memory_bytes == spec.memory_bytes
            && self.labels == spec.labels
            && self.taints == spec.taints
            && self.mounts == spec.mounts
            && spec.ports.iter().all(|port| own.contains(port))
    }
}

impl Profile {
    /// Creates a profile with its nodes, in memory.
    pub(crate) fn new(what: &NewProfile<'_>) -> Result<Self, Failure> {
        check_name(what.name)?;
        let mut profile = Self {
            format: FORMAT,
            name: what.name.to_owned(),
            driver: what.driver.to_owned(),
            created: jiff::Timestamp::now()
                .round(jiff::Unit::Second)
                .unwrap_or_default()
                .to_string(),
            node_cidr: what.node_cidr,
            pod_cidr: what.pod_cidr,
            service_cidr: what.service_cidr,
            ipv6: what.ipv6,
            dns_domain: what.dns_domain.to_owned(),
            insecure_registries: what.insecure_registries.to_vec(),
            registries: Registries::default(),
            image_cache: None,
            api_port: None,
            ports: what.ports.to_vec(),
            forwards: Vec::new(),
            mounts: what.mounts.to_vec(),
            kind: what.kind,
            no_load_balancer: false,
            store: what.store.clone(),
            machine: what.machine.clone(),
            kubelet: KubeletOptions::default(),
            restore: None,
            api_names: Vec::new(),
            nodes: Vec::new(),
        };
        for spec in what.nodes {
            profile.push_spec(spec)?;
        }
        Ok(profile)
    }

    /// Locks a profile and reads it then, as the last command that held the lock left it.
    pub(crate) fn lock(home: &Home, name: &str) -> Result<(crate::files::Lock, Self), Failure> {
        // A lock of a profile that does not exist would leave a file.
        Self::load(home, name)?;
        let lock = home.lock(name)?;
        Ok((lock, Self::load(home, name)?))
    }

    /// Adds a node that is as `spec` says.
    pub(crate) fn push_spec(&mut self, spec: &NodeSpec) -> Result<&Node, Failure> {
        self.push_node(spec.cpu_millis, spec.memory_bytes)?;
        let last = self.nodes.len() - 1;
        let node = &mut self.nodes[last];
        node.labels.clone_from(&spec.labels);
        node.taints.clone_from(&spec.taints);
        node.mounts.clone_from(&spec.mounts);
        match last {
            0 => self.ports.extend(&spec.ports),
            _ => node.ports.clone_from(&spec.ports),
        }
        Ok(&self.nodes[last])
    }

    /// Adds a node with the first unused name, address and pod range.
    fn push_node(
        &mut self,
        cpu_millis: Option<u64>,
        memory_bytes: Option<u64>,
    ) -> Result<&Node, Failure> {
        let full = |what: &str, range: Ipv4Net| {
            Failure::new(
                Source::LocalNetwork,
                Kind::Config,
                format!("{range} has no free {what} for another node"),
            )
        };
        let name = (1..)
            .map(|i| match (self.kind, i) {
                (false, 1) => self.name.clone(),
                (false, _) => format!("{}-m{i:02}", self.name),
                (true, 1) => format!("{}-control-plane", self.name),
                (true, 2) => format!("{}-worker", self.name),
                (true, _) => format!("{}-worker{}", self.name, i - 1),
            })
            .find(|n| self.nodes.iter().all(|node| node.name != *n))
            .unwrap_or_else(|| self.name.clone());
        // The first address is the host's; the upper half is for load balancers.
        let ip = self
            .node_addresses()
            .find(|ip| self.nodes.iter().all(|node| node.ip != *ip))
            .ok_or_else(|| full("address", self.node_cidr))?;
        let pod_cidr = self
            .pod_cidr
            .subnets(24.max(self.pod_cidr.prefix_len()))
            .ok()
            .and_then(|mut ranges| {
                ranges.find(|r| self.nodes.iter().all(|node| node.pod_cidr != *r))
            })
            .ok_or_else(|| full("/24", self.pod_cidr))?;
        if let Some(ipv6) = &self.ipv6
            && ipv6.node_pods(pod_cidr, self.pod_cidr).is_none()
        {
            return Err(Failure::new(
                Source::LocalNetwork,
                Kind::Config,
                format!(
                    "{} has no free /{NODE_POD_PREFIX} for another node",
                    ipv6.pod_cidr
                ),
            ));
        }
        self.nodes.push(Node {
            control_plane: self.nodes.is_empty(),
            name,
            ip,
            pod_cidr,
            cpu_millis,
            memory_bytes,
            ssh_port: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            mounts: Vec::new(),
            ports: Vec::new(),
            stopped: false,
            behind: false,
        });
        Ok(&self.nodes[self.nodes.len() - 1])
    }

    fn node_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        self.halves().0.hosts().skip(1)
    }

    /// Returns the addresses for services of type LoadBalancer: the upper half of the nodes' range.
    pub fn load_balancer_range(&self) -> Ipv4Net {
        self.halves().1
    }

    fn halves(&self) -> (Ipv4Net, Ipv4Net) {
        let mut halves = self
            .node_cidr
            .subnets(self.node_cidr.prefix_len() + 1)
            .into_iter()
            .flatten();
        match (halves.next(), halves.next()) {
            (Some(low), Some(high)) => (low, high),
            _ => (self.node_cidr, self.node_cidr),
        }
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// A missing profile is `Kind::NotFound`, a damaged one `Kind::Config`.
    pub fn load(home: &Home, name: &str) -> Result<Self, Failure> {
        check_name(name)?;
        match Self::try_load(home, name)? {
            Some(profile) => Ok(profile),
            None => Err(Failure::new(
                Source::Guest,
                Kind::NotFound,
                format!("the cluster '{name}' does not exist"),
            )
            .advise(format!("create it with: {}", command("start", name)))),
        }
    }

    /// Reads a profile; returns `None` if it does not exist.
    pub(crate) fn try_load(home: &Home, name: &str) -> Result<Option<Self>, Failure> {
        let path = home.profile_dir(name).join("profile.yaml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_failure("read", &path, &e)),
        };
        let damaged = |why: String| {
            Failure::new(
                Source::Program,
                Kind::Config,
                format!("{} is damaged: {why}", path.display()),
            )
            .advise(format!(
                "repair the file, or remove the cluster with: {}",
                command("delete", name)
            ))
        };
        let profile: Self = serde_yaml::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if profile.format != FORMAT {
            return Err(damaged(format!(
                "its format is {}, this rkube reads {FORMAT}",
                profile.format
            )));
        }
        if profile.name != name {
            return Err(damaged(format!(
                "it describes the profile '{}'",
                profile.name
            )));
        }
        if !profile.nodes.first().is_some_and(|n| n.control_plane) {
            return Err(damaged(
                "its first node does not run the control plane".into(),
            ));
        }
        Ok(Some(profile))
    }

    /// Writes the profile.
    pub(crate) fn save(&self, home: &Home) -> Result<(), Failure> {
        let dir = home.profile_dir(&self.name);
        make_private_dir(&dir)?;
        let text = serde_yaml::to_string(self).map_err(|e| {
            Failure::new(
                Source::Program,
                Kind::Error,
                format!("cannot write the profile: {e}"),
            )
        })?;
        write_durable(&dir.join("profile.yaml"), text.as_bytes(), 0o600)
    }

    /// Returns the name of the kubeconfig's context, cluster and user.
    pub fn context(&self) -> String {
        match self.kind {
            true => format!("kind-{}", self.name),
            false => self.name.clone(),
        }
    }

    /// Returns all ports that are published on the host, besides those of rkube's own servers.
    pub(crate) fn all_ports(&self) -> impl Iterator<Item = &PortMapping> {
        let of_nodes = self.nodes.iter().flat_map(|node| &node.ports);
        self.ports.iter().chain(of_nodes)
    }

    /// Returns the directories of the host that a node sees.
    pub fn mounts_of(&self, node: &Node) -> Vec<HostMount> {
        self.mounts.iter().chain(&node.mounts).cloned().collect()
    }

    /// Returns the node that runs the control plane.
    pub fn control_plane(&self) -> &Node {
        &self.nodes[0]
    }

    /// Returns a node by name; the control-plane node if `name` is `None`. A short name is the
    /// part after the profile's name, `m02` of `demo-m02`; `m01` is the control-plane node.
    pub fn node(&self, name: Option<&str>) -> Result<&Node, Failure> {
        let Some(name) = name else {
            return Ok(self.control_plane());
        };
        let is_named = |node: &&Node| node.name == name;
        let is_short = |node: &&Node| {
            let rest = node.name.strip_prefix(self.name.as_str());
            rest.and_then(|rest| rest.strip_prefix('-')) == Some(name)
        };
        let mut found = self.nodes.iter().find(is_named);
        found = found.or_else(|| self.nodes.iter().find(is_short));
        if found.is_none() && name == "m01" {
            found = Some(self.control_plane());
        }
        found.ok_or_else(|| {
            let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
            Failure::new(
                Source::Guest,
                Kind::NotFound,
                format!("the cluster '{}' has no node '{name}'", self.name),
            )
            .advise(format!("its nodes are: {}", names.join(", ")))
        })
    }

    /// Returns the port of the cache of images if nodes reach it on the loopback of the host.
    fn image_cache_on_loopback(&self) -> Option<u16> {
        let elsewhere = image_cache_listens(self).is_some();
        let cache = self.image_cache.as_ref().filter(|_| !elsewhere);
        cache.map(|cache| cache.port)
    }

    /// Returns the plan of the cluster for its driver.
    pub(crate) fn plan(&self, home: &Home) -> ClusterPlan {
        let dir = home.profile_dir(&self.name);
        ClusterPlan {
            name: self.name.clone(),
            run_dir: home.run_dir(&self.name),
            owner_uid: home.owner_uid(),
            binary: binary(&dir),
            dir,
            node_cidr: self.node_cidr,
            ipv6: self.ipv6.map(|ipv6| ipv6.node_cidr),
            loopback_ports: self
                .insecure_registries
                .iter()
                .filter_map(|registry| loopback_port(registry))
                .chain(self.store_loopback_ports())
                .chain(self.registries.loopback_ports())
                .chain(self.image_cache_on_loopback())
                .chain(crate::registry::loopback_port(home, &self.driver))
                .collect(),
            api_port: self.api_port,
            ports: self.ports.clone(),
            machine: self.machine.clone(),
            nodes: self
                .nodes
                .iter()
                .map(|n| NodePlan {
                    name: n.name.clone(),
                    ip: n.ip,
                    cpu_millis: n.cpu_millis,
                    memory_bytes: n.memory_bytes,
                    control_plane: n.control_plane,
                    ssh_port: n.ssh_port,
                    mounts: self.mounts_of(n),
                    ports: n.ports.clone(),
                })
                .collect(),
        }
    }

    /// Returns the configuration of one node.
    pub(crate) fn node_config(&self, node: &Node, upstream_dns: &[IpAddr]) -> NodeConfig {
        NodeConfig {
            cluster: ClusterConfig {
                name: self.name.clone(),
                dns_domain: self.dns_domain.clone(),
                service_cidr: self.service_cidr,
                dns_ip: self
                    .service_cidr
                    .hosts()
                    .nth(9)
                    .unwrap_or(self.service_cidr.network()),
                pod_cidr: self.pod_cidr,
                node_cidr: self.node_cidr,
                ipv6: self.ipv6,
                load_balancers: (!self.no_load_balancer).then(|| self.load_balancer_range()),
                api_server_ip: self.control_plane().ip,
                api_server_port: ports::API_SERVER,
                nodes: self
                    .nodes
                    .iter()
                    .map(|n| NodeAddress {
                        name: n.name.clone(),
                        ip: n.ip,
                        labels: n.labels.clone(),
                        taints: n.taints.clone(),
                    })
                    .collect(),
            },
            name: node.name.clone(),
            ip: node.ip,
            pod_cidr: node.pod_cidr,
            control_plane: node.control_plane,
            provider_id: format!("rkube://{}/{}/{}", self.driver, self.name, node.name),
            cpu_millis: node.cpu_millis,
            memory_bytes: node.memory_bytes,
            upstream_dns: upstream_dns.to_vec(),
            insecure_registries: self.insecure_registries.clone(),
            registries: with_cache(self),
            host_ip: self.node_cidr.hosts().next(),
            max_pods: MAX_PODS,
            kubelet: self.kubelet.clone(),
            store: self.store.clone().filter(|_| node.control_plane),
            restore: self.restore.clone(),
        }
    }

    /// Returns the ports of etcd endpoints on the host's loopback.
    fn store_loopback_ports(&self) -> impl Iterator<Item = u16> {
        let endpoints = self.store.iter().flat_map(|store| &store.endpoints);
        endpoints.filter_map(|url| {
            let (host, port) = rkube_store::etcd::host_and_port(url).ok()?;
            loopback_port(&format!("{host}:{port}"))
        })
    }
}

/// Returns the port if `registry` is on the host's loopback, as `127.0.0.1:5000` is.
fn loopback_port(registry: &str) -> Option<u16> {
    let (host, port) = registry.rsplit_once(':').unwrap_or((registry, "80"));
    let loopback = host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
    port.parse().ok().filter(|_| loopback)
}

/// Returns the path of the profile's copy of the binary. With a copy, replacing the installed
/// binary does not affect a running cluster.
fn binary(dir: &std::path::Path) -> PathBuf {
    dir.join("bin/rkube")
}

#[cfg(test)]
mod tests;
