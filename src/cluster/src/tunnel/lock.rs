//! The file that a running tunnel holds locked.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::time::Duration;

use rkube_failure::{Failure, Kind, Source};

use crate::files::{Home, Lock, io_failure, open_for_lock};
use crate::profile::Profile;

/// The number of further attempts to take the lock, and the time between two.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PERIOD: Duration = Duration::from_millis(20);

/// Whether a tunnel for the profile is running.
pub fn is_open(home: &Home, profile: &Profile) -> bool {
    let Ok(file) = File::open(lock_of(&profile.plan(home).dir)) else {
        return false;
    };
    // Shared, so that two that look at the same time do not take each other for a tunnel.
    matches!(Lock::share(file), Err(TryLockError::WouldBlock))
}

/// Returns the path of the file that a running tunnel holds locked.
pub(super) fn lock_of(dir: &std::path::Path) -> std::path::PathBuf {
    dir.join("tunnel.lock")
}

/// Takes the lock of a profile's tunnel, and leaves the number of this process in its file.
pub(super) async fn take_lock(
    profile: &Profile,
    path: &std::path::Path,
) -> Result<Signed, Failure> {
    let mut attempts = 0;
    loop {
        let file = open_for_lock(path)?;
        let own = file.try_clone();
        match Lock::take(file) {
            Ok(lock) => {
                let signed = own.and_then(|file| Signed::new(file, lock));
                return signed.map_err(|e| io_failure("write", path, &e));
            }
            // Perhaps another command is looking, which takes a moment.
            Err(TryLockError::WouldBlock) if attempts < LOCK_ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(LOCK_PERIOD).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    Source::Program,
                    Kind::Conflict,
                    format!("a tunnel for '{}' is already running", profile.name),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(io_failure("lock", path, &e)),
        }
    }
}

/// The lock of a tunnel, with the number of its process in the file for the command that ends it.
pub(super) struct Signed {
    file: File,
    _lock: Lock,
}

impl Signed {
    /// Writes the number of this process to the file that `lock` has locked.
    pub fn new(mut file: File, lock: Lock) -> std::io::Result<Self> {
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Self { file, _lock: lock })
    }
}

impl Drop for Signed {
    fn drop(&mut self) {
        // The number may be another process' later. A reader checks it, too.
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_goes_with_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tunnel.lock");
        let file = File::create(&path).unwrap();
        let lock = Lock::take(file.try_clone().unwrap()).ok().unwrap();
        let signed = Signed::new(file, lock).unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(read(), std::process::id().to_string());
        assert!(Lock::share(File::open(&path).unwrap()).is_err());
        drop(signed);
        assert_eq!(read(), "");
        let first = Lock::share(File::open(&path).unwrap());
        let second = Lock::share(File::open(&path).unwrap());
        assert!(first.is_ok() && second.is_ok(), "two look at once");
    }
}
