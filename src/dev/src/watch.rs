//! Waits for changes of files: by inotify on Linux, by regular scans elsewhere.

use std::time::{Duration, Instant};

use crate::scan::{Change, Root, Snapshot, scan};

/// The time without further reports after which changes count as complete.
const QUIET: Duration = Duration::from_millis(40);
/// The time after which changes are taken although there are further reports.
const PATIENCE: Duration = Duration::from_secs(1);
/// The interval of scans where the system reports nothing.
const SCAN_PERIOD: Duration = Duration::from_millis(500);

/// Waits until reports have come to rest.
#[derive(Clone, Copy, Debug)]
struct Debounce {
    first: Instant,
    last: Instant,
}

impl Debounce {
    fn new(now: Instant) -> Self {
        Self {
            first: now,
            last: now,
        }
    }

    fn report(&mut self, now: Instant) {
        self.last = now;
    }

    /// Returns when the changes are taken if nothing else is reported.
    fn due(&self) -> Instant {
        (self.last + QUIET).min(self.first + PATIENCE)
    }
}

/// Watches files.
pub struct Watcher {
    roots: Vec<Root>,
    seen: Snapshot,
    reports: Reports,
    /// Set while a report was not followed by a scan.
    pending: Option<Debounce>,
}

impl Watcher {
    /// Begins to watch. What has changed before does not count.
    pub fn new(roots: Vec<Root>) -> Self {
        let mut watcher = Self {
            seen: Snapshot::default(),
            reports: Reports::new(),
            pending: None,
            roots,
        };
        watcher.seen = watcher.scan();
        watcher
    }

    /// Returns why changes are found by regular scans, if that is not the system's usual way.
    pub fn degraded(&self) -> Option<&str> {
        self.reports.degraded()
    }

    /// Watches other files from now on. Changes of those that were watched before are not lost.
    pub fn set_roots(&mut self, roots: Vec<Root>) {
        let before = std::mem::replace(&mut self.roots, roots);
        let now = self.scan();
        self.seen = self.seen.moved(&before, &self.roots, &now);
        if self.pending.is_none() && !self.seen.changes(&now).is_empty() {
            // The next scan reports them: it is compared with what was seen.
            self.pending = Some(Debounce::new(Instant::now()));
        }
    }

    /// Reads all files after having made sure that changes to them are reported.
    fn scan(&mut self) -> Snapshot {
        let mut snapshot = scan(&self.roots);
        while self.reports.watch(&snapshot) {
            // Files may have come to new directories before these were watched.
            snapshot = scan(&self.roots);
        }
        snapshot.carry(&self.seen);
        snapshot
    }

    /// Waits for changes. Can be dropped at any time without losing any.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            let mut debounce = match self.pending {
                Some(debounce) => debounce,
                None => {
                    self.reports.wait().await;
                    Debounce::new(Instant::now())
                }
            };
            self.pending = Some(debounce);
            loop {
                let due = debounce.due();
                if due <= Instant::now() {
                    break;
                }
                let reported = self.reports.wait();
                if tokio::time::timeout_at(due.into(), reported).await.is_err() {
                    break;
                }
                debounce.report(Instant::now());
                self.pending = Some(debounce);
            }
            let now = self.scan();
            self.pending = None;
            let changes = self.seen.changes(&now);
            self.seen = now;
            if !changes.is_empty() {
                return changes;
            }
        }
    }
}

/// Reports of the system that something has happened somewhere.
struct Reports {
    #[cfg(target_os = "linux")]
    inotify: Option<linux::Inotify>,
    /// Why there are none.
    degraded: Option<String>,
}

#[cfg(target_os = "linux")]
impl Reports {
    fn new() -> Self {
        match linux::Inotify::new() {
            Ok(inotify) => Self {
                inotify: Some(inotify),
                degraded: None,
            },
            Err(e) => Self {
                inotify: None,
                degraded: Some(why(&e)),
            },
        }
    }

    /// Watches the directories of a snapshot. Returns whether any of them is new.
    fn watch(&mut self, snapshot: &Snapshot) -> bool {
        let Some(inotify) = &mut self.inotify else {
            return false;
        };
        match inotify.watch(&snapshot.directories) {
            Ok(new) => new,
            Err(e) => {
                self.inotify = None;
                self.degraded = Some(why(&e));
                false
            }
        }
    }

    async fn wait(&mut self) {
        let failed = match &mut self.inotify {
            Some(inotify) => match inotify.wait().await {
                Ok(()) => return,
                Err(e) => e,
            },
            None => {
                tokio::time::sleep(SCAN_PERIOD).await;
                return;
            }
        };
        self.inotify = None;
        self.degraded = Some(why(&failed));
    }
}

#[cfg(not(target_os = "linux"))]
impl Reports {
    fn new() -> Self {
        Self { degraded: None }
    }

    fn watch(&mut self, _: &Snapshot) -> bool {
        false
    }

    async fn wait(&mut self) {
        tokio::time::sleep(SCAN_PERIOD).await;
    }
}

impl Reports {
    fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }
}

#[cfg(target_os = "linux")]
fn why(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::ENOSPC) => "the limit of watched directories is reached; \
            raise fs.inotify.max_user_watches or exclude directories with .dockerignore"
            .to_owned(),
        Some(nix::libc::EMFILE) => {
            "the limit of watchers is reached; raise fs.inotify.max_user_instances".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::io;
    use std::os::fd::{AsFd as _, AsRawFd, RawFd};
    use std::path::PathBuf;

    use nix::errno::Errno;
    use nix::sys::inotify::{self, AddWatchFlags, InitFlags, WatchDescriptor};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// inotify's descriptor, as the runtime wants it.
    struct Descriptor(inotify::Inotify);

    impl AsRawFd for Descriptor {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_fd().as_raw_fd()
        }
    }

    /// The kernel's reports about directories.
    pub struct Inotify {
        descriptor: AsyncFd<Descriptor>,
        watched: BTreeSet<WatchDescriptor>,
    }

    impl Inotify {
        pub fn new() -> io::Result<Self> {
            let made = inotify::Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            let made = Descriptor(made);
            // SAFETY: the descriptor is owned by the value, is always the same, and is open until
            // the value is dropped.
            let descriptor = unsafe { AsyncFd::register_with_interest(made, Interest::READABLE) };
            Ok(Self {
                descriptor: descriptor.map_err(io::Error::from)?,
                watched: BTreeSet::new(),
            })
        }

        /// Watches directories. Returns whether any of them was not watched before.
        pub fn watch(&mut self, directories: &BTreeSet<PathBuf>) -> io::Result<bool> {
            let flags = AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_ATTRIB
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_ONLYDIR;
            let mut new = false;
            let mut watched = BTreeSet::new();
            for directory in directories {
                // One that is watched already keeps its descriptor.
                match self.descriptor.get_ref().0.add_watch(directory, flags) {
                    Ok(descriptor) => {
                        new |= !self.watched.contains(&descriptor);
                        watched.insert(descriptor);
                    }
                    // Another change is reported, or it does not exist yet.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            self.watched = watched;
            Ok(new)
        }

        /// Waits for a report, and takes all that there are.
        pub async fn wait(&mut self) -> io::Result<()> {
            loop {
                let mut ready = self.descriptor.readable().await?;
                match ready.get_inner().0.read_events() {
                    Ok(events) if !events.is_empty() => return Ok(()),
                    Ok(_) | Err(Errno::EAGAIN) => ready.clear_ready(),
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_taken_when_they_rest_or_go_on_for_long() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut debounce = Debounce::new(begin);
        assert_eq!(debounce.due(), at(0) + QUIET);
        debounce.report(at(20));
        assert_eq!(debounce.due(), at(20) + QUIET);
        debounce.report(at(10_000));
        assert_eq!(debounce.due(), begin + PATIENCE);
    }

    #[test]
    fn changes_are_found_also_in_new_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut watcher = Watcher::new(vec![Root::Tree {
                dir: root.clone(),
                excluded: rkube_build::pattern::Matcher::default(),
            }]);
            assert_eq!(watcher.degraded(), None);
            std::fs::create_dir_all(root.join("a/b")).unwrap();
            std::fs::write(root.join("a/b/c"), "1").unwrap();
            let changes = watcher.next().await;
            assert_eq!(changes.len(), 1);
            assert_eq!(changes[0].path, root.join("a/b/c"));
            std::fs::write(root.join("a/b/c"), "22").unwrap();
            // A wait that was given up loses nothing.
            let given_up = tokio::time::timeout(Duration::from_millis(1), watcher.next()).await;
            let changes = match given_up {
                Ok(changes) => changes,
                Err(_) => watcher.next().await,
            };
            assert_eq!(changes.len(), 1);
        });
    }
}
