//! What the runtime tells about images, sandboxes and containers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::{ContainerSpec, SandboxSpec};

/// An image on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageStatus {
    /// Digest of the image's configuration, `sha256:…`.
    pub id: String,
    /// Names with a tag, fully qualified.
    pub repo_tags: Vec<String>,
    /// Names with the manifest's digest, fully qualified.
    pub repo_digests: Vec<String>,
    /// Bytes of the stored blobs.
    pub size: u64,
    /// The image's user as written in it, empty for root.
    pub user: String,
    /// `user` when it is a number.
    pub uid: Option<u32>,
    /// `user`'s name when it is not a number.
    pub username: Option<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that the image says it listens on, `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// The image's time of creation, from its configuration.
    pub created: Option<Timestamp>,
}

/// Whether a sandbox's namespaces are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// Containers can be made in it.
    Ready,
    /// It is stopped, or did not survive a restart of the node.
    NotReady,
}

/// A sandbox as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Identity.
    pub id: String,
    /// Whether containers can be made in it.
    pub state: SandboxState,
    /// File that pins its network namespace; `None` if it is the node's.
    pub netns_path: Option<PathBuf>,
    /// The `pause` process, when containers share a PID namespace.
    pub pid: Option<i32>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// The specification.
    pub spec: SandboxSpec,
}

/// The state of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running,
    /// Its first process has ended, or never started.
    Exited,
}

impl ContainerState {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

/// A container as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStatus {
    /// Identity.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// The specification (name, attempt, labels, annotations, log path …).
    pub spec: ContainerSpec,
    /// The image's ID.
    pub image_id: String,
    /// The image's name with its manifest digest, or its ID when it has none.
    pub image_ref: String,
    /// State.
    pub state: ContainerState,
    /// The first process, in the node's PID namespace.
    pub pid: Option<i32>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Start time of its process.
    pub started_at: Option<Timestamp>,
    /// Exit time of its process.
    pub finished_at: Option<Timestamp>,
    /// Exit code; 128 + the signal for a killed one.
    pub exit_code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, or `Unknown` for one
    /// whose end nobody saw; empty before the end.
    pub reason: String,
    /// Description of the failure, for `StartError` and `Unknown`.
    pub message: String,
    /// The user that its first process runs as: uid, gid, further groups.
    pub user: ContainerUser,
}

/// Numbers of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// The container was made.
    Created,
    /// Its process began.
    Started,
    /// Its process ended; `container_status` has the exit code.
    Exited,
    /// The container is gone.
    Removed,
    /// The sandbox's `pause` process ended, so its shared PID namespace is gone;
    /// `container_id` is empty.
    SandboxDied,
}

/// A change of a container's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container.
    pub container_id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// The type of an event.
    pub kind: ContainerEventKind,
}

/// A command's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + the signal for a killed one.
    pub exit_code: i32,
}

/// Use of a file system by some directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes used by the directory.
    pub used_bytes: u64,
    /// Inodes used by the directory.
    pub used_inodes: u64,
}

/// The file system that images, or containers' writable layers, live on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsInfo {
    /// The directory.
    pub path: PathBuf,
    /// Size of the file system in bytes.
    pub capacity_bytes: u64,
    /// Bytes left to an unprivileged user.
    pub available_bytes: u64,
    /// Bytes used, of the whole file system.
    pub used_bytes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes left.
    pub inodes_free: u64,
}
