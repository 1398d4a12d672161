//! `FsStats` of containers, logs and volumes.

use std::path::Path;

use rkube_runtime::FsUsage;
use serde_json::{Value, json};

use crate::disk::Sizes;
use crate::machine::{self, Space};

/// Returns the `FsStats` of a directory: its own size, and the space of its file system.
pub(super) fn directory_stats(sizes: &Sizes, path: &Path, now: &str) -> Value {
    share_stats(machine::filesystem(path), &sizes.of(path), now)
}

/// Returns the `FsStats` of files that use a part of a file system.
pub(super) fn share_stats(space: Option<Space>, usage: &FsUsage, now: &str) -> Value {
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
pub(super) fn file_system_stats(path: &str, now: &str) -> Value {
    match machine::filesystem(path.as_ref()) {
        Some(space) => {
            let usage = FsUsage {
                used_bytes: space.total.saturating_sub(space.available),
                used_inodes: space.inodes.saturating_sub(space.inodes_free),
            };
            share_stats(Some(space), &usage, now)
        }
        None => json!({"time": now}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_a_size_on_their_file_system() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let stats = directory_stats(&Sizes::default(), dir.path(), "now");
        assert!(stats["usedBytes"].as_u64().unwrap() >= 100_000, "{stats}");
        assert_eq!(stats["inodesUsed"], 2);
        assert!(stats["capacityBytes"].as_u64().unwrap() > 0);
    }
}
