//! How a tunnel begins, for the command that has started its process and cannot see its messages.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};

use crate::files::{Home, write_private};
use crate::profile::Profile;

/// What became of a tunnel at its begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The number of its process.
    pub process: u32,
    /// Whether it is open.
    pub open: bool,
    /// Why it does not, or not entirely, work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

fn path_of(dir: &Path) -> PathBuf {
    dir.join("tunnel.json")
}

/// Returns what became of the last tunnel of a profile at its begin, if it is known yet.
pub fn state(home: &Home, profile: &Profile) -> Option<State> {
    let text = std::fs::read_to_string(path_of(&profile.plan(home).dir)).ok()?;
    serde_json::from_str(&text).ok()
}

/// Returns a failure in one line.
pub(super) fn told(failure: &Failure) -> String {
    let advice = failure.advice.as_ref();
    let advice = advice.map(|a| format!(" ({a})")).unwrap_or_default();
    format!("{}{advice}", failure.message)
}

/// Writes once how this process' tunnel begins.
pub(super) struct Beginning {
    path: PathBuf,
    told: AtomicBool,
}

impl Beginning {
    /// Does not write anything yet.
    pub fn new(home: &Home, profile: &Profile) -> Self {
        Self {
            path: path_of(&profile.plan(home).dir),
            told: AtomicBool::new(false),
        }
    }

    /// Tells that the tunnel is open and has served all services, or the first trouble. Later calls
    /// do nothing.
    pub fn tell(&self, open: bool, trouble: Option<&str>) -> Result<(), Failure> {
        if self.told.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let state = State {
            process: std::process::id(),
            open,
            trouble: trouble.map(str::to_owned),
        };
        let text = serde_json::to_string(&state)
            .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
        write_private(&self.path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let beginning = Beginning {
            path: path_of(dir.path()),
            told: AtomicBool::new(false),
        };
        beginning.tell(true, Some("no route")).unwrap();
        beginning.tell(true, None).unwrap();
        let text = std::fs::read_to_string(&beginning.path).unwrap();
        let expected = State {
            process: std::process::id(),
            open: true,
            trouble: Some("no route".into()),
        };
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), expected);
    }
}
