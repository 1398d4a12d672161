//! The socket at which `rkube docker-env` offers the images of a cluster to Docker's clients.
//!
//! A separate process serves it, and holds a lock file meanwhile. It ends by itself when the socket
//! is removed, which every stop does and every delete.

use std::path::PathBuf;

use rkube_failure::Failure;

use crate::files::{Home, io_failure};

/// Returns the path of the socket of a profile.
pub fn docker_socket(home: &Home, name: &str) -> PathBuf {
    home.profile_dir(name).join("docker.sock")
}

/// Removes the socket of a profile, so that the process that serves it ends.
pub(crate) fn withdraw(home: &Home, name: &str) -> Result<(), Failure> {
    let path = docker_socket(home, name);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", &path, &e)),
        _ => Ok(()),
    }
}

#[cfg(unix)]
pub use unix::{DockerSocket, docker_socket_answers};

#[cfg(unix)]
mod unix {
    use std::fs::TryLockError;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use rkube_failure::{Failure, Kind, Source};

    use super::docker_socket;
    use crate::files::{Home, Lock, io_failure, open_for_lock};
    use crate::profile::Profile;
    use crate::sudo::act_for_owner_of;

    /// Longest path of a socket on the systems that rkube runs on, in bytes.
    const MAX_PATH_BYTES: usize = 103;
    /// The time that a new process waits for one that ends.
    const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
    /// The period of its checks.
    const LOCK_PERIOD: Duration = Duration::from_millis(50);

    /// Whether a process serves the socket of a profile.
    pub fn docker_socket_answers(home: &Home, name: &str) -> bool {
        UnixStream::connect(docker_socket(home, name)).is_ok()
    }

    /// The socket of a profile, for the one process that serves it.
    pub struct DockerSocket {
        path: PathBuf,
        /// Device and inode.
        identity: (u64, u64),
        _lock: Lock,
    }

    impl DockerSocket {
        /// Listens on the socket of a profile. Returns `None` if another process does.
        ///
        /// # Errors
        /// Fails with `Kind::Config` if the path is too long for a socket.
        pub async fn listen(
            home: &Home,
            profile: &Profile,
        ) -> Result<Option<(Self, UnixListener)>, Failure> {
            let path = docker_socket(home, &profile.name);
            if path.as_os_str().len() > MAX_PATH_BYTES {
                let message = format!(
                    "{} is too long for the path of a socket (at most {MAX_PATH_BYTES} bytes)",
                    path.display()
                );
                return Err(Failure::new(Source::Program, Kind::Config, message)
                    .advise("set RKUBE_HOME to a directory with a shorter path"));
            }
            let Some(lock) = take(home, &profile.name).await? else {
                return Ok(None);
            };
            super::withdraw(home, &profile.name)?;
            let listener = {
                // The profile's directory is private, so the socket is, too.
                let _owner = act_for_owner_of(&path);
                UnixListener::bind(&path).map_err(|e| io_failure("create", &path, &e))?
            };
            let metadata = path
                .symlink_metadata()
                .map_err(|e| io_failure("read", &path, &e))?;
            let identity = (metadata.dev(), metadata.ino());
            let socket = Self {
                path,
                identity,
                _lock: lock,
            };
            Ok(Some((socket, listener)))
        }

        /// Whether clients still find this socket.
        pub fn is_there(&self) -> bool {
            self.path
                .symlink_metadata()
                .is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
        }
    }

    /// Takes the lock of the serving process; `None` if another process keeps it and serves.
    async fn take(home: &Home, name: &str) -> Result<Option<Lock>, Failure> {
        let path = home.profile_dir(name).join("docker.lock");
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match Lock::take(open_for_lock(&path)?) {
                Ok(lock) => return Ok(Some(lock)),
                Err(TryLockError::WouldBlock) if docker_socket_answers(home, name) => {
                    return Ok(None);
                }
                // It begins, or it ends because its socket was removed.
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_PERIOD).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another process keeps {} locked", path.display());
                    return Err(Failure::new(Source::Program, Kind::Conflict, message));
                }
                Err(TryLockError::Error(e)) => return Err(io_failure("lock", &path, &e)),
            }
        }
    }
}
