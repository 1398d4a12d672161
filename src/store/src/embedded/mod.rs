//! The default store: all entries in memory, every change in a log.
//!
//! A write is decided and gets its revision at once, against everything decided
//! before it. The writer thread then appends all decided writes to the log as one
//! frame, syncs it, makes the changes visible, delivers them to the watches and
//! completes the writes. Under load many writes share one sync; a single write waits
//! for no other. Nothing can be read or acknowledged before it is durable. A conflict
//! with a write that is not durable yet is reported once that write is.
//!
//! When the log has outgrown the live entries, a new log is started. A second thread
//! writes a snapshot of the state at that point and removes the files before it. The
//! history that older revisions are read and watched from is kept in memory, within
//! bounds. After a restart it reaches as far back as the log.

mod log;
mod recovery;
mod state;
#[cfg(test)]
mod tests;
mod watchers;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::oneshot;

use crate::types::{
    Change, Expect, KeyValue, ListOptions, Page, Pending, Revision, Store, StoreError, Watch,
    WatchBatch,
};
use log::{FrameBuilder, LogWriter};
use state::{State, Window};
use watchers::Watchers;

/// The bounds of an [`EmbeddedStore`].
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The largest number of changes in the history.
    pub history_changes: usize,
    /// The largest number of bytes of values in the history.
    pub history_bytes: usize,
    /// How long a change stays in the history.
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
/// The bytes of values after which a commit takes no more writes. It bounds frames.
const MAX_COMMIT_BYTES: usize = 16 << 20;
/// How often the history of an idle store is checked for changes past their age.
const HISTORY_CHECK_PERIOD: Duration = Duration::from_secs(60);
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
    /// [`StoreError::Disk`] when the directory cannot be used or another process has
    /// the store open, [`StoreError::Corrupt`] when its files are damaged.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Arc<EmbeddedStore>, StoreError> {
        let lock = prepare(dir)?;
        let window = Window {
            changes: options.history_changes,
            bytes: options.history_bytes,
            age: options.history_age,
        };
        let (state, log) = recovery::recover(dir, &window)?;
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
        });
        let writer = Writer {
            shared: shared.clone(),
            dir: dir.to_owned(),
            log,
            window,
            log_bytes: options.log_bytes,
            rotate_at: 0,
            snapshot: None,
            frame: FrameBuilder::begin(),
        };
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

/// Creates the directory, private to its owner, and locks it.
fn prepare(dir: &Path) -> Result<Flock<File>, StoreError> {
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
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => failed("lock", &"another process has the store open"),
        errno => failed("lock", &errno),
    })
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

impl Shared {
    /// Decides a write (`Some`) or a deletion (`None`) and queues it.
    fn decide(
        &self,
        key: &str,
        value: Option<Bytes>,
        expect: Expect,
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
                queue.entries.push(Entry::Write { change, done });
            }
            Err(found) if durable => return Err(StoreError::Conflict { found }),
            Err(found) => queue.entries.push(Entry::Conflict { found, done }),
        }
        if queue.entries.len() == 1 {
            self.work.notify_one();
        }
        Ok(answer)
    }

    async fn write(&self, key: &str, value: Option<Bytes>, expect: Expect) -> Answer {
        // The sender is dropped without a result only when the writer has exited.
        self.decide(key, value, expect)?
            .await
            .unwrap_or(Err(StoreError::Closed))
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

impl Store for EmbeddedStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)> {
        let state = self.shared.state.read();
        let found = (state.get(key).cloned(), state.revision());
        Box::pin(std::future::ready(Ok(found)))
    }

    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page> {
        Box::pin(async move { self.shared.state.read().list(prefix, &options) })
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>> {
        Box::pin(async move {
            if key.is_empty() || key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
                return Err(StoreError::TooLarge {
                    key: key.len(),
                    value: value.len(),
                });
            }
            Ok(self.shared.write(key, Some(value), expect).await?.0)
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
    ) -> Pending<'a, (Arc<KeyValue>, Revision)> {
        Box::pin(self.shared.write(key, None, expect))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Pending<'a, Watch> {
        Box::pin(async move { self.shared.watch(prefix, after) })
    }

    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut state = self.shared.state.write();
            let newest = state.revision();
            if revision > newest {
                return Err(StoreError::Future {
                    asked: revision,
                    newest,
                });
            }
            state.forget_until(revision);
            Ok(())
        })
    }

    fn revision(&self) -> Revision {
        self.shared.revision.load(Ordering::Acquire)
    }
}

/// The state of the thread that makes decided writes durable and visible.
struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    log: LogWriter,
    window: Window,
    /// [`EmbeddedOptions::log_bytes`].
    log_bytes: u64,
    /// The log's size below which a failed rotation is not retried.
    rotate_at: u64,
    snapshot: Option<JoinHandle<()>>,
    frame: FrameBuilder,
}

impl Writer {
    fn run(mut self) {
        while let Some(entries) = self.next_commit() {
            if let Err(error) = self.commit(entries) {
                tracing::error!(%error, "the store takes no further writes");
                self.stop(error);
            }
        }
        self.stop(StoreError::Closed);
        self.shared.watchers.lock().clear();
        if let Some(snapshot) = self.snapshot.take() {
            join_snapshot(snapshot);
        }
    }

    /// Waits for entries to commit; `None` when the store closes.
    fn next_commit(&mut self) -> Option<Vec<Entry>> {
        let mut queue = self.shared.queue.lock();
        loop {
            if !queue.entries.is_empty() {
                return Some(take_commit(&mut queue.entries));
            }
            if queue.closing {
                return None;
            }
            if self.shared.state.read().has_history() {
                if self
                    .shared
                    .work
                    .wait_for(&mut queue, HISTORY_CHECK_PERIOD)
                    .timed_out()
                {
                    self.shared.state.write().trim(&self.window, Instant::now());
                }
            } else {
                self.shared.work.wait(&mut queue);
            }
        }
    }

    fn commit(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let mut changes = Vec::with_capacity(entries.len());
        let mut answers = Vec::with_capacity(entries.len());
        self.frame.reset();
        for entry in entries {
            match entry {
                Entry::Write { change, done } => {
                    let revision = change.revision();
                    let entry = change.after().or(change.before()).cloned();
                    self.frame.change(&change);
                    changes.push(change);
                    answers.push((done, entry.map(|e| (e, revision)).ok_or(StoreError::Closed)));
                }
                Entry::Conflict { found, done } => {
                    answers.push((done, Err(StoreError::Conflict { found })))
                }
            }
        }
        if !changes.is_empty() {
            if let Err(e) = self.log.append(self.frame.finish()) {
                let error = StoreError::Disk(e.to_string());
                for (done, _) in answers {
                    // Fails only if the caller no longer waits.
                    let _ = done.send(Err(error.clone()));
                }
                return Err(error);
            }
            self.publish(&changes);
        }
        for (done, answer) in answers {
            // Fails only if the caller no longer waits.
            let _ = done.send(answer);
        }
        if !changes.is_empty() {
            self.rotate();
        }
        Ok(())
    }

    /// Makes durable changes visible to readers and watches.
    fn publish(&mut self, changes: &[Change]) {
        let now = Instant::now();
        let mut watchers = self.shared.watchers.lock();
        let mut state = self.shared.state.write();
        state.apply(changes.iter().cloned(), now);
        state.trim(&self.window, now);
        let (revision, oldest) = (state.revision(), state.oldest());
        drop(state);
        watchers.publish(changes, revision, oldest, now);
        drop(watchers);
        self.shared.revision.store(revision, Ordering::Release);

        let mut queue = self.shared.queue.lock();
        for change in changes {
            if queue
                .decided
                .get(change.key())
                .is_some_and(|d| d.revision == change.revision())
            {
                queue.decided.remove(change.key());
            }
        }
        if queue.decided.is_empty() && queue.decided.capacity() > 1024 {
            queue.decided = HashMap::new();
        }
    }

    /// Fails all pending and all further writes.
    fn stop(&self, why: StoreError) {
        let mut queue = self.shared.queue.lock();
        queue.stopped = Some(why.clone());
        queue.decided.clear();
        for entry in queue.entries.drain(..) {
            let (Entry::Write { done, .. } | Entry::Conflict { done, .. }) = entry;
            // Fails only if the caller no longer waits.
            let _ = done.send(Err(why.clone()));
        }
    }

    /// Starts a new log and a snapshot when the log has outgrown the live entries.
    fn rotate(&mut self) {
        if self.log.len() < self.log_bytes.max(self.rotate_at) {
            return;
        }
        let state = self.shared.state.read();
        if self.log.len() < 2 * state.live_bytes() {
            return;
        }
        if let Some(running) = self.snapshot.take_if(|s| s.is_finished()) {
            join_snapshot(running);
        }
        if self.snapshot.is_some() {
            return;
        }
        let (base, entries) = (state.revision(), state.entries());
        drop(state);
        // Without a new log the old one continues.
        match LogWriter::create(&self.dir, base) {
            Ok(log) => {
                self.log = log;
                self.rotate_at = 0;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot begin a new log");
                self.rotate_at = self.log.len() + self.log_bytes;
                return;
            }
        }
        let dir = self.dir.clone();
        let thread = std::thread::Builder::new()
            .name("store-snapshot".into())
            .stack_size(THREAD_STACK_BYTES);
        // Without a snapshot the old files stay, and the next start reads them.
        match thread.spawn(move || take_snapshot(&dir, base, &entries)) {
            Ok(handle) => self.snapshot = Some(handle),
            Err(error) => tracing::warn!(%error, "cannot start a snapshot"),
        }
    }
}

/// Writes a snapshot and removes the files that it replaces.
fn take_snapshot(dir: &Path, base: Revision, entries: &[Arc<KeyValue>]) {
    if let Err(error) = log::write_snapshot(dir, base, entries) {
        tracing::warn!(%error, revision = base, "cannot write a snapshot");
        return;
    }
    match recovery::Files::find(dir) {
        Ok(files) => files.remove_superseded(dir, base),
        Err(error) => tracing::warn!(%error, "cannot remove what a snapshot replaces"),
    }
}

fn join_snapshot(snapshot: JoinHandle<()>) {
    if snapshot.join().is_err() {
        tracing::error!("writing a snapshot panicked");
    }
}

/// Removes the first entries, as many as fit one commit.
fn take_commit(entries: &mut Vec<Entry>) -> Vec<Entry> {
    let mut bytes = 0;
    let fit = entries.iter().take_while(|entry| {
        let fits = bytes < MAX_COMMIT_BYTES;
        if let Entry::Write {
            change: Change::Put { now, .. },
            ..
        } = entry
        {
            bytes += now.value.len();
        }
        fits
    });
    let fit = fit.count();
    if fit == entries.len() {
        return std::mem::take(entries);
    }
    let rest = entries.split_off(fit);
    std::mem::replace(entries, rest)
}
