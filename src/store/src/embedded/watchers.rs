//! The delivery of changes: an index of watches by prefix.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::types::{Change, KeyValue, Revision, StoreError, Watch, WatchBatch};

/// Interval at which a watch without changes gets a batch that reports progress. Commits
/// trigger it, so that an idle store wakes no thread.
const PROGRESS_PERIOD: Duration = Duration::from_secs(10);

/// The bytes of values that a watch's receiver may be behind, besides one batch.
const MAX_QUEUED_BYTES: usize = 64 << 20;

struct Watcher {
    sender: mpsc::Sender<Result<WatchBatch, StoreError>>,
    /// The newest revision that was sent.
    sent: Revision,
    /// The bytes of the last batches that were sent, of which the receiver has not taken
    /// more than the channel holds.
    queued: VecDeque<usize>,
    queued_bytes: usize,
}

/// The watches of one prefix.
struct Group {
    prefix: Arc<str>,
    watchers: Vec<Watcher>,
    /// The changes of the current commit under the prefix.
    changes: Vec<Change>,
}

/// All watches. Publishing a change takes one lookup per distinct prefix length, however
/// many watches there are.
pub(super) struct Watchers {
    groups: HashMap<Arc<str>, Group>,
    /// The number of groups by the length of their prefix.
    lengths: BTreeMap<usize, usize>,
    touched: Vec<Arc<str>>,
    count: usize,
    swept_count: usize,
    progress_at: Instant,
    buffer: usize,
}

impl Watchers {
    /// Creates an empty index. A receiver may be `buffer` batches behind.
    pub(super) fn new(buffer: usize) -> Watchers {
        Watchers {
            groups: HashMap::new(),
            lengths: BTreeMap::new(),
            touched: Vec::new(),
            count: 0,
            swept_count: 16,
            progress_at: Instant::now(),
            buffer: buffer.max(2),
        }
    }

    /// Adds a watch that first delivers `first`.
    pub(super) fn add(&mut self, prefix: &str, first: WatchBatch) -> Watch {
        if self.count >= 2 * self.swept_count {
            self.sweep();
            self.swept_count = self.count.max(16);
        }
        // One slot is reserved for the error that ends a slow watch.
        let (sender, receiver) = mpsc::channel(self.buffer + 1);
        let sent = first.revision;
        let mut queued = VecDeque::new();
        if !first.changes.is_empty() {
            queued.push_back(batch_bytes(&first.changes));
            sender.try_send(Ok(first)).expect("a new channel has room");
        }
        let lengths = &mut self.lengths;
        let prefix: Arc<str> = Arc::from(prefix);
        let group = self.groups.entry(prefix.clone()).or_insert_with(|| {
            *lengths.entry(prefix.len()).or_default() += 1;
            Group {
                prefix,
                watchers: Vec::new(),
                changes: Vec::new(),
            }
        });
        group.watchers.push(Watcher {
            sender,
            sent,
            queued_bytes: queued.iter().sum(),
            queued,
        });
        self.count += 1;
        receiver
    }

    /// Delivers a commit to the watches whose prefix it changed. A watch that is
    /// disconnected may start again from `oldest`.
    pub(super) fn publish(
        &mut self,
        changes: &[Change],
        revision: Revision,
        oldest: Revision,
        now: Instant,
    ) {
        for change in changes {
            let key = change.key();
            for &length in self.lengths.keys() {
                // A position within a character cannot end a prefix.
                let Some(prefix) = key.get(..length) else {
                    continue;
                };
                let Some(group) = self.groups.get_mut(prefix) else {
                    continue;
                };
                if group.changes.is_empty() {
                    self.touched.push(group.prefix.clone());
                }
                group.changes.push(change.clone());
            }
        }
        for prefix in std::mem::take(&mut self.touched) {
            let Some(group) = self.groups.get_mut(&prefix) else {
                continue;
            };
            let changes = std::mem::take(&mut group.changes);
            let before = group.watchers.len();
            let bytes = batch_bytes(&changes);
            group.watchers.retain_mut(|w| {
                w.send(
                    WatchBatch {
                        changes: changes.clone(),
                        revision,
                    },
                    bytes,
                    oldest,
                )
            });
            self.count -= before - group.watchers.len();
            if group.watchers.is_empty() {
                self.remove(&prefix);
            }
        }
        if now.duration_since(self.progress_at) >= PROGRESS_PERIOD {
            self.progress_at = now;
            self.sweep();
            for watcher in self.groups.values_mut().flat_map(|g| &mut g.watchers) {
                watcher.progress(revision);
            }
        }
    }

    /// Removes the watches whose receivers are dropped.
    fn sweep(&mut self) {
        let mut empty = Vec::new();
        self.count = 0;
        for (prefix, group) in &mut self.groups {
            group.watchers.retain(|w| !w.sender.is_closed());
            self.count += group.watchers.len();
            if group.watchers.is_empty() {
                empty.push(prefix.clone());
            }
        }
        for prefix in empty {
            self.remove(&prefix);
        }
    }

    fn remove(&mut self, prefix: &str) {
        if self.groups.remove(prefix).is_some()
            && let Some(groups) = self.lengths.get_mut(&prefix.len())
        {
            *groups -= 1;
            if *groups == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }

    /// Ends every watch.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
        self.lengths.clear();
        self.count = 0;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

impl Watcher {
    /// Delivers a batch with values of `bytes`; `false` when the watch has ended.
    fn send(&mut self, batch: WatchBatch, bytes: usize, oldest: Revision) -> bool {
        let revision = batch.revision;
        let waiting = self.sender.max_capacity() - self.sender.capacity();
        while self.queued.len() > waiting {
            self.queued_bytes -= self.queued.pop_front().unwrap_or(0);
        }
        if self.sender.capacity() > 1 && self.queued_bytes <= MAX_QUEUED_BYTES {
            self.sent = revision;
            self.queued.push_back(bytes);
            self.queued_bytes += bytes;
            return self.sender.try_send(Ok(batch)).is_ok();
        }
        let slow = StoreError::Compacted {
            asked: self.sent,
            oldest,
        };
        // Fails only if the receiver is dropped, and then the error is not needed.
        let _ = self.sender.try_send(Err(slow));
        false
    }

    fn progress(&mut self, revision: Revision) {
        // A receiver with a backlog gets the revision from that.
        if self.sent < revision && self.sender.capacity() == self.sender.max_capacity() {
            self.sent = revision;
            // Nothing but this batch is in the channel.
            self.queued = VecDeque::from([0]);
            self.queued_bytes = 0;
            // Fails only if the receiver is dropped; the next sweep removes it.
            let _ = self.sender.try_send(Ok(WatchBatch {
                changes: Vec::new(),
                revision,
            }));
        }
    }
}

/// Returns the bytes of the values that changes keep alive.
fn batch_bytes(changes: &[Change]) -> usize {
    let bytes = |entry: Option<&Arc<KeyValue>>| entry.map_or(0, |e| e.value.len());
    let each = |change: &Change| bytes(change.after()) + bytes(change.before());
    changes.iter().map(each).sum()
}
