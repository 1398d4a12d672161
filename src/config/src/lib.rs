//! The configuration of clusters and nodes.
//!
//! [`NodeConfig`] is the document that every node boots from, whatever its driver. The
//! crate `cluster` writes it, the driver places it at [`paths::NODE_CONFIG`] inside the
//! node, and init, control plane and node agent read it. The paths, ports and roles
//! that those processes share are defined here only.

pub mod capabilities;
pub mod families;
pub mod machine;
pub mod registries;
pub mod roles;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The Kubernetes version whose behaviour rkube follows.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// The version that nodes and the API server report; begins with the Kubernetes version.
pub const VERSION: &str = concat!("v1.36.0+rkube", env!("CARGO_PKG_VERSION"));

/// Returns [`VERSION`] as an owned string.
pub fn version() -> String {
    VERSION.to_owned()
}

/// Name of a file in image archives that rkube sends to nodes. It lists the layers that
/// the archive leaves out because the node has them: names as in the manifest, and sizes.
pub const OMITTED_LAYERS: &str = "rkube-omitted-layers.json";

/// Name of the machine's registry in nodes and pods.
pub const REGISTRY_NAME: &str = "registry.rkube.internal";

/// Names by which nodes and pods reach the machine that the nodes run on, and the registry there.
pub const HOST_NAMES: [&str; 4] = [
    "host.rkube.internal",
    "host.docker.internal",
    "host.minikube.internal",
    REGISTRY_NAME,
];

/// Ports inside a node.
pub mod ports {
    /// HTTPS of the API server, on the control-plane node.
    pub const API_SERVER: u16 = 8443;
    /// HTTPS of the node agent (the kubelet API).
    pub const KUBELET: u16 = 10250;
    /// SSH, served by the node agent.
    pub const SSH: u16 = 22;
    /// First and last port of the NodePort range.
    pub const NODE_PORTS: (u16, u16) = (30000, 32767);
}

/// Paths inside a node, the same for every driver.
pub mod paths {
    /// The node's [`super::NodeConfig`], YAML, read-only to the node.
    pub const NODE_CONFIG: &str = "/etc/rkube/node.yaml";
    /// Certificates and keys of this node, read-only to the node.
    ///
    /// Every node has:
    /// - `ca.crt`
    /// - `agent.crt`, `agent.key`: `system:node:NAME` (client and serving)
    /// - `service-proxy.crt`, `.key`: `system:kube-proxy` (client)
    /// - `network-policy.crt`, `.key`: `rkube:network-policy` (client)
    ///
    /// A control-plane node also has:
    /// - `ca.key`
    /// - `apiserver.crt`, `.key` (serving)
    /// - `apiserver-kubelet-client.crt`, `.key`
    /// - `front-proxy-ca.crt`, `.key`, and `front-proxy-client.crt`, `.key`
    /// - `sa.key`, `sa.pub` for service-account tokens (PKCS#8 and SPKI PEM, ECDSA P-256)
    pub const PKI: &str = "/etc/rkube/pki";
    /// The API server's audit policy. Without it there is no audit log.
    pub const AUDIT_POLICY: &str = "/etc/rkube/audit-policy.yaml";
    /// The API server's audit log, one JSON event per line.
    pub const AUDIT_LOG: &str = "/var/log/rkube/audit/audit.log";
    /// `ssh_host_ed25519_key` (OpenSSH PEM) and `authorized_keys`.
    pub const SSH: &str = "/etc/rkube/ssh";
    /// The rkube binary, which all [`roles`](super::roles) run.
    pub const BINARY: &str = "/usr/local/bin/rkube";
    /// The manifests of the node's static pods.
    pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
    /// Where the manifests are kept if the node's root does not survive a stop.
    pub const KEPT_MANIFESTS: &str = "/var/lib/rkube/manifests";
    /// State that survives a stop. Always a real file system, never an overlay.
    pub const STATE: &str = "/var/lib/rkube";
    /// The embedded store's directory, on a control-plane node. The credentials of an
    /// external etcd are `etcd-ca.crt`, `etcd-client.crt` and `etcd-client.key` in
    /// [`PKI`], each optional.
    pub const STORE: &str = "/var/lib/rkube/store";
    /// Certificates of the node's identities that were renewed while it ran; see [`PKI`].
    pub const RENEWED: &str = "/var/lib/rkube/pki";
    /// Volumes that the built-in provisioner created on this node.
    pub const VOLUMES: &str = "/var/lib/rkube/volumes";
    /// Directory of the snapshot that is staged for the next boot; see `rkube_init::state`.
    pub const RESTORE: &str = "/var/lib/rkube/restore";
    /// The objects of a snapshot, which the control plane loads at its next start.
    pub const RESTORED_OBJECTS: &str = "/var/lib/rkube/restored-objects.gz";
    /// The port of the registry that the host serves to its clusters; empty or missing without one.
    pub const REGISTRY_PORT: &str = "/var/lib/rkube/registry-port";
    /// The kubelet's directory as plugins know it: their sockets and the node's.
    pub const KUBELET: &str = "/var/lib/kubelet";
    /// What plugins gave to pods, which a new agent takes over.
    pub const PLUGINS: &str = "/var/lib/rkube/plugins";
    /// The agent's pod directories (`<uid>/volumes/...`), as the kubelet's.
    pub const PODS: &str = "/var/lib/rkube/pods";
    /// The runtime's root: containers, snapshots, the image index of this node.
    pub const RUNTIME: &str = "/var/lib/rkube/runtime";
    /// Content-addressed image blobs and unpacked layers. A driver may share this
    /// directory between the nodes of a cluster.
    pub const IMAGES: &str = "/var/lib/rkube/images";
    /// Sockets and pid files, on a tmpfs.
    pub const RUN: &str = "/run/rkube";
    /// The namespaces whose containers are frozen, one a line. Lost when the node stops.
    pub const PAUSED_NAMESPACES: &str = "/run/rkube/paused-namespaces";
    /// The token of the ingress controller's account. The control plane writes it while the addon
    /// is enabled; init runs the controller as long as it is there.
    pub const INGRESS_TOKEN: &str = "/run/rkube/ingress-token";
    /// Logs of the node's services, one file per service: `<service>.log`.
    pub const LOGS: &str = "/var/log/rkube";
    /// Directories of the host tools mount besides `/usr`; links into it on most
    /// distributions.
    pub const USR_LINKS: [&str; 5] = ["bin", "sbin", "lib", "lib64", "lib32"];
    /// Container logs, `<namespace>_<pod>_<uid>/<container>/<restart>.log`.
    pub const POD_LOGS: &str = "/var/log/pods";
}

/// Settings that all nodes of a cluster share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterConfig {
    /// The profile's name; also the kubeconfig context.
    pub name: String,
    /// DNS domain of the cluster, `cluster.local` by default.
    pub dns_domain: String,
    /// Address range of services.
    pub service_cidr: Ipv4Net,
    /// The cluster DNS service's address, the tenth of `service_cidr`.
    pub dns_ip: Ipv4Addr,
    /// Address range of pods; each node gets a part of it.
    pub pod_cidr: Ipv4Net,
    /// Address range of the nodes.
    pub node_cidr: Ipv4Net,
    /// The API server's address as nodes reach it.
    pub api_server_ip: Ipv4Addr,
    /// The API server's port as nodes reach it.
    pub api_server_port: u16,
    /// Addresses of services of type LoadBalancer, a part of `node_cidr`. Without it, the cluster
    /// assigns none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancers: Option<Ipv4Net>,
    /// The ranges of IPv6; without it, the cluster has IPv4 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<families::Ipv6Ranges>,
    /// Names and addresses of every node, for `/etc/hosts`.
    #[serde(default)]
    pub nodes: Vec<NodeAddress>,
}

/// The name and the address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeAddress {
    /// The node's name.
    pub name: String,
    /// The node's internal address.
    pub ip: Ipv4Addr,
    /// Labels that the node gets when it registers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints that the node gets when it registers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// The configuration of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// The cluster that the node belongs to.
    pub cluster: ClusterConfig,
    /// The node's name, also its host name.
    pub name: String,
    /// The node's internal address.
    pub ip: Ipv4Addr,
    /// The node's own pod range.
    pub pod_cidr: Ipv4Net,
    /// Whether the node runs the control plane.
    pub control_plane: bool,
    /// `node.kubernetes.io/...` provider string, `rkube://<driver>/<profile>/<node>`.
    pub provider_id: String,
    /// CPU limit in millicores; without it, all CPUs of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Memory limit in bytes; without it, all memory of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// DNS servers for names outside the cluster.
    #[serde(default)]
    pub upstream_dns: Vec<IpAddr>,
    /// Registries reached over plain HTTP (`host[:port]`).
    #[serde(default)]
    pub insecure_registries: Vec<String>,
    /// Mirrors, certificates, credentials and proxies for registries.
    #[serde(default, skip_serializing_if = "registries::Registries::is_default")]
    pub registries: registries::Registries,
    /// The address at which the node reaches the host, for registries on the host's
    /// loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
    /// Maximum number of pods on the node.
    pub max_pods: u32,
    /// Options of the node agent that are the kubelet's.
    #[serde(default, skip_serializing_if = "KubeletOptions::is_default")]
    pub kubelet: KubeletOptions,
    /// The external store of API objects; without it, the embedded store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreConfig>,
    /// The staged snapshot to restore at the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
}

/// Options of the kubelet that the node agent has, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KubeletOptions {
    /// Unsafe sysctls that pods may set (`--allowed-unsafe-sysctls`): names, and prefixes that end
    /// with `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Maximum number of processes of a pod (`--pod-max-pids`); not limited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_pids_limit: Option<i64>,
    /// Whether containers without a seccomp profile run without one (`--seccomp-default=false`).
    /// By default they have the runtime's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_seccomp_default: bool,
    /// Reservations, and the options of the managers of CPUs, memory and topology.
    #[serde(skip_serializing_if = "ResourceOptions::is_default")]
    pub resources: ResourceOptions,
}

/// Options of the kubelet about the resources of a node, as they are written on its command line.
/// What is `None` has its default. `rkube-resource-managers` reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceOptions {
    /// Values by option, without the leading dashes: `cpu-manager-policy`.
    pub values: std::collections::BTreeMap<String, String>,
}

impl ResourceOptions {
    /// The options.
    pub const NAMES: [&str; 13] = [
        "cpu-manager-policy",
        "cpu-manager-policy-options",
        "cpu-manager-reconcile-period",
        "enforce-node-allocatable",
        "kube-reserved",
        "memory-manager-policy",
        "memory-swap.swap-behavior",
        "reserved-cpus",
        "reserved-memory",
        "system-reserved",
        "topology-manager-policy",
        "topology-manager-policy-options",
        "topology-manager-scope",
    ];

    /// Returns whether all options have their defaults.
    pub fn is_default(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the value of an option; `""` if it has its default.
    pub fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// Returns the options with changes; an empty value takes an option back to its default.
    pub fn changed(&self, changes: &Self) -> Self {
        let mut values = self.values.clone();
        values.extend(changes.values.clone());
        values.retain(|_, value| !value.is_empty());
        Self { values }
    }
}

impl KubeletOptions {
    /// Returns whether all options have their defaults.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// An external etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreConfig {
    /// Endpoints as the host resolves them, `https://host:2379`.
    pub endpoints: Vec<String>,
    /// Prefix of the cluster's keys.
    pub root: String,
}

/// An error of [`NodeConfig::read`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not exist or cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not a valid configuration.
    #[error("{path} is not a valid configuration: {reason}")]
    Parse {
        /// The file.
        path: String,
        /// The position and the reason.
        reason: String,
    },
}

impl NodeConfig {
    /// Reads the configuration from `path`, [`paths::NODE_CONFIG`] inside a node.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.display().to_string(),
            source,
        })?;
        serde_yaml::from_str(&text).map_err(|e| ConfigError::Parse {
            path: path.display().to_string(),
            reason: e.to_string(),
        })
    }

    /// Returns the document as it is written to a node.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("a node configuration is plain data")
    }
}
