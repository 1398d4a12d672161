//! A shim's configuration and streams.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rkube_fsutil::write_atomic;
use serde::{Deserialize, Serialize};

use super::frame::Exit;
use super::plan::Plan;
use crate::device_filter::DeviceRule;

/// Time that a shim waits for the last processes of its container. The agent retries
/// afterwards.
pub(super) const CGROUP_TIMEOUT: Duration = Duration::from_millis(500);

/// A shim's configuration, read from a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container.
    pub id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// Directory of the launcher's state; the agent empties it.
    pub state: PathBuf,
    /// The socket to serve.
    pub socket: PathBuf,
    /// File that the container's exit is written to.
    pub exit_file: PathBuf,
    /// The container's cgroup, removed at its end.
    pub cgroup: String,
    /// Whether the container's processes die with its first one by themselves.
    pub own_pid_namespace: bool,
    /// Whether there is a terminal.
    pub tty: bool,
    /// Whether standard input stays open for clients.
    pub stdin: bool,
    /// Whether the first client's end of input is the container's.
    pub stdin_once: bool,
    /// The log file.
    pub log_path: Option<PathBuf>,
    /// The devices that it may use besides the default ones; none for all.
    pub devices: Option<Vec<DeviceRule>>,
    /// The container's process.
    pub plan: Plan,
}

/// The agent's side of a container's streams.
pub(super) struct Streams {
    /// Towards the container; the terminal when there is one.
    pub(super) stdin: Option<OwnedFd>,
    /// From the container; the terminal when there is one.
    pub(super) stdout: Option<OwnedFd>,
    /// From the container.
    pub(super) stderr: Option<OwnedFd>,
}

/// Writes the container's exit to its file.
pub(super) fn write_exit(config: &ShimConfig, exit: &Exit) {
    if let Ok(bytes) = serde_json::to_vec(exit) {
        // Without it the agent reports an unknown exit. The error cannot be reported.
        let _ = write_atomic(&config.exit_file, &bytes);
    }
}
