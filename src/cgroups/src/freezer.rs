//! Freezing of the processes of a group.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::group::descendants;
use crate::hierarchy::Hierarchy;
use crate::types::{Context, Error, Result};

/// Interval at which the state of a group is read until it is frozen.
const FREEZE_POLL_PERIOD: Duration = Duration::from_millis(5);

/// The file that freezes a group, and what is written to it.
pub(crate) struct Freezer {
    file: PathBuf,
    words: [&'static str; 2],
    /// The file that tells whether all processes are frozen, and how.
    state: (PathBuf, &'static str),
}

impl Freezer {
    /// Returns the freezer of the groups at `path`: that of version 1 if the host has it, because
    /// only one of both can thaw what it froze. Returns `None` if there is no group.
    pub(crate) fn of(hierarchies: &[Hierarchy], path: &Path) -> Option<Self> {
        let version_1 = hierarchies.iter().find(|h| h.has("freezer"));
        let hierarchy = version_1.or_else(|| hierarchies.iter().find(|h| h.unified))?;
        Self::at(&hierarchy.mount_point.join(path), hierarchy.unified)
    }

    /// Returns the freezer of a group by its directory. Returns `None` if there is no group.
    pub(crate) fn at(group: &Path, unified: bool) -> Option<Self> {
        let (file, words, state) = match unified {
            true => ("cgroup.freeze", ["0", "1"], ("cgroup.events", "frozen 1")),
            false => (
                "freezer.state",
                ["THAWED", "FROZEN"],
                ("freezer.state", "FROZEN"),
            ),
        };
        let freezer = Self {
            file: group.join(file),
            words,
            state: (group.join(state.0), state.1),
        };
        freezer.file.exists().then_some(freezer)
    }

    /// Returns whether the group is frozen, or is about to be.
    pub(crate) fn is_on(&self) -> bool {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        // Version 1 says FREEZING until all processes are frozen.
        !text.is_empty() && text.trim() != self.words[0]
    }

    /// Thaws the groups below a group that were frozen by themselves.
    pub(crate) fn thaw_below(group: &Path, unified: bool) -> Result<()> {
        // Parents come first: a group that only its parent froze is not on any more.
        for group in descendants(group).iter().skip(1) {
            // A group that is gone has no processes.
            if let Some(freezer) = Self::at(group, unified).filter(Self::is_on) {
                freezer.set(false, Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// Freezes or thaws. Waits at most `limit` until all processes are frozen.
    pub(crate) fn set(&self, on: bool, limit: Duration) -> Result<()> {
        let word = self.words[usize::from(on)];
        let shown = self.file.display();
        fs::write(&self.file, word).context(|| format!("cannot write {shown}"))?;
        if !on {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        loop {
            let text = fs::read_to_string(&self.state.0)
                .context(|| format!("cannot read {}", self.state.0.display()))?;
            if text.lines().any(|line| line.trim() == self.state.1) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::NotFrozen(shown.to_string()));
            }
            std::thread::sleep(FREEZE_POLL_PERIOD);
        }
    }
}
