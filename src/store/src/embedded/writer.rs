//! The thread that makes decided writes durable and visible.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::frame::FrameBuilder;
use super::log::{self, AppendError, Claim, LogWriter, Preallocation};
use super::state::Window;
use super::{Entry, Shared, THREAD_STACK_BYTES, recovery};
use crate::types::{Change, KeyValue, Revision, StoreError};

/// The bytes of values after which a commit takes no more writes. It bounds frames.
const MAX_COMMIT_BYTES: usize = 16 << 20;
/// Interval at which the history of an idle store is checked for changes past their age.
const HISTORY_CHECK_PERIOD: Duration = Duration::from_secs(60);
/// Interval of attempts to write to a full disk.
const FULL_CHECK_PERIOD: Duration = Duration::from_secs(1);

/// The state of the thread that makes decided writes durable and visible.
pub(super) struct Writer<D: Disk> {
    shared: Arc<Shared>,
    disk: D,
    log: LogWriter<D>,
    window: Window,
    room: Preallocation,
    /// [`super::EmbeddedOptions::log_bytes`].
    log_bytes: u64,
    /// The log's size below which a failed rotation is not retried.
    rotate_at: u64,
    /// Time at which the disk was last found full.
    found_full: Instant,
    snapshot: Option<JoinHandle<()>>,
    frame: FrameBuilder,
}

/// The next task of the thread.
enum Work {
    Commit(Vec<Entry>),
    Trim,
    TryRoom,
    Close,
}

/// A snapshot that is to be written.
pub(super) struct Snapshot<D> {
    disk: D,
    base: Revision,
    entries: Vec<Arc<KeyValue>>,
}

/// Fails all writes when the thread panics, so that no caller waits for it.
struct StopOnPanic(Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .stop(StoreError::Disk("the store's writer panicked".into()));
        }
    }
}

impl<D: Disk> Writer<D> {
    pub(super) fn new(
        shared: Arc<Shared>,
        disk: D,
        log: LogWriter<D>,
        window: Window,
        room: Preallocation,
        log_bytes: u64,
    ) -> Writer<D> {
        Writer {
            shared,
            disk,
            log,
            window,
            room,
            log_bytes,
            rotate_at: 0,
            found_full: Instant::now(),
            snapshot: None,
            frame: FrameBuilder::begin(),
        }
    }

    /// Works until the store closes or its disk fails.
    pub(super) fn run(mut self) {
        let _stop = StopOnPanic(self.shared.clone());
        loop {
            match self.wait() {
                Work::Commit(entries) => {
                    if !self.commit(entries) {
                        break;
                    }
                    self.rotate();
                }
                Work::Trim => {
                    let mut state = self.shared.state.write();
                    state.trim(&self.window, Instant::now());
                }
                Work::TryRoom => self.try_room(),
                Work::Close => {
                    self.shared.stop(StoreError::Closed);
                    self.shared.watchers.lock().clear();
                    break;
                }
            }
        }
        if let Some(snapshot) = self.snapshot.take() {
            join_snapshot(snapshot);
        }
    }

    /// Waits for something to do.
    fn wait(&mut self) -> Work {
        let mut queue = self.shared.queue.lock();
        loop {
            // Also while there is something to commit: other writes are refused until then.
            let full = self.shared.is_full();
            if full && self.found_full.elapsed() >= FULL_CHECK_PERIOD {
                return Work::TryRoom;
            }
            if !queue.entries.is_empty() {
                return Work::Commit(take_commit(&mut queue.entries));
            }
            if queue.closing {
                return Work::Close;
            }
            let (period, work) = if full {
                (FULL_CHECK_PERIOD, Work::TryRoom)
            } else if self.shared.state.read().has_history() {
                (HISTORY_CHECK_PERIOD, Work::Trim)
            } else {
                self.shared.work.wait(&mut queue);
                continue;
            };
            if self.shared.work.wait_for(&mut queue, period).timed_out() {
                return work;
            }
        }
    }

    /// Commits what is queued; for tests, which have no thread. Returns `false` when the
    /// disk has failed.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn step(&mut self) -> bool {
        let entries = take_commit(&mut self.shared.queue.lock().entries);
        entries.is_empty() || self.commit(entries)
    }

    #[cfg(test)]
    pub(super) fn log_len(&self) -> u64 {
        self.log.len()
    }

    /// Makes entries durable and visible, and completes them. Returns `false` when the
    /// disk has failed and nothing more can be written.
    fn commit(&mut self, entries: Vec<Entry>) -> bool {
        let mut changes = Vec::with_capacity(entries.len());
        let mut answers = Vec::with_capacity(entries.len());
        // A commit is written as a whole, so one deletion in it lets all of it use the reserve.
        // Once the disk is known to be full, these are only steps of deletions.
        let mut claim = Claim::Nothing;
        self.frame.reset();
        for entry in entries {
            match entry {
                Entry::Write {
                    change,
                    claim: own,
                    done,
                } => {
                    claim = claim.max(own);
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
        let mut failed = None;
        if !changes.is_empty() {
            match self.append(claim) {
                Ok(()) => self.publish(&changes),
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else {
            for (done, answer) in answers {
                // Fails only if the caller no longer waits.
                let _ = done.send(answer);
            }
            return true;
        };
        let (error, goes_on) = match error {
            AppendError::Full(error) => (StoreError::Full(error.to_string()), true),
            AppendError::Failed(error) => (StoreError::Disk(error.to_string()), false),
        };
        // Before anything is logged: the log may be on the same disk.
        match goes_on {
            true => {
                self.found_full = Instant::now();
                self.shared.refuse(&error);
            }
            false => self.shared.stop(error.clone()),
        }
        for (done, _) in answers {
            // Fails only if the caller no longer waits.
            let _ = done.send(Err(error.clone()));
        }
        if !goes_on {
            tracing::error!(%error, "the store takes no further writes");
        }
        goes_on
    }

    /// Appends the frame to the log.
    fn append(&mut self, claim: Claim) -> Result<(), AppendError> {
        *self.shared.writing_since.lock() = Some(Instant::now());
        let appended = self.log.append(&mut self.frame, claim);
        *self.shared.writing_since.lock() = None;
        match appended? {
            Some(error) => {
                self.found_full = Instant::now();
                let why = StoreError::Full(error.to_string());
                self.shared.set_full(Some(why));
            }
            None if self.shared.is_full() && self.log.has_room() => self.shared.set_full(None),
            None => {}
        }
        Ok(())
    }

    /// Looks whether a full disk has room again.
    pub(super) fn try_room(&mut self) {
        self.found_full = Instant::now();
        match self.log.make_room() {
            Ok(()) => self.shared.set_full(None),
            Err(error) => tracing::debug!(%error, "there is no room for the store yet"),
        }
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
        // Before the watches: a client that received a change must not read an older revision.
        self.shared.revision.store(revision, Ordering::Release);
        watchers.publish(changes, revision, oldest, now);
        drop(watchers);

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

    /// Starts a new log, and a snapshot in a thread, when the log has outgrown the live
    /// entries.
    fn rotate(&mut self) {
        if let Some(running) = self.snapshot.take_if(|s| s.is_finished()) {
            join_snapshot(running);
        }
        if self.snapshot.is_some() {
            return;
        }
        let Some(snapshot) = self.begin_log() else {
            return;
        };
        let thread = std::thread::Builder::new()
            .name("store-snapshot".into())
            .stack_size(THREAD_STACK_BYTES);
        // Without a snapshot the old files stay, and the next start reads them.
        match thread.spawn(move || snapshot.take()) {
            Ok(handle) => self.snapshot = Some(handle),
            Err(error) => tracing::warn!(%error, "cannot start a snapshot"),
        }
    }

    /// Starts a new log when the log has outgrown the live entries. Returns the snapshot
    /// that precedes it, which is still to be taken.
    pub(super) fn begin_log(&mut self) -> Option<Snapshot<D>> {
        if self.log.len() < self.log_bytes.max(self.rotate_at) {
            return None;
        }
        let state = self.shared.state.read();
        if self.log.len() < 2 * state.live_bytes() {
            return None;
        }
        let (base, entries) = (state.revision(), state.entries());
        drop(state);
        // Without a new log the old one continues, with its reserve.
        match LogWriter::create_reserved(&self.disk, base, self.room) {
            Ok(log) => {
                self.log = log;
                self.rotate_at = 0;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot begin a new log");
                self.rotate_at = self.log.len() + self.log_bytes;
                return None;
            }
        }
        Some(Snapshot {
            disk: self.disk.clone(),
            base,
            entries,
        })
    }
}

impl<D: Disk> Snapshot<D> {
    /// Writes the snapshot and removes the files that are no longer needed with it.
    pub(super) fn take(self) {
        let Snapshot {
            disk,
            base,
            entries,
        } = self;
        if let Err(error) = log::write_snapshot(&disk, base, &entries) {
            tracing::warn!(%error, revision = base, "cannot write a snapshot");
            return;
        }
        drop(entries);
        // Removing the generation before the last one must not rest on a bad one.
        if let Err(error) = recovery::read_entries(&disk, base, drop) {
            tracing::error!(%error, revision = base, "a new snapshot cannot be read back");
            return;
        }
        match recovery::Files::find(&disk) {
            Ok(files) => files.remove_superseded(&disk),
            Err(error) => tracing::warn!(%error, "cannot remove what a snapshot replaces"),
        }
    }

    /// Returns the snapshot on another view of the disk.
    #[cfg(test)]
    pub(super) fn on(self, disk: D) -> Snapshot<D> {
        Snapshot { disk, ..self }
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
