//! Specifications of sandboxes, containers and commands, and the runtime's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_cgroups::Resources;
use rkube_config::registries::Registries;
use rkube_config::{NodeConfig, paths};
use serde::{Deserialize, Serialize};

use crate::users::IdRange;

/// Configuration of the runtime: directories and access to registries.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Directory of this node's sandboxes, containers and image index. Must be on a file system
    /// that supports overlay upper directories.
    pub root: PathBuf,
    /// Directory of blobs and unpacked layers. Several nodes may share it.
    pub images: PathBuf,
    /// Directory of sockets, pinned namespaces and sandboxes' `/dev/shm`. Must be on a tmpfs, so
    /// that its content does not survive the kernel's namespaces.
    pub run: PathBuf,
    /// Path of the rkube binary, executed as `shim` and `pause`.
    pub binary: PathBuf,
    /// Registries (`host[:port]` or a range of addresses) that are accessed over plain HTTP, or HTTPS
    /// with any certificate, in addition to loopback hosts.
    pub insecure_registries: Vec<String>,
    /// Address for insecure registries with a loopback name (`localhost`, `127.0.0.1`), which
    /// listen on the host's loopback and not on the node's.
    pub loopback_gateway: Option<std::net::IpAddr>,
    /// Mirrors, certificates, credentials and proxies.
    pub registries: Registries,
    /// File with the port of the host's own registry, which is at `loopback_gateway` under the names
    /// `localhost` and `registry.rkube.internal`. It is read with each use.
    pub registry_port: Option<PathBuf>,
    /// Default parent cgroup of containers, relative to this node's root cgroup.
    pub cgroup_parent: String,
}

impl RuntimeConfig {
    /// Returns a configuration with these paths and defaults otherwise.
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
            registries: Registries::default(),
            registry_port: None,
            cgroup_parent: "/kubepods".into(),
        }
    }

    /// Takes the access to registries over from the configuration of a node.
    pub fn with_registries_of(mut self, node: &NodeConfig) -> Self {
        self.insecure_registries
            .clone_from(&node.insecure_registries);
        self.registries.clone_from(&node.registries);
        self.loopback_gateway = node.host_ip.map(Into::into);
        self.registry_port = Some(paths::REGISTRY_PORT.into());
        self
    }
}

/// Credentials for a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// Host or URL of the registry, optionally with a port and a path prefix (`ghcr.io/team`). An
    /// empty string matches every registry.
    pub registry: String,
    /// User name for Basic authentication or token requests.
    pub username: String,
    /// Password or access token of `username`.
    pub password: String,
    /// OAuth2 refresh token, used instead of user name and password.
    pub identity_token: String,
    /// Bearer token, sent to the registry unchanged.
    pub registry_token: String,
}

impl RegistryAuth {
    /// Returns the credentials as the header [`rkube_config::registries::AUTH_HEADER`] has them.
    pub(crate) fn encode(&self) -> String {
        let parts = [
            &self.username,
            &self.password,
            &self.identity_token,
            &self.registry_token,
        ];
        parts.map(|part| STANDARD.encode(part)).join(".")
    }

    /// Reads what [`Self::encode`] has written. The credentials are for every registry.
    pub fn decode(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let bytes = STANDARD.decode(part).ok()?;
            String::from_utf8(bytes).ok()
        });
        let auth = Self {
            registry: String::new(),
            username: parts.next()??,
            password: parts.next()??,
            identity_token: parts.next()??,
            registry_token: parts.next()??,
        };
        parts.next().is_none().then_some(auth)
    }
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keep secrets out of logs.
        f.debug_struct("RegistryAuth")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// The progress of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullProgress {
    /// The manifest has been fetched.
    Resolved {
        /// Digest of the manifest.
        digest: String,
        /// Number of layers.
        layers: usize,
        /// Total compressed size of the missing layers, in bytes.
        bytes: u64,
    },
    /// A part of a layer has been downloaded.
    Layer {
        /// Digest of the compressed layer.
        digest: String,
        /// Compressed bytes downloaded so far.
        done: u64,
        /// Compressed size of the layer, in bytes.
        total: u64,
    },
    /// The registry limits the rate of requests.
    Waiting {
        /// For how long, in words.
        text: String,
    },
    /// A layer has been unpacked, possibly by another process.
    Unpacked {
        /// Digest of the compressed layer.
        digest: String,
    },
}

/// The progress of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushProgress {
    /// The push begins.
    Begun {
        /// Number of layers.
        layers: usize,
    },
    /// The registry has a layer already.
    Present {
        /// Digest of the layer in the registry.
        digest: String,
    },
    /// The registry has taken a layer from another of its repositories.
    Mounted {
        /// Digest of the layer in the registry.
        digest: String,
        /// That repository.
        from: String,
    },
    /// A part of a layer has been sent.
    Layer {
        /// Digest of the layer in the registry.
        digest: String,
        /// Bytes sent so far.
        done: u64,
        /// Compressed size of the layer, in bytes.
        total: u64,
    },
    /// A layer has been sent in full, and the registry has stored it.
    Stored {
        /// Digest of the layer in the registry.
        digest: String,
        /// Compressed size of the layer, in bytes.
        size: u64,
    },
}

/// The result of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The name in the registry, `registry/repository:tag`.
    pub name: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Length of the manifest in bytes.
    pub size: u64,
    /// ID of the image in the registry.
    pub id: String,
    /// Whether that is the ID of the image on this node.
    pub same: bool,
}

/// Namespaces that a sandbox shares with the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostNamespaces {
    /// Share the node's network, and with it the node's host name.
    pub network: bool,
    /// Share the node's PID namespace.
    pub pid: bool,
    /// Share the node's System V IPC, POSIX message queues and `/dev/shm`.
    pub ipc: bool,
}

/// The specification of a sandbox: the namespaces shared by a pod's containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// ID of the sandbox: letters, digits, `-` and `_`. 64 random hexadecimal digits if absent.
    pub id: Option<String>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Number of earlier sandboxes of the pod.
    pub attempt: u32,
    /// Host name; the node's if empty or if the node's network is shared.
    pub hostname: String,
    /// Namespaces shared with the node.
    pub host: HostNamespaces,
    /// IDs of the node for the sandbox's own user namespace; the node's namespace if absent. No
    /// other namespace can then be the node's.
    pub users: Option<IdRange>,
    /// Whether all containers share a PID namespace (`shareProcessNamespace`). Its first process is
    /// `rkube pause`.
    pub share_pid: bool,
    /// Kernel parameters of the sandbox's network and IPC namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Parent cgroup of the containers' cgroups; the runtime's default if empty.
    pub cgroup_parent: String,
    /// Size of `/dev/shm` in bytes; 64 MiB if absent.
    pub shm_bytes: Option<u64>,
    /// Labels, stored and returned unchanged.
    pub labels: BTreeMap<String, String>,
    /// Annotations, stored and returned unchanged.
    pub annotations: BTreeMap<String, String>,
}

/// The propagation of later mounts between node and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// No propagation (`None`).
    #[default]
    Private,
    /// Mounts on the node appear in the container (`HostToContainer`).
    HostToContainer,
    /// Also, mounts in the container appear on the node (`Bidirectional`).
    Bidirectional,
}

/// A bind mount of a file or directory of the node in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path on the node. Created as a directory if missing.
    pub host_path: PathBuf,
    /// Path in the container. Created if missing.
    pub container_path: PathBuf,
    /// Whether it is read-only in the container.
    pub read_only: bool,
    /// Whether mounts below a read-only mount are read-only, too.
    pub recursive_read_only: bool,
    /// Whether mounts below `host_path` are left out.
    pub non_recursive: bool,
    /// Propagation of later mounts.
    pub propagation: MountPropagation,
}

impl Mount {
    /// Returns a read-write bind mount of `host_path` at `container_path`.
    pub fn bind(host_path: impl Into<PathBuf>, container_path: impl Into<PathBuf>) -> Self {
        Self {
            host_path: host_path.into(),
            container_path: container_path.into(),
            ..Self::default()
        }
    }

    /// Makes the mount read-only.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// A read-only mount of an image's content in the container (an `image` volume).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMount {
    /// The image, which must be on the node.
    pub image: String,
    /// Path in the container. Created if missing.
    pub container_path: PathBuf,
    /// File or directory within the image; the image's root if empty.
    pub sub_path: String,
}

/// A tmpfs in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsMount {
    /// Path in the container. Created if missing.
    pub container_path: PathBuf,
    /// Maximum size in bytes; the kernel's default (half of the memory) if absent.
    pub size_bytes: Option<u64>,
    /// Mode of the root directory, such as `0o1777`; the kernel's default if absent.
    pub mode: Option<u32>,
}

/// A device of the node that the container may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path on the node. A directory includes all devices in it.
    pub host_path: PathBuf,
    /// Path in the container; `host_path` if empty.
    pub container_path: PathBuf,
    /// Allowed access: any of `r`, `w` and `m` (`mknod`). All if empty.
    pub permissions: String,
    /// Whether it is a block device, its major and its minor number. Then `host_path` need not
    /// exist.
    pub numbers: Option<(bool, u32, u32)>,
    /// Mode in the container; that of the node's file if absent.
    pub mode: Option<u32>,
    /// Owner in the container; that of the node's file if absent.
    pub uid: Option<u32>,
    /// Group in the container; that of the node's file if absent.
    pub gid: Option<u32>,
}

/// A program that runs while a container is created, as in the OCI runtime specification. It gets
/// the container's state on its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// When it runs: `prestart`, `createRuntime`, `createContainer` or `startContainer`.
    pub stage: String,
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its arguments, from the program's name on.
    pub args: Vec<String>,
    /// Its variables, `NAME=value`.
    pub env: Vec<String>,
    /// Its time limit in seconds.
    pub timeout: Option<i64>,
}

/// The source of a container's seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// The runtime's default profile, an allow list.
    RuntimeDefault,
    /// No filter.
    #[default]
    Unconfined,
    /// A JSON file on the node, in the format of Docker or OCI.
    Localhost(PathBuf),
}

/// Privileges of a container's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Whether the container is privileged: all capabilities and devices, no seccomp filter and no
    /// masked paths.
    pub privileged: bool,
    /// User ID. Takes precedence over `run_as_user_name` and the image's user.
    pub run_as_user: Option<u32>,
    /// User name or ID with an optional `:group`, resolved in the image. Takes precedence over the
    /// image's user.
    pub run_as_user_name: Option<String>,
    /// Group ID; the user's primary group if absent.
    pub run_as_group: Option<u32>,
    /// Supplementary groups, in addition to those in the image's `/etc/group`.
    pub supplemental_groups: Vec<u32>,
    /// Whether to ignore the groups in the image's `/etc/group` (`supplementalGroupsPolicy:
    /// Strict`).
    pub strict_supplemental_groups: bool,
    /// Capabilities added to the default set, with or without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities removed from the default set, with or without `CAP_`; `ALL` for all.
    pub drop_capabilities: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only_rootfs: bool,
    /// Whether to set `no_new_privs`, so that set-user-ID bits and file capabilities have no
    /// effect.
    pub no_new_privileges: bool,
    /// The seccomp profile.
    pub seccomp: SeccompProfile,
    /// Paths masked in the container; the default list if absent.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only in the container; the default list if absent.
    pub readonly_paths: Option<Vec<String>>,
}

/// The PID namespace of a container's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// As specified by the sandbox: the node's, the shared one, or a new one.
    #[default]
    Sandbox,
    /// The namespace of the running container with this ID, the target of an ephemeral debug
    /// container.
    Container(String),
}

/// The specification of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The container's name in its pod.
    pub name: String,
    /// Number of earlier containers of that name in the pod.
    pub attempt: u32,
    /// The image, which must be on the node: a name, `name@digest` or an image ID.
    pub image: String,
    /// Entry point; the image's if absent. If present, the image's arguments are ignored.
    pub command: Option<Vec<String>>,
    /// Arguments. If this and `command` are absent, the image's arguments are used.
    pub args: Option<Vec<String>>,
    /// Environment variables, which override the image's.
    pub env: Vec<(String, String)>,
    /// Working directory; the image's if absent, otherwise `/`.
    pub working_dir: Option<String>,
    /// Bind mounts from the node (volumes, hosts, resolv.conf, termination log).
    pub mounts: Vec<Mount>,
    /// Images mounted as volumes.
    pub image_mounts: Vec<ImageMount>,
    /// Mounts of tmpfs.
    pub tmpfs: Vec<TmpfsMount>,
    /// Devices in addition to the default ones.
    pub devices: Vec<Device>,
    /// Programs that run while it is created.
    pub hooks: Vec<Hook>,
    /// Resource limits and weights.
    pub resources: Resources,
    /// The `oom_score_adj` of the process, -1000 to 1000. Raised to the lowest value that this
    /// process may grant.
    pub oom_score_adj: Option<i32>,
    /// Privileges.
    pub security: Security,
    /// The PID namespace.
    pub pid: PidMode,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Whether standard input is kept open for `attach`.
    pub stdin: bool,
    /// Whether the end of the first attached client's input closes standard input.
    pub stdin_once: bool,
    /// Path of the log file, in the CRI format; no log is written if absent. Its directory is
    /// created.
    pub log_path: Option<PathBuf>,
    /// Kernel parameters in addition to the sandbox's.
    pub sysctls: BTreeMap<String, String>,
    /// Signal that requests a graceful stop (`SIGTERM`, `15`). If absent, the image's signal or
    /// else SIGTERM.
    pub stop_signal: Option<String>,
    /// Labels, stored and returned unchanged.
    pub labels: BTreeMap<String, String>,
    /// Annotations, stored and returned unchanged.
    pub annotations: BTreeMap<String, String>,
}

/// A command to run in a running container. It has the container's user, environment, capabilities,
/// seccomp filter and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether the command gets a terminal. Then there is no separate standard error.
    pub tty: bool,
    /// Whether to open standard input; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Environment variables, which override the container's.
    pub env: Vec<(String, String)>,
    /// Working directory; the container's if absent.
    pub working_dir: Option<String>,
}
