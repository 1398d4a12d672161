//! A shim's configuration and streams.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rkube_cgroups::devices::DeviceRule;
use rkube_fsutil::write_atomic;
use serde::{Deserialize, Serialize};

use super::frame::Exit;
use super::plan::Plan;
use crate::users::IdRange;

/// Timeout for the exit of a container's last processes. The agent retries afterwards.
pub(super) const CGROUP_TIMEOUT: Duration = Duration::from_millis(500);

/// A shim's configuration, read from a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShimConfig {
    /// ID of the container.
    pub id: String,
    /// Directory of `config.json`.
    pub bundle: PathBuf,
    /// Directory of the launcher's state.
    pub state: PathBuf,
    /// Path of the socket to serve.
    pub socket: PathBuf,
    /// File that the container's exit is written to.
    pub exit_file: PathBuf,
    /// Cgroup of the container, removed after its exit.
    pub cgroup: String,
    /// Whether the container has its own PID namespace, so that the kernel kills its processes when
    /// the first one exits.
    pub own_pid_namespace: bool,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Whether standard input is kept open for clients.
    pub stdin: bool,
    /// Whether the end of the first client's input closes the container's input.
    pub stdin_once: bool,
    /// Path of the log file, if one is written.
    pub log_path: Option<PathBuf>,
    /// Devices allowed in addition to the default ones; `None` for all devices.
    pub devices: Option<Vec<DeviceRule>>,
    /// The container's user namespace, if it is not the node's.
    #[serde(default)]
    pub users: Option<UserNamespace>,
    /// The container's process.
    pub plan: Plan,
}

/// A pinned user namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Its file.
    pub path: PathBuf,
    /// Its IDs on the node.
    pub range: IdRange,
}

/// The shim's ends of a container's streams.
pub(super) struct Streams {
    /// Input of the container, or its terminal.
    pub(super) stdin: Option<OwnedFd>,
    /// Output of the container, or its terminal.
    pub(super) stdout: Option<OwnedFd>,
    /// Error output of the container; absent with a terminal.
    pub(super) stderr: Option<OwnedFd>,
}

/// Writes the container's exit to its file.
pub(super) fn write_exit(config: &ShimConfig, exit: &Exit) {
    if let Ok(bytes) = serde_json::to_vec(exit) {
        // Without the file, the agent reports an unknown exit. The shim cannot report the error.
        let _ = write_atomic(&config.exit_file, &bytes);
    }
}
