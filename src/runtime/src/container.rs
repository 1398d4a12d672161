//! A container's record on disk and its state in memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use rkube_fsutil::write_atomic;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::client::Handle;
use crate::error::{Context, Result, RuntimeError};
use crate::shim::ShimConfig;
use crate::shim::frame::Exit;
use crate::spec::ContainerSpec;
use crate::status::{ContainerState, ContainerStatus, ContainerUser};

/// Exit code of a container whose command could not be run, as in containerd.
pub const START_FAILED: i32 = 128;
/// Exit code of a container whose exit was not observed, as if it had been killed.
pub const EXIT_CODE_UNOBSERVED: i32 = 128 + libc::SIGKILL;

/// The immutable part of a container's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// ID of the container.
    pub id: String,
    /// ID of its sandbox.
    pub sandbox_id: String,
    /// The specification.
    pub spec: ContainerSpec,
    /// ID of the image.
    pub image_id: String,
    /// Name of the image with its digest, or its ID.
    pub image_ref: String,
    /// Layers of the root file system, bottom first.
    pub layers: Vec<PathBuf>,
    /// Image volumes: the mount point and the layers mounted there.
    #[serde(default)]
    pub image_mounts: Vec<(PathBuf, Vec<PathBuf>)>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// User of the first process.
    pub user: ContainerUser,
    /// Cgroup of the container.
    pub cgroup: String,
    /// Signal that requests a graceful stop.
    pub stop_signal: i32,
}

/// The exit of a container on disk, written by the shim or by the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit.
    #[serde(flatten)]
    pub exit: Exit,
    /// Reason set by the agent; empty if the shim wrote the record.
    #[serde(default)]
    pub reason: String,
    /// Description of a failure; empty if there is none.
    #[serde(default)]
    pub message: String,
}

/// The start of a container, on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Started {
    pid: i32,
    at: Timestamp,
}

/// The mutable part of a container's record.
pub struct Live {
    /// The state.
    pub state: ContainerState,
    /// PID of the first process while it runs.
    pub pid: Option<i32>,
    /// Time of its start.
    pub started_at: Option<Timestamp>,
    /// The exit, once it is known.
    pub exit: Option<ExitRecord>,
    /// Connection to the shim while the container runs.
    pub shim: Option<Handle>,
}

/// A container of the runtime.
pub struct Container {
    /// The immutable part.
    pub meta: Meta,
    /// Directory of the container's files.
    pub dir: PathBuf,
    /// Path of the shim's socket.
    pub socket: PathBuf,
    /// The mutable part.
    pub live: Mutex<Live>,
    /// The state as a watch channel, for waiting tasks.
    pub changed: watch::Sender<ContainerState>,
    /// Serializes operations of several steps: start and remove.
    pub step: tokio::sync::Mutex<()>,
}

impl Container {
    /// Returns a container in the state `Created`.
    pub fn new(meta: Meta, dir: PathBuf, socket: PathBuf) -> Self {
        let (changed, _) = watch::channel(ContainerState::Created);
        Self {
            meta,
            dir,
            socket,
            live: Mutex::new(Live {
                state: ContainerState::Created,
                pid: None,
                started_at: None,
                exit: None,
                shim: None,
            }),
            changed,
            step: tokio::sync::Mutex::new(()),
        }
    }

    /// Loads a container from `dir`. Returns `None` if its creation was never completed, and fails
    /// if its files cannot be read.
    pub fn load(dir: &Path, socket: impl FnOnce(&str) -> PathBuf) -> io::Result<Option<Self>> {
        let Some(meta) = read_json::<Meta>(&dir.join("container.json"))? else {
            return Ok(None);
        };
        let socket = socket(&meta.id);
        let container = Self::new(meta, dir.to_path_buf(), socket);
        {
            let mut live = container.live.lock();
            if let Some(started) = read_json::<Started>(&dir.join("started.json"))? {
                live.pid = Some(started.pid);
                live.started_at = Some(started.at);
            }
            live.exit = read_json(&container.exit_file())?;
            if live.exit.is_some() {
                live.state = ContainerState::Exited;
                live.pid = None;
                container.changed.send_replace(ContainerState::Exited);
            }
        }
        Ok(Some(container))
    }

    /// Returns whether its shim was ever started.
    pub fn was_started(&self) -> bool {
        self.live.lock().started_at.is_some() || self.socket.exists()
    }

    /// Writes the immutable part to disk.
    pub fn save(&self) -> Result<()> {
        write_json(&self.dir.join("container.json"), &self.meta)
    }

    /// Reads the exit from disk. Returns `None` if it is missing, corrupt or cannot be read.
    pub fn read_exit(&self) -> Option<ExitRecord> {
        read_json(&self.exit_file()).ok().flatten()
    }

    /// Returns the path of the file that the shim writes the exit to.
    pub fn exit_file(&self) -> PathBuf {
        self.dir.join("exit.json")
    }

    /// Returns the path of the shim's configuration.
    pub fn shim_file(&self) -> PathBuf {
        self.dir.join("shim.json")
    }

    /// Reads the shim's configuration. Fails if it is missing or corrupt.
    pub fn shim_config(&self) -> Result<ShimConfig> {
        let path = self.shim_file();
        read_json(&path)
            .context(|| format!("cannot read {}", path.display()))?
            .ok_or_else(|| {
                RuntimeError::Invalid(format!("{} is missing or corrupt", path.display()))
            })
    }

    /// Records the start of a container that may have exited already.
    pub fn set_began(&self, at: Timestamp) {
        self.live.lock().started_at = Some(at);
    }

    /// Records that the container runs.
    pub fn set_running(&self, pid: i32, at: Timestamp, shim: Handle) {
        let mut live = self.live.lock();
        live.state = ContainerState::Running;
        live.pid = Some(pid);
        live.started_at = Some(at);
        live.shim = Some(shim);
        drop(live);
        self.changed.send_replace(ContainerState::Running);
    }

    /// Writes the start to disk.
    pub fn save_started(&self, pid: i32, at: Timestamp) -> Result<()> {
        write_json(&self.dir.join("started.json"), &Started { pid, at })
    }

    /// Records the exit. Calls `announce` before those who wait for the exit learn of it. Returns
    /// false if the container had already exited.
    pub fn set_exited(&self, record: ExitRecord, announce: impl FnOnce()) -> bool {
        let mut live = self.live.lock();
        if live.state == ContainerState::Exited {
            return false;
        }
        live.state = ContainerState::Exited;
        live.pid = None;
        live.shim = None;
        live.exit = Some(record);
        drop(live);
        announce();
        self.changed.send_replace(ContainerState::Exited);
        true
    }

    /// Returns the exit of a container whose shim did not report it. Reads it from disk; if it is
    /// missing, records a kill with the reason `Unknown`.
    pub fn unseen_end(&self) -> ExitRecord {
        if let Some(record) = self.read_exit() {
            return record;
        }
        let record = ExitRecord {
            exit: Exit {
                code: EXIT_CODE_UNOBSERVED,
                signal: Some(libc::SIGKILL),
                oom: false,
                at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0),
            },
            reason: "Unknown".into(),
            message: "The container's supervisor ended before the container did.".into(),
        };
        if let Err(e) = self.save_exit(&record) {
            tracing::warn!(container = self.meta.id, "{e}");
        }
        record
    }

    /// Writes an exit to disk.
    pub fn save_exit(&self, record: &ExitRecord) -> Result<()> {
        write_json(&self.exit_file(), record)
    }

    /// Returns the container's status.
    pub fn status(&self) -> ContainerStatus {
        let live = self.live.lock();
        let exit = live.exit.as_ref();
        let reason = exit.map_or(String::new(), |e| {
            if !e.reason.is_empty() {
                e.reason.clone()
            } else if e.exit.oom {
                "OOMKilled".into()
            } else if e.exit.code == 0 {
                "Completed".into()
            } else {
                "Error".into()
            }
        });
        let finished_at = exit.and_then(|e| Timestamp::from_nanosecond(i128::from(e.exit.at)).ok());
        // A short container may exit before its start is recorded here.
        let started_at = live
            .started_at
            .map(|at| finished_at.map_or(at, |end| at.min(end)));
        ContainerStatus {
            id: self.meta.id.clone(),
            sandbox_id: self.meta.sandbox_id.clone(),
            spec: self.meta.spec.clone(),
            image_id: self.meta.image_id.clone(),
            image_ref: self.meta.image_ref.clone(),
            state: live.state,
            pid: live.pid,
            created_at: self.meta.created_at,
            started_at,
            finished_at,
            exit_code: exit.map(|e| e.exit.code),
            signal: exit.and_then(|e| e.exit.signal),
            reason,
            message: exit.map_or(String::new(), |e| e.message.clone()),
            user: self.meta.user.clone(),
        }
    }

    /// Waits until the container has exited.
    pub async fn ended(&self) {
        let mut changed = self.changed.subscribe();
        // `self` holds the sender, so waiting cannot fail.
        let _ = changed
            .wait_for(|state| *state == ContainerState::Exited)
            .await;
    }
}

/// Reads a JSON file. Returns `None` if it is missing or malformed, and fails if it cannot be read.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a value as JSON, atomically.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| RuntimeError::Invalid(format!("cannot encode {}: {e}", path.display())))?;
    write_atomic(path, &bytes).context(|| format!("cannot write {}", path.display()))
}

/// Returns the number of a signal, given by name or number (`SIGTERM`, `TERM`, `15`, `RTMIN+3`).
pub fn signal_number(text: &str) -> Result<i32> {
    let unknown = || RuntimeError::Invalid(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // Real-time signals start at 34, because the C library reserves the lower ones.
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() {
            Some(0)
        } else {
            rest.strip_prefix('+').and_then(|n| n.parse().ok())
        };
        return offset
            .filter(|n: &i32| (0..=30).contains(n))
            .map(|n| 34 + n)
            .ok_or_else(unknown);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() {
            Some(0)
        } else {
            rest.strip_prefix('-').and_then(|n| n.parse().ok())
        };
        return offset
            .filter(|n: &i32| (0..=30).contains(n))
            .map(|n| 64 - n)
            .ok_or_else(unknown);
    }
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .map(|s| s as i32)
        .map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
        ] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99"] {
            assert!(signal_number(bad).is_err(), "{bad}");
        }
    }
}
