//! The processes of a cluster, recorded on disk so that a standby can take over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::Pid;
use rkube_fsutil::write_atomic_private;
use serde::{Deserialize, Serialize};

use super::sandbox;

/// A process, identified by its PID and start time, so that a reused PID does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pid: i32,
    start: u64,
}

impl ProcessId {
    /// Returns the identity of a running process; `None` if it does not exist.
    pub fn of(pid: Pid) -> Option<Self> {
        Some(Self {
            pid: pid.as_raw(),
            start: sandbox::start_time(pid)?,
        })
    }

    /// Whether the process still exists. Zombies do: their PID is not free yet.
    pub fn alive(&self) -> bool {
        sandbox::start_time(self.pid()) == Some(self.start)
    }

    /// Returns the PID.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.pid)
    }
}

/// The processes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The supervisor that serves the control socket.
    pub primary: Option<ProcessId>,
    /// The supervisor that takes over when the primary dies.
    pub standby: Option<ProcessId>,
    /// The nodes that should run, with their init processes.
    pub nodes: BTreeMap<String, Option<ProcessId>>,
}

impl State {
    fn path(run_dir: &Path) -> PathBuf {
        run_dir.join("state.json")
    }

    /// Reads the state; a missing file is an empty state.
    pub fn load(run_dir: &Path) -> anyhow::Result<Self> {
        let path = Self::path(run_dir);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Replaces the state file atomically.
    pub fn save(&self, run_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(run_dir);
        write_atomic_private(&path, &serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_a_round_trip_and_absence() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), State::default());
        let mut state = State {
            primary: ProcessId::of(Pid::this()),
            ..State::default()
        };
        state.nodes.insert("rkube".into(), None);
        state.save(dir.path()).unwrap();
        let back = State::load(dir.path()).unwrap();
        assert_eq!(back, state);
        assert!(back.primary.unwrap().alive());
    }

    #[test]
    fn damage_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(State::path(dir.path()), "{").unwrap();
        assert!(State::load(dir.path()).is_err());
    }
}
