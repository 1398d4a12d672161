//! Advisory locks on files, which processes of several nodes may contend for.

use std::fs::{File, TryLockError};
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

    /// Takes the lock that excludes all others, unless it is taken. Creates the file if it does
    /// not exist.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        let file = Self::open(path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self(file))),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    }

    fn open(path: &Path) -> io::Result<File> {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    }

    fn take(path: &Path, lock: impl Fn(&File) -> io::Result<()>) -> io::Result<Self> {
        let file = Self::open(path)?;
        loop {
            match lock(&file) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|()| Self(file)),
            }
        }
    }
}
