//! The status of images, sandboxes and containers, and events.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::{ContainerSpec, SandboxSpec};

/// An image on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageStatus {
    /// ID of the image: the digest of its configuration, `sha256:…`.
    pub id: String,
    /// Names with a tag, fully qualified.
    pub repo_tags: Vec<String>,
    /// Names with the manifest's digest, fully qualified.
    pub repo_digests: Vec<String>,
    /// Size of the configuration and compressed layers, in bytes.
    pub size: u64,
    /// The image's user, as in its configuration; empty for root.
    pub user: String,
    /// The user ID, if `user` is numeric or empty.
    pub uid: Option<u32>,
    /// The user name, if `user` is neither numeric nor empty.
    pub username: Option<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Ports that the image declares, such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// Time of the image's creation, from its configuration.
    pub created: Option<Timestamp>,
}

/// An image that a command gave a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenImage {
    /// ID of the image.
    pub id: String,
    /// Names with a tag or a digest, fully qualified.
    pub names: Vec<String>,
    /// Chain IDs of the layers, bottom first.
    pub layers: Vec<String>,
}

/// The state of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// Containers can be created in it.
    Ready,
    /// It was stopped, or its namespaces did not survive a restart of the node.
    NotReady,
}

/// The status of a sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// ID of the sandbox.
    pub id: String,
    /// Whether containers can be created in it.
    pub state: SandboxState,
    /// File that pins its network namespace; `None` if it shares the node's.
    pub netns_path: Option<PathBuf>,
    /// PID of the `pause` process, if the containers share a PID namespace.
    pub pid: Option<i32>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// The specification.
    pub spec: SandboxSpec,
}

/// The state of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Created, but not started.
    Created,
    /// The first process is running.
    Running,
    /// The first process has exited or failed to start.
    Exited,
}

impl ContainerState {
    /// Returns the state in lower case, for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

/// The status of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStatus {
    /// ID of the container.
    pub id: String,
    /// ID of its sandbox.
    pub sandbox_id: String,
    /// The specification (name, attempt, labels, annotations, log path …).
    pub spec: ContainerSpec,
    /// ID of its image.
    pub image_id: String,
    /// Name of its image with the manifest's digest, or the image's ID if it has none.
    pub image_ref: String,
    /// State.
    pub state: ContainerState,
    /// PID of the first process in the node's PID namespace, while it runs.
    pub pid: Option<i32>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Start time of the first process.
    pub started_at: Option<Timestamp>,
    /// Exit time of the first process.
    pub finished_at: Option<Timestamp>,
    /// Exit code, or 128 plus the number of the signal that killed the process.
    pub exit_code: Option<i32>,
    /// The signal that killed the process.
    pub signal: Option<i32>,
    /// Reason of the exit: `Completed`, `Error`, `OOMKilled`, `StartError`, or `Unknown` if the
    /// exit was not observed. Empty before the exit.
    pub reason: String,
    /// Description of the failure, for `StartError` and `Unknown`.
    pub message: String,
    /// User of the first process.
    pub user: ContainerUser,
}

/// User and groups of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups, including the primary one.
    pub groups: Vec<u32>,
}

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// The container was created.
    Created,
    /// The container's first process was started.
    Started,
    /// The first process exited. `container_status` returns the exit code.
    Exited,
    /// The container was removed.
    Removed,
    /// The sandbox's `pause` process exited, so its shared PID namespace is lost. `container_id` is
    /// empty.
    SandboxDied,
}

/// A change of a container's or sandbox's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// ID of the container.
    pub container_id: String,
    /// ID of the sandbox.
    pub sandbox_id: String,
    /// The type of the event.
    pub kind: ContainerEventKind,
}

/// The result of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code, or 128 plus the number of the signal that killed the process.
    pub exit_code: i32,
}

/// The disk usage of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes used by the directory.
    pub used_bytes: u64,
    /// Inodes used by the directory.
    pub used_inodes: u64,
}

/// The file system of the images or of the containers' writable layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsInfo {
    /// The directory whose file system is described.
    pub path: PathBuf,
    /// Size of the file system in bytes.
    pub capacity_bytes: u64,
    /// Bytes available to unprivileged users.
    pub available_bytes: u64,
    /// Bytes used in the whole file system.
    pub used_bytes: u64,
    /// Total number of inodes.
    pub inodes: u64,
    /// Number of free inodes.
    pub inodes_free: u64,
}
