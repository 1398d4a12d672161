//! Waits for changes of a log file.

use std::path::Path;

use tokio::fs::File;

/// An inotify instance as an `AsRawFd`, for [`tokio::io::unix::AsyncFd`].
struct Fd(nix::sys::inotify::Inotify);

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd;
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for changes of a log file with inotify.
pub(super) struct Watch {
    events: tokio::io::unix::AsyncFd<Fd>,
}

impl Watch {
    pub(super) fn new(path: &Path) -> std::io::Result<Self> {
        use nix::sys::inotify::{AddWatchFlags as F, InitFlags, Inotify};
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        if let Some(dir) = path.parent() {
            inotify.add_watch(dir, F::IN_MOVED_FROM | F::IN_CREATE | F::IN_DELETE)?;
        }
        match inotify.add_watch(path, F::IN_MODIFY) {
            Ok(_) | Err(nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        // SAFETY: `Inotify` owns a descriptor that does not change until it is dropped, and the
        // `AsyncFd` owns the `Inotify`.
        let events = unsafe { tokio::io::unix::AsyncFd::register(Fd(inotify)) }
            .map_err(std::io::Error::from)?;
        Ok(Self { events })
    }

    pub(super) async fn changed(&mut self) {
        let Ok(mut guard) = self.events.readable().await else {
            return;
        };
        // The events are only drained; the caller checks the file itself.
        let _ = guard.get_inner().0.read_events();
        guard.clear_ready();
    }

    /// Returns whether `path` no longer refers to the open file.
    pub(super) async fn replaced(&self, open: &File, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(mine) = open.metadata().await else {
            return false;
        };
        match tokio::fs::metadata(path).await {
            Ok(now) => (now.dev(), now.ino()) != (mine.dev(), mine.ino()),
            Err(_) => true,
        }
    }
}
