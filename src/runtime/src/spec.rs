//! What a sandbox, a container or a command is asked to be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rkube_cgroups::Resources;
use serde::{Deserialize, Serialize};

/// The runtime's directories and access to registries.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// State of this node's sandboxes, containers and image names. A real file
    /// system: overlay's upper directories live here.
    pub root: PathBuf,
    /// Blobs and unpacked layers; several nodes' processes may share it.
    pub images: PathBuf,
    /// Sockets, namespace pins and sandbox `/dev/shm`, on a tmpfs: what must not
    /// outlive the node's kernel namespaces.
    pub run: PathBuf,
    /// The rkube binary, run as `shim` and `pause`.
    pub binary: PathBuf,
    /// Registries (`host[:port]`) spoken to over plain HTTP, as loopback hosts
    /// always are.
    pub insecure_registries: Vec<String>,
    /// Where declared insecure registries with a loopback name (`localhost`,
    /// `127.0.0.1`) are reached: they listen on the host's loopback, not the node's.
    pub loopback_gateway: Option<std::net::IpAddr>,
    /// PEM bundles trusted for registries besides the node's own roots.
    pub extra_roots: Vec<Vec<u8>>,
    /// Cgroup (relative to this node's root cgroup) of sandboxes and containers
    /// that name no parent of their own.
    pub cgroup_parent: String,
}

impl RuntimeConfig {
    /// The places of a node: `root`, `images`, `run`, `binary`, and defaults otherwise.
    pub fn new(
        root: impl Into<PathBuf>,
        images: impl Into<PathBuf>,
        run: impl Into<PathBuf>,
        binary: impl Into<PathBuf>,
    ) -> Self {
        Self {
            root: root.into(),
            images: images.into(),
            run: run.into(),
            binary: binary.into(),
            insecure_registries: Vec::new(),
            loopback_gateway: None,
            extra_roots: Vec::new(),
            cgroup_parent: "/kubepods".into(),
        }
    }
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// Host, `host:port`, or a URL of which only that counts; a path prefix
    /// narrows it (`ghcr.io/team`). Empty matches every registry.
    pub registry: String,
    /// User name for Basic or token requests.
    pub username: String,
    /// Password or access token belonging to `username`.
    pub password: String,
    /// An OAuth2 refresh token, used instead of user and password.
    pub identity_token: String,
    /// A bearer token, sent to the registry as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets stay out of logs.
        f.debug_struct("RegistryAuth")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A step of a pull, for a progress display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullProgress {
    /// The manifest is known.
    Resolved {
        /// The manifest's digest.
        digest: String,
        /// Number of layers.
        layers: usize,
        /// Compressed bytes in all, of what is missing here.
        bytes: u64,
    },
    /// Bytes of a layer have arrived.
    Layer {
        /// The layer's (compressed) digest.
        digest: String,
        /// Compressed bytes so far.
        done: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// A layer is unpacked.
    Unpacked {
        /// The layer's (compressed) digest.
        digest: String,
    },
}

/// Namespaces that a sandbox shares with the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostNamespaces {
    /// The node's network (and with it the node's host name).
    pub network: bool,
    /// The node's process tree.
    pub pid: bool,
    /// The node's System V IPC, POSIX queues and `/dev/shm`.
    pub ipc: bool,
}

/// A pod's sandbox: the namespaces that its containers share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Identity; 64 random hex digits when absent.
    pub id: Option<String>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Number of earlier sandboxes of the pod.
    pub attempt: u32,
    /// Host name; the node's when the network is the node's.
    pub hostname: String,
    /// Namespaces of the node's to use.
    pub host: HostNamespaces,
    /// Whether all containers share one PID namespace (`shareProcessNamespace`),
    /// whose first process is `rkube pause`.
    pub share_pid: bool,
    /// Kernel parameters of the sandbox's network and IPC namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup that the containers' cgroups are made in; the runtime's default
    /// when empty.
    pub cgroup_parent: String,
    /// Size of `/dev/shm` in bytes; 64 MiB when absent.
    pub shm_bytes: Option<u64>,
    /// Labels, kept and returned.
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept and returned.
    pub annotations: BTreeMap<String, String>,
}

/// Propagation of mounts made later on either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Not at all (`None`).
    #[default]
    Private,
    /// The node's mounts appear in the container (`HostToContainer`).
    HostToContainer,
    /// And the container's on the node (`Bidirectional`).
    Bidirectional,
}

/// A file or directory of the node, seen in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// On the node; must exist.
    pub host_path: PathBuf,
    /// In the container; made when missing.
    pub container_path: PathBuf,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// Whether mounts below a read-only one are read-only too.
    pub recursive_read_only: bool,
    /// Whether mounts below `host_path` come along.
    pub non_recursive: bool,
    /// Propagation of later mounts.
    pub propagation: MountPropagation,
}

impl Mount {
    /// A read-write bind of `host_path` at `container_path`.
    pub fn bind(host_path: impl Into<PathBuf>, container_path: impl Into<PathBuf>) -> Self {
        Self {
            host_path: host_path.into(),
            container_path: container_path.into(),
            ..Self::default()
        }
    }

    /// The same, read-only.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// An image's content, seen in the container read-only (`image` volumes).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMount {
    /// The image, which must be on the node.
    pub image: String,
    /// In the container; made when missing.
    pub container_path: PathBuf,
    /// A directory or file within the image; its root when empty.
    pub sub_path: String,
}

/// A memory file system in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsMount {
    /// In the container; made when missing.
    pub container_path: PathBuf,
    /// Limit in bytes; the kernel's default (half of memory) when absent.
    pub size_bytes: Option<u64>,
    /// Permissions, such as `0o1777`; the kernel's default when absent.
    pub mode: Option<u32>,
}

/// A device node of the node's, seen in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// On the node; a directory stands for all devices in it.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Source of a container's seccomp filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// The runtime's default allow list.
    RuntimeDefault,
    /// None.
    #[default]
    Unconfined,
    /// A JSON file in Docker's or OCI's form on the node.
    Localhost(PathBuf),
}

/// Privileges of a container's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Everything: all capabilities and devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// User number; before `run_as_user_name`, before the image's.
    pub run_as_user: Option<u32>,
    /// User name or number with optional `:group`, resolved in the image.
    pub run_as_user_name: Option<String>,
    /// Group number; the user's own when absent.
    pub run_as_group: Option<u32>,
    /// Further groups, added to those of the image's `/etc/group`.
    pub supplemental_groups: Vec<u32>,
    /// Leave out the groups of the image's `/etc/group`
    /// (`supplementalGroupsPolicy: Strict`).
    pub strict_supplemental_groups: bool,
    /// Capabilities added to the default set, without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set; `ALL` for all.
    pub drop_capabilities: Vec<String>,
    /// Whether `/` is read-only.
    pub read_only_rootfs: bool,
    /// Whether programs gain nothing from set-user-ID bits and file capabilities.
    pub no_new_privileges: bool,
    /// The seccomp filter.
    pub seccomp: SeccompProfile,
    /// Paths hidden from the container; the default list when absent.
    pub masked_paths: Option<Vec<String>>,
    /// Paths read-only in the container; the default list when absent.
    pub readonly_paths: Option<Vec<String>>,
}

/// Which PID namespace a container's processes are in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// As the sandbox says: the node's, the shared one, or the container's own.
    #[default]
    Sandbox,
    /// That of another container (ephemeral debug containers' target).
    Container(String),
}

/// One container of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The container's name in its pod.
    pub name: String,
    /// Number of earlier attempts.
    pub attempt: u32,
    /// The image: a name, `name@digest` or an image ID; must be on the node.
    pub image: String,
    /// Entry point; the image's when absent (and then its arguments too).
    pub command: Option<Vec<String>>,
    /// Arguments; the image's when both are absent.
    pub args: Option<Vec<String>>,
    /// Environment, after the image's.
    pub env: Vec<(String, String)>,
    /// Working directory; the image's, else `/`.
    pub working_dir: Option<String>,
    /// Binds from the node (volumes, hosts, resolv.conf, termination log).
    pub mounts: Vec<Mount>,
    /// Images mounted as volumes.
    pub image_mounts: Vec<ImageMount>,
    /// Memory file systems.
    pub tmpfs: Vec<TmpfsMount>,
    /// Devices besides the default ones.
    pub devices: Vec<Device>,
    /// Limits and weights.
    pub resources: Resources,
    /// The kernel's eagerness to kill it, −1000 to 1000; raised to what this
    /// process may grant when that is less.
    pub oom_score_adj: Option<i32>,
    /// Privileges.
    pub security: Security,
    /// The PID namespace.
    pub pid: PidMode,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// Whether standard input stays open for `attach`.
    pub stdin: bool,
    /// Whether the end of the first attached input closes it for good.
    pub stdin_once: bool,
    /// The log file, in the CRI's format; none is written when absent. Its
    /// directory is made.
    pub log_path: Option<PathBuf>,
    /// Kernel parameters besides the sandbox's.
    pub sysctls: BTreeMap<String, String>,
    /// The signal that asks it to stop (`SIGTERM`, `15`); the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Labels, kept and returned.
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept and returned.
    pub annotations: BTreeMap<String, String>,
}

/// A command run in a running container, as the container's user, with its
/// environment, capabilities, seccomp filter and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal; then there is no separate standard error.
    pub tty: bool,
    /// Whether standard input is wanted; `/dev/null` otherwise.
    pub stdin: bool,
    /// Variables after the container's.
    pub env: Vec<(String, String)>,
    /// Working directory; the container's when absent.
    pub working_dir: Option<String>,
}
