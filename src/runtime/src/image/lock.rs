//! Advisory locks on files, which processes of several nodes may contend for.

use std::fs::File;
use std::io;
use std::path::Path;

/// An advisory lock on a file (`flock`). Released when dropped.
pub struct FileLock(#[expect(dead_code, reason = "held for its lock")] File);

impl FileLock {
    /// Waits for the lock that excludes all others. Creates the file if it does not exist.
    pub fn exclusive(path: &Path) -> io::Result<Self> {
        Self::take(path, File::lock)
    }

    /// Waits for the lock that excludes exclusive locks only. Creates the file if it does not
    /// exist.
    pub fn shared(path: &Path) -> io::Result<Self> {
        Self::take(path, File::lock_shared)
    }

    fn take(path: &Path, lock: impl Fn(&File) -> io::Result<()>) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        loop {
            match lock(&file) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|()| Self(file)),
            }
        }
    }
}
