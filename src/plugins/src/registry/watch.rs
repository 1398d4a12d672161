//! Watches a directory tree for sockets.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::plan::{Identity, Sockets};

/// Deepest directory that is searched.
const MAX_DEPTH: usize = 8;

/// Time between two looks that no event asks for.
const LOOK: std::time::Duration = std::time::Duration::from_secs(10);

/// An inotify instance as an `AsRawFd`.
struct Fd(Inotify);

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd as _;
        self.0.as_fd().as_raw_fd()
    }
}

/// A watch of a directory tree.
pub(super) struct Watch {
    /// Without it, the tree is only looked at from time to time.
    events: Option<AsyncFd<Fd>>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let open = || -> io::Result<AsyncFd<Fd>> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            // SAFETY: `Inotify` owns a descriptor that does not change until it is dropped, and the
            // `AsyncFd` owns the `Inotify`.
            unsafe { AsyncFd::register(Fd(inotify)) }.map_err(io::Error::from)
        };
        let events = open()
            .inspect_err(|e| tracing::warn!("plugins are looked for every {LOOK:?}: {e}"))
            .ok();
        Self { events }
    }

    /// Returns the sockets below a directory, and watches it and its directories. Names that begin
    /// with a dot are left out. Makes the directory if it is not there.
    pub(super) fn sockets(&self, dir: &Path) -> Sockets {
        if let Err(e) = std::fs::create_dir_all(dir) {
            tracing::warn!("{}: {e}", dir.display());
        }
        let mut sockets = Sockets::new();
        let mut waiting: Vec<(PathBuf, usize)> = vec![(dir.to_owned(), 0)];
        while let Some((folder, depth)) = waiting.pop() {
            let flags = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_ONLYDIR;
            // Adding a watch again changes nothing.
            if let Some(events) = &self.events
                && let Err(e) = events.get_ref().0.add_watch(&folder, flags)
            {
                tracing::debug!("watching {}: {e}", folder.display());
            }
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // The entry may be gone already.
                let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                    continue;
                };
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    continue;
                }
                if metadata.is_dir() && depth < MAX_DEPTH {
                    waiting.push((path, depth + 1));
                } else if metadata.file_type().is_socket() {
                    let nanoseconds = i128::from(metadata.ctime_nsec());
                    let identity = Identity {
                        inode: metadata.ino(),
                        changed: i128::from(metadata.ctime()) * 1_000_000_000 + nanoseconds,
                    };
                    sockets.insert(path, identity);
                }
            }
        }
        sockets
    }

    /// Waits for a change, or for the time of the next look.
    pub(super) async fn changed(&mut self) {
        let Some(events) = &self.events else {
            tokio::time::sleep(LOOK).await;
            return;
        };
        tokio::select! {
            ready = events.readable() => if let Ok(mut guard) = ready {
                // The events are only drained; the caller looks itself.
                let _ = guard.get_inner().0.read_events();
                guard.clear_ready();
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
