//! The default store: all entries in memory, every change in a log.
//!
//! A write is decided and gets its revision at once, against everything decided
//! before it. The writer thread then appends all decided writes to the log as one
//! frame and syncs it. It makes the changes visible, delivers them to the watches and
//! completes the writes. Under load many writes share one sync; a single write waits
//! for no other. Nothing can be read or acknowledged before it is durable. A conflict
//! with a write that is not durable yet is reported once that write is.
//!
//! When the log has outgrown the live entries, a new log is started. A second thread
//! writes a snapshot of the state at that point. The snapshot before it and the logs
//! since are kept, in case the new one is damaged, and the files before them removed. The
//! history that older revisions are read and watched from is kept in memory, within
//! bounds. After a restart it reaches as far back as the log.
//!
//! A write that finds the disk full fails, and everything decided after it. The store
//! goes on as soon as there is room. After any other failure of a write it is unknown
//! what is on disk: the store takes no further writes, and the process has to open it
//! again.

mod disk;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod log;
mod reader;
mod recovery;
mod salvage;
#[cfg(any(test, feature = "simulation"))]
mod sim_disk;
mod state;
#[cfg(any(test, feature = "simulation"))]
mod stepped;
#[cfg(test)]
mod tests;
mod watchers;
mod writer;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use crate::types::{
    Change, Expect, KeyValue, ListOptions, Page, Pending, Revision, Store, StoreError, Watch,
    WatchBatch,
};
use disk::{Disk, RealDisk};
use log::{Claim, Preallocation};
use state::{State, Window};
use watchers::Watchers;
use writer::Writer;

pub use salvage::{Check, Replaced, Segment, reset, salvage, verify};
#[cfg(feature = "simulation")]
pub use sim_disk::{Fault, Random, SimDisk};
#[cfg(any(test, feature = "simulation"))]
pub use stepped::SteppedStore;

/// The bounds of an [`EmbeddedStore`].
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The largest number of changes in the history.
    pub history_changes: usize,
    /// The largest number of bytes of values in the history.
    pub history_bytes: usize,
    /// Time that a change stays in the history.
    pub history_age: Duration,
    /// The size of the log in bytes below which no snapshot is taken.
    pub log_bytes: u64,
    /// The number of commits that a watch's receiver may be behind before it is
    /// disconnected.
    pub watch_buffer: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            history_changes: 5_000,
            history_bytes: 8 << 20,
            history_age: Duration::from_secs(300),
            log_bytes: 8 << 20,
            watch_buffer: 1024,
        }
    }
}

/// The longest key in bytes; Kubernetes' keys are far shorter.
const MAX_KEY_BYTES: usize = 4096;
/// The largest value in bytes; Kubernetes' values are far smaller.
const MAX_VALUE_BYTES: usize = 64 << 20;
/// Timeout of a commit, after which the store counts as failed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The stack of the store's threads, in bytes.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// A [`Store`] in a directory. Dropping it completes the writes that have begun and
/// closes the files.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Held while the store is open, so that no other process opens it.
    _lock: Flock<File>,
}

struct Shared {
    /// Locked before `watchers` and `state`.
    queue: Mutex<Queue>,
    work: Condvar,
    /// Locked before `state`.
    watchers: Mutex<Watchers>,
    state: RwLock<State>,
    /// The newest durable revision, readable without a lock.
    revision: AtomicU64,
    /// Start of the running write to the disk.
    writing_since: Mutex<Option<Instant>>,
    /// Why writes are refused until there is room on the disk.
    full: Mutex<Option<StoreError>>,
    /// Why no write will ever succeed again.
    failed: watch::Sender<Option<StoreError>>,
}

/// Writes that are decided and not durable yet.
struct Queue {
    newest: Revision,
    /// The newest decided entry of each key that has one.
    decided: HashMap<Arc<str>, Decided>,
    entries: Vec<Entry>,
    /// The error of all further writes, once the store has stopped.
    stopped: Option<StoreError>,
    closing: bool,
}

struct Decided {
    entry: Option<Arc<KeyValue>>,
    revision: Revision,
}

/// The result of a write: the entry, or the last entry of a deletion, and the
/// revision.
type Answer = Result<(Arc<KeyValue>, Revision), StoreError>;

/// A result to return once everything decided before it is durable.
enum Entry {
    Write {
        change: Change,
        claim: Claim,
        done: oneshot::Sender<Answer>,
    },
    Conflict {
        found: Option<Arc<KeyValue>>,
        done: oneshot::Sender<Answer>,
    },
}

impl EmbeddedStore {
    /// Opens the store in `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// - [`StoreError::Disk`] if the directory cannot be used.
    /// - [`StoreError::InUse`] if another process has the store open.
    /// - [`StoreError::Corrupt`] if its files are damaged.
    /// - [`StoreError::Format`] if they are of a newer program.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Arc<EmbeddedStore>, StoreError> {
        let lock = prepare(dir, Duration::ZERO)?;
        let disk = RealDisk::open(dir).map_err(|e| reader::failed(dir, &e))?;
        let (shared, writer) = open_parts(disk, &options, Preallocation::default())?;
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || writer.run())
            .map_err(|e| StoreError::Disk(format!("cannot start the writer: {e}")))?;
        Ok(Arc::new(EmbeddedStore {
            shared,
            writer: Some(writer),
            _lock: lock,
        }))
    }
}

/// Reads the store on `disk`, and returns it with its writer, which does not run yet.
fn open_parts<D: Disk>(
    disk: D,
    options: &EmbeddedOptions,
    room: Preallocation,
) -> Result<(Arc<Shared>, Writer<D>), StoreError> {
    let window = Window {
        changes: options.history_changes,
        bytes: options.history_bytes,
        age: options.history_age,
    };
    let (state, log) = recovery::recover(&disk, &window, room)?;
    let revision = state.revision();
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue {
            newest: revision,
            decided: HashMap::new(),
            entries: Vec::new(),
            stopped: None,
            closing: false,
        }),
        work: Condvar::new(),
        watchers: Mutex::new(Watchers::new(options.watch_buffer)),
        state: RwLock::new(state),
        revision: AtomicU64::new(revision),
        writing_since: Mutex::new(None),
        full: Mutex::new(None),
        failed: watch::Sender::new(None),
    });
    let writer = Writer::new(shared.clone(), disk, log, window, room, options.log_bytes);
    Ok((shared, writer))
}

/// Interval of attempts to lock a directory.
const LOCK_PERIOD: Duration = Duration::from_millis(20);

/// Creates the directory, private to its owner, and locks it. If another process has locked
/// it, tries again for `patience`.
fn prepare(dir: &Path, patience: Duration) -> Result<Flock<File>, StoreError> {
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        StoreError::Disk(format!("cannot {what} {}: {e}", dir.display()))
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| failed("make", &e))?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
        .map_err(|e| failed("protect", &e))?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("lock"))
        .map_err(|e| failed("lock", &e))?;
    let began = Instant::now();
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) if began.elapsed() < patience => {
                file = unlocked;
                std::thread::sleep(LOCK_PERIOD);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(StoreError::InUse(dir.display().to_string()));
            }
            Err((_, errno)) => return Err(failed("lock", &errno)),
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Queue {
    fn fail_entries(&mut self, why: &StoreError) {
        for entry in self.entries.drain(..) {
            let (Entry::Write { done, .. } | Entry::Conflict { done, .. }) = entry;
            // Fails only if the caller no longer waits.
            let _ = done.send(Err(why.clone()));
        }
    }
}

impl Shared {
    /// Decides a write (`Some`) or a deletion (`None`) and queues it. While the disk is full,
    /// writes that are no step of a deletion are refused.
    fn decide(
        &self,
        key: &str,
        value: Option<Bytes>,
        expect: Expect,
        claim: Claim,
    ) -> Result<oneshot::Receiver<Answer>, StoreError> {
        let mut queue = self.queue.lock();
        if let Some(why) = &queue.stopped {
            return Err(why.clone());
        }
        let (found, durable) = match queue.decided.get(key) {
            Some(decided) => (decided.entry.clone(), false),
            None => (self.state.read().get(key).cloned(), true),
        };
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Revision(revision) => {
                found.as_ref().is_some_and(|f| f.mod_revision == revision)
            }
        };
        // It must not share a commit with a deletion, which may use the reserve.
        if holds
            && claim == Claim::Nothing
            && let Some(why) = &*self.full.lock()
        {
            return Err(why.clone());
        }
        let (done, answer) = oneshot::channel();
        let entry = match (value, found) {
            (_, found) if !holds => Err(found),
            (None, None) => Err(None),
            (None, Some(before)) => {
                queue.newest += 1;
                Ok(Change::Delete {
                    before,
                    revision: queue.newest,
                })
            }
            (Some(value), before) => {
                queue.newest += 1;
                let revision = queue.newest;
                let now = Arc::new(KeyValue {
                    key: before
                        .as_ref()
                        .map_or_else(|| Arc::from(key), |b| b.key.clone()),
                    value,
                    create_revision: before.as_ref().map_or(revision, |b| b.create_revision),
                    mod_revision: revision,
                });
                Ok(Change::Put { now, before })
            }
        };
        match entry {
            Ok(change) => {
                let decided = Decided {
                    entry: change.after().cloned(),
                    revision: change.revision(),
                };
                queue.decided.insert(change.key().clone(), decided);
                queue.entries.push(Entry::Write {
                    change,
                    claim,
                    done,
                });
            }
            Err(found) if durable => return Err(StoreError::Conflict { found }),
            Err(found) => queue.entries.push(Entry::Conflict { found, done }),
        }
        if queue.entries.len() == 1 {
            self.work.notify_one();
        }
        Ok(answer)
    }

    /// Fails all pending and all further writes.
    fn stop(&self, why: StoreError) {
        {
            let mut queue = self.queue.lock();
            queue.stopped = Some(why.clone());
            queue.decided.clear();
            queue.fail_entries(&why);
        }
        if why != StoreError::Closed {
            self.failed.send_replace(Some(why));
        }
    }

    /// Fails all pending writes, because one of them cannot be made durable. The others
    /// were decided after it, and so perhaps because of it.
    fn refuse(&self, why: &StoreError) {
        let mut queue = self.queue.lock();
        queue.newest = self.revision.load(Ordering::Acquire);
        queue.decided.clear();
        queue.fail_entries(why);
        // With the lock, so that no write is decided in between.
        let before = self.full.lock().replace(why.clone());
        drop(queue);
        if before.is_none() {
            tell_full(why);
        }
    }

    #[cfg(any(test, feature = "simulation"))]
    fn has_queued(&self) -> bool {
        !self.queue.lock().entries.is_empty()
    }

    fn is_full(&self) -> bool {
        self.full.lock().is_some()
    }

    /// Notes that the disk is full, or has room again.
    fn set_full(&self, why: Option<StoreError>) {
        let before = std::mem::replace(&mut *self.full.lock(), why.clone());
        match (before, why) {
            (None, Some(why)) => tell_full(&why),
            (Some(_), None) => tracing::info!("the store takes writes again"),
            _ => {}
        }
    }

    /// Returns why writes do not succeed at present.
    fn health(&self) -> Result<(), StoreError> {
        if let Some(why) = &*self.failed.borrow() {
            return Err(why.clone());
        }
        if let Some(why) = &*self.full.lock() {
            return Err(why.clone());
        }
        match *self.writing_since.lock() {
            Some(since) if since.elapsed() >= COMMIT_TIMEOUT => Err(StoreError::Disk(format!(
                "a write has taken {} s so far",
                since.elapsed().as_secs()
            ))),
            _ => Ok(()),
        }
    }

    async fn write(&self, key: &str, value: Option<Bytes>, expect: Expect, claim: Claim) -> Answer {
        // The sender is dropped without a result only when the writer has exited.
        self.decide(key, value, expect, claim)?
            .await
            .unwrap_or(Err(StoreError::Closed))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        claim: Claim,
    ) -> Result<Arc<KeyValue>, StoreError> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(StoreError::TooLarge {
                key: key.len(),
                value: value.len(),
            });
        }
        Ok(self.write(key, Some(value), expect, claim).await?.0)
    }

    fn get(&self, key: &str) -> Pending<'_, (Option<Arc<KeyValue>>, Revision)> {
        let state = self.state.read();
        let found = (state.get(key).cloned(), state.revision());
        Box::pin(std::future::ready(Ok(found)))
    }

    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page> {
        Box::pin(async move { self.state.read().list(prefix, &options) })
    }

    fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.state.write();
        let newest = state.revision();
        if revision > newest {
            return Err(StoreError::Future {
                asked: revision,
                newest,
            });
        }
        state.forget_until(revision);
        Ok(())
    }

    async fn has_failed(&self) -> StoreError {
        match self.failed.subscribe().wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or(StoreError::Closed),
            // The sender lives as long as the store.
            Err(_) => StoreError::Closed,
        }
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        // The lock keeps the next commit from being published between the read of
        // the history and the registration.
        let mut watchers = self.watchers.lock();
        let state = self.state.read();
        let first = WatchBatch {
            changes: state.changes(prefix, after)?,
            revision: state.revision(),
        };
        drop(state);
        Ok(watchers.add(prefix, first))
    }
}

fn tell_full(why: &StoreError) {
    tracing::error!(%why, "the store refuses writes");
}

impl Store for EmbeddedStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)> {
        self.shared.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page> {
        self.shared.list(prefix, options)
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>> {
        Box::pin(self.shared.put(key, value, expect, Claim::Nothing))
    }

    fn put_deleting<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> Pending<'a, Arc<KeyValue>> {
        Box::pin(self.shared.put(key, value, expect, Claim::Half))
    }

    fn delete<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
    ) -> Pending<'a, (Arc<KeyValue>, Revision)> {
        Box::pin(self.shared.write(key, None, expect, Claim::All))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Pending<'a, Watch> {
        Box::pin(async move { self.shared.watch(prefix, after) })
    }

    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()> {
        Box::pin(async move { self.shared.compact(revision) })
    }

    fn revision(&self) -> Revision {
        self.shared.revision.load(Ordering::Acquire)
    }

    fn is_in_memory(&self) -> bool {
        true
    }

    fn health(&self) -> Result<(), StoreError> {
        self.shared.health()
    }

    fn failed(&self) -> BoxFuture<'_, StoreError> {
        Box::pin(self.shared.has_failed())
    }
}
