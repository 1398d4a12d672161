//! Disk usage of directories, measured no more often than it is worth.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rkube_runtime::FsUsage;

/// Maximum age of the measured size of a directory: the kubelet's interval.
const MAX_AGE: Duration = Duration::from_secs(60);
/// A directory is walked again after this multiple of the time that its last walk took. Large
/// trees thus cost at most one percent of a processor.
const REST_FACTOR: u32 = 100;
/// Timeout of the walk of a directory. The files until then count.
const WALK_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the space and inodes that a directory uses on its own file system.
///
/// Follows no symbolic links, counts files with several links once, and skips what cannot be read:
/// the directory's owner may change it meanwhile. Returns what it has seen when `limit` is over.
/// Blocks the thread.
fn usage(path: &Path, limit: Duration) -> FsUsage {
    let start = Instant::now();
    let mut usage = FsUsage::default();
    let Ok(root) = fs::symlink_metadata(path) else {
        return usage;
    };
    let mut linked = HashSet::new();
    let mut pending: Vec<PathBuf> = Vec::new();
    let mut count = |metadata: &fs::Metadata| {
        if metadata.dev() != root.dev()
            || (metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()))
        {
            return false;
        }
        usage.used_bytes += metadata.blocks() * 512;
        usage.used_inodes += 1;
        metadata.is_dir()
    };
    if count(&root) {
        pending.push(path.to_owned());
    }
    'walk: while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if start.elapsed() >= limit {
                break 'walk;
            }
            if entry.metadata().is_ok_and(|metadata| count(&metadata)) {
                pending.push(entry.path());
            }
        }
    }
    usage
}

/// The result of a walk.
#[derive(Clone)]
struct Measurement {
    at: Instant,
    took: Duration,
    usage: FsUsage,
}

impl Measurement {
    /// Returns whether the measurement still serves a caller that accepts this age.
    fn serves(&self, age: Duration) -> bool {
        self.at.elapsed() < age.max(self.took * REST_FACTOR)
    }
}

/// The sizes of directories that were asked for lately.
#[derive(Default)]
pub(crate) struct Sizes {
    known: Mutex<HashMap<PathBuf, Measurement>>,
}

impl Sizes {
    /// Returns the size of a directory as of the last minute. Blocks the thread while it is
    /// walked.
    pub(crate) fn of(&self, path: &Path) -> FsUsage {
        self.not_older_than(path, MAX_AGE)
    }

    /// Returns the size of a directory; it is walked unless it was within `age`. Blocks the thread
    /// meanwhile. The size of a large directory may be older.
    pub(crate) fn not_older_than(&self, path: &Path, age: Duration) -> FsUsage {
        let known = self.known.lock().get(path).cloned();
        if let Some(known) = known.filter(|known| known.serves(age)) {
            return known.usage;
        }
        let at = Instant::now();
        let usage = usage(path, WALK_TIMEOUT);
        let measurement = Measurement {
            at,
            took: at.elapsed(),
            usage: usage.clone(),
        };
        let mut known = self.known.lock();
        known.retain(|_, measurement| measurement.serves(MAX_AGE));
        known.insert(path.to_owned(), measurement);
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_walked_once_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let sizes = Sizes::default();
        let first = sizes.of(dir.path());
        assert!(first.used_bytes >= 100_000, "{first:?}");
        assert_eq!(first.used_inodes, 2);
        fs::write(dir.path().join("b"), "").unwrap();
        assert_eq!(sizes.of(dir.path()).used_inodes, 2);
    }

    #[test]
    fn slow_walks_are_rare() {
        let walked = |seconds: u64, took: u64| Measurement {
            at: Instant::now() - Duration::from_secs(seconds),
            took: Duration::from_secs(took),
            usage: FsUsage::default(),
        };
        let age = Duration::from_secs(10);
        assert!(walked(0, 0).serves(age));
        assert!(!walked(11, 0).serves(age));
        assert!(walked(60, 1).serves(age));
        assert!(!walked(101, 1).serves(age));
    }

    #[test]
    fn links_are_neither_followed_nor_counted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("big"), vec![1; 500_000]).unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("deep/er")).unwrap();
        fs::write(root.join("deep/er/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(root.join("deep/er/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink(other.path(), root.join("away")).unwrap();
        let used = usage(&root, WALK_TIMEOUT);
        assert_eq!(used.used_inodes, 5, "{used:?}");
        assert!((100_000..500_000).contains(&used.used_bytes), "{used:?}");
        // A link in the directory's place is not followed either.
        assert_eq!(usage(&root.join("away"), WALK_TIMEOUT).used_inodes, 1);
        let nowhere = usage(&root.join("nowhere"), WALK_TIMEOUT);
        assert_eq!(nowhere, FsUsage::default());
    }

    #[test]
    fn what_was_seen_within_the_limit_counts() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(usage(dir.path(), WALK_TIMEOUT).used_inodes, 2);
        assert_eq!(usage(dir.path(), Duration::ZERO).used_inodes, 1);
    }
}
