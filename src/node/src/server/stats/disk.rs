//! Disk usage of containers, logs and volumes. Directories are walked at most once a minute.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rkube_runtime::{FsUsage, directory_usage};
use serde_json::{Value, json};

use crate::machine::{self, Space};

/// How long the size of a directory is kept: the kubelet's interval.
const KEPT: Duration = Duration::from_secs(60);

/// The sizes of directories that were asked for lately.
#[derive(Default)]
pub(crate) struct Sizes {
    known: Mutex<HashMap<PathBuf, (Instant, FsUsage)>>,
}

impl Sizes {
    /// Returns the size of a directory. Blocks the thread while it is walked.
    pub(super) fn of(&self, path: &Path) -> FsUsage {
        let now = Instant::now();
        let is_recent = |at: &Instant| now.duration_since(*at) < KEPT;
        let known = self.known.lock().get(path).cloned();
        if let Some((_, usage)) = known.filter(|(at, _)| is_recent(at)) {
            return usage;
        }
        let usage = directory_usage(path);
        let mut known = self.known.lock();
        known.retain(|_, (at, _)| is_recent(at));
        known.insert(path.to_owned(), (now, usage.clone()));
        usage
    }

    /// Returns the `FsStats` of a directory: its own size, and the space of its file system.
    pub(super) fn directory(&self, path: &Path, now: &str) -> Value {
        let usage = self.of(path);
        let space = machine::filesystem(path);
        within(space, &usage, now)
    }
}

/// Returns the `FsStats` of files that use a part of a file system.
pub(super) fn within(space: Option<Space>, usage: &FsUsage, now: &str) -> Value {
    let mut stats = json!({
        "time": now, "usedBytes": usage.used_bytes, "inodesUsed": usage.used_inodes,
    });
    if let Some(space) = space {
        stats["availableBytes"] = space.available.into();
        stats["capacityBytes"] = space.total.into();
        stats["inodes"] = space.inodes.into();
        stats["inodesFree"] = space.inodes_free.into();
    }
    stats
}

/// Returns the `FsStats` of a whole file system.
pub(super) fn whole(path: &str, now: &str) -> Value {
    match machine::filesystem(path.as_ref()) {
        Some(space) => {
            let usage = FsUsage {
                used_bytes: space.total.saturating_sub(space.available),
                used_inodes: space.inodes.saturating_sub(space.inodes_free),
            };
            within(Some(space), &usage, now)
        }
        None => json!({"time": now}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_walked_once_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let sizes = Sizes::default();
        let first = sizes.directory(dir.path(), "now");
        assert!(first["usedBytes"].as_u64().unwrap() >= 100_000, "{first}");
        assert_eq!(first["inodesUsed"], 2);
        assert!(first["capacityBytes"].as_u64().unwrap() > 0);
        std::fs::write(dir.path().join("b"), "").unwrap();
        assert_eq!(sizes.directory(dir.path(), "now")["inodesUsed"], 2);
    }
}
