//! Decides which plugins to register and to unregister.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// First and longest delay before a registration is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));

/// What tells a socket from its successor at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Number of the file.
    pub inode: u64,
    /// Time of its last change in nanoseconds: numbers are used again.
    pub changed: i128,
}

/// The sockets of the directory.
pub type Sockets = BTreeMap<PathBuf, Identity>;

/// What a plugin said that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Type of the plugin.
    pub kind: String,
    /// Name of the resource or of the driver.
    pub name: String,
    /// Socket of its service.
    pub endpoint: PathBuf,
}

/// What is known of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// A registration is in progress.
    Registering {
        /// The socket.
        identity: Identity,
        /// Failed attempts before.
        failures: u32,
    },
    /// The last registration failed.
    Failed {
        /// The socket.
        identity: Identity,
        /// Failed attempts.
        failures: u32,
        /// When to try again.
        due: Instant,
    },
    /// The plugin is registered.
    Registered {
        /// The socket.
        identity: Identity,
        /// The plugin.
        plugin: Registered,
    },
}

impl Known {
    /// Returns what is known after a failure.
    pub fn failed(identity: Identity, failures: u32, now: Instant) -> Self {
        let delay = RETRY
            .0
            .saturating_mul(1 << failures.saturating_sub(1).min(10));
        Self::Failed {
            identity,
            failures,
            due: now + delay.min(RETRY.1),
        }
    }

    /// Returns when the registration is to be tried again.
    pub fn due(&self) -> Option<Instant> {
        match self {
            Self::Failed { due, .. } => Some(*due),
            _ => None,
        }
    }

    /// Returns the number of failed attempts.
    pub fn failures(&self) -> u32 {
        match self {
            Self::Registering { failures, .. } | Self::Failed { failures, .. } => *failures,
            Self::Registered { .. } => 0,
        }
    }
}

/// What to do about a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Register its plugin.
    Register(PathBuf),
    /// Unregister its plugin.
    Unregister(PathBuf),
    /// Forget it; a registration in progress is undone when it ends.
    Forget(PathBuf),
}

/// Returns what to do for the sockets that were found: what is gone or replaced first.
pub fn plan(found: &Sockets, known: &BTreeMap<PathBuf, Known>, now: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut register = Vec::new();
    for (socket, state) in known {
        let (Known::Registering { identity, .. }
        | Known::Failed { identity, .. }
        | Known::Registered { identity, .. }) = state;
        let is_there = found.get(socket) == Some(identity);
        match state {
            Known::Failed { due, .. } if is_there && *due <= now => {
                register.push(Action::Register(socket.clone()));
            }
            _ if is_there => {}
            Known::Registered { .. } => actions.push(Action::Unregister(socket.clone())),
            // The attempt ends first: one at a time.
            Known::Registering { .. } if found.contains_key(socket) => continue,
            _ => actions.push(Action::Forget(socket.clone())),
        }
        if !is_there && found.contains_key(socket) {
            register.push(Action::Register(socket.clone()));
        }
    }
    let new = found.keys().filter(|socket| !known.contains_key(*socket));
    register.extend(new.map(|socket| Action::Register(socket.clone())));
    actions.extend(register);
    actions
}
