//! Who gets which change: an index of watches by prefix.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::{Change, Revision, StoreError, Watch, WatchBatch};

/// How often a watch without changes is told how far the store is. It rides
/// on commits, so that an idle store wakes nobody.
const PROGRESS: Duration = Duration::from_secs(10);

struct Watcher {
    sender: mpsc::Sender<Result<WatchBatch, StoreError>>,
    /// The newest revision that the receiver knows of.
    sent: Revision,
}

/// The watches of one prefix.
struct Group {
    prefix: Arc<str>,
    watchers: Vec<Watcher>,
    /// What the commit in hand changed under the prefix.
    changes: Vec<Change>,
}

/// Every watch. A change looks up as many prefixes as there are distinct
/// prefix lengths, however many watches there are.
pub(super) struct Watchers {
    groups: HashMap<Arc<str>, Group>,
    /// How many groups have a prefix of this length.
    lengths: BTreeMap<usize, usize>,
    touched: Vec<Arc<str>>,
    count: usize,
    swept_count: usize,
    progress_at: Instant,
    buffer: usize,
}

impl Watchers {
    /// `buffer` is how many batches a receiver may be behind.
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
        // One place is kept back for the error that ends a slow watch.
        let (sender, receiver) = mpsc::channel(self.buffer + 1);
        let sent = first.revision;
        if !first.changes.is_empty() {
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
        group.watchers.push(Watcher { sender, sent });
        self.count += 1;
        receiver
    }

    /// Hands a commit to the watches that it concerns. `oldest` is where a
    /// watch that is cut off may start again.
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
                // A cut within a character is nobody's prefix.
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
            group.watchers.retain_mut(|w| {
                w.send(
                    WatchBatch {
                        changes: changes.clone(),
                        revision,
                    },
                    oldest,
                )
            });
            self.count -= before - group.watchers.len();
            if group.watchers.is_empty() {
                self.remove(&prefix);
            }
        }
        if now.duration_since(self.progress_at) >= PROGRESS {
            self.progress_at = now;
            self.sweep();
            for watcher in self.groups.values_mut().flat_map(|g| &mut g.watchers) {
                watcher.progress(revision);
            }
        }
    }

    /// Forgets the watches whose receivers are gone.
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
    /// Delivers a batch; `false` when the watch is over.
    fn send(&mut self, batch: WatchBatch, oldest: Revision) -> bool {
        let revision = batch.revision;
        if self.sender.capacity() > 1 {
            self.sent = revision;
            return self.sender.try_send(Ok(batch)).is_ok();
        }
        let slow = StoreError::Compacted {
            asked: self.sent,
            oldest,
        };
        // Fails only if the receiver is gone, who then needs no error.
        let _ = self.sender.try_send(Err(slow));
        false
    }

    fn progress(&mut self, revision: Revision) {
        // A receiver with a backlog learns the revision from that.
        if self.sent < revision && self.sender.capacity() == self.sender.max_capacity() {
            self.sent = revision;
            // Fails only if the receiver is gone; the next sweep notices.
            let _ = self.sender.try_send(Ok(WatchBatch {
                changes: Vec::new(),
                revision,
            }));
        }
    }
}
