//! The live entries and the history of recent changes, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::types::{Change, KeyValue, ListOptions, Page, Revision, StoreError};

/// The bounds of the history. The one that is reached first applies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) changes: usize,
    pub(super) bytes: usize,
    pub(super) age: Duration,
}

/// An estimate of the memory that a change takes besides values, in bytes.
const OVERHEAD_BYTES: usize = 128;

/// The durable state and the changes that led to it.
pub(super) struct State {
    live: BTreeMap<Arc<str>, Arc<KeyValue>>,
    live_bytes: u64,
    revision: Revision,
    /// The oldest revision that can be read or watched from. Every change after it is
    /// in `history`.
    oldest: Revision,
    /// The changes of the revisions `oldest + 1 ..= revision`, one each.
    history: VecDeque<Change>,
    /// The memory that the history keeps alive: structures, and each value once that it
    /// wrote or replaced.
    history_bytes: usize,
    /// Times of the changes up to a revision, to remove them by age.
    epochs: VecDeque<(Revision, Instant)>,
}

impl State {
    /// Creates an empty state, which a snapshot may be loaded into.
    pub(super) fn new(revision: Revision) -> State {
        State {
            live: BTreeMap::new(),
            live_bytes: 0,
            revision,
            oldest: revision,
            history: VecDeque::new(),
            history_bytes: 0,
            epochs: VecDeque::new(),
        }
    }

    /// Adds an entry of a snapshot.
    pub(super) fn load(&mut self, entry: KeyValue) {
        self.live_bytes += entry_bytes(&entry);
        if let Some(before) = self.live.insert(entry.key.clone(), Arc::new(entry)) {
            self.live_bytes -= entry_bytes(&before);
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn oldest(&self) -> Revision {
        self.oldest
    }

    /// Returns the bytes of live keys and values.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<KeyValue>> {
        self.live.get(key)
    }

    pub(super) fn entries(&self) -> Vec<Arc<KeyValue>> {
        self.live.values().cloned().collect()
    }

    /// Applies changes of the revisions that follow the newest one.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = Change>, now: Instant) {
        for change in changes {
            debug_assert_eq!(
                change.revision(),
                self.revision + 1,
                "revisions are consecutive"
            );
            self.revision = change.revision();
            if let Some(before) = change.before() {
                self.live_bytes -= entry_bytes(before);
            }
            match change.after() {
                Some(entry) => {
                    self.live_bytes += entry_bytes(entry);
                    self.live.insert(entry.key.clone(), entry.clone());
                }
                None => {
                    self.live.remove(change.key());
                }
            }
            self.history_bytes += OVERHEAD_BYTES + change.after().map_or(0, |e| e.value.len());
            // An older value is held by nothing else any more.
            if let Some(before) = change.before()
                && before.mod_revision <= self.oldest
            {
                self.history_bytes += before.value.len();
            }
            self.history.push_back(change);
        }
        match self.epochs.back_mut() {
            // One mark per second is exact enough to remove changes by age.
            Some((revision, at)) if now.duration_since(*at) < Duration::from_secs(1) => {
                *revision = self.revision
            }
            _ => self.epochs.push_back((self.revision, now)),
        }
    }

    /// Removes the history outside of the window.
    pub(super) fn trim(&mut self, window: &Window, now: Instant) {
        while !self.history.is_empty()
            && (self.history.len() > window.changes || self.history_bytes > window.bytes)
        {
            self.forget_first();
        }
        while let Some((revision, at)) = self.epochs.front().copied()
            && now.duration_since(at) > window.age
        {
            self.epochs.pop_front();
            self.forget_until(revision);
        }
        // Frees the memory of a burst of changes once they are removed.
        if self.history.capacity() > 1024 && self.history.len() < self.history.capacity() / 4 {
            self.history.shrink_to(self.history.len() * 2);
        }
    }

    #[cfg(test)]
    pub(super) fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// Returns whether there is history that will reach its age.
    pub(super) fn has_history(&self) -> bool {
        !self.history.is_empty()
    }

    /// Removes the changes up to `revision` from the history.
    pub(super) fn forget_until(&mut self, revision: Revision) {
        while self.oldest < revision && !self.history.is_empty() {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(change) = self.history.pop_front() else {
            return;
        };
        self.oldest = change.revision();
        // No change before it was left to share its old value with.
        let mut freed = OVERHEAD_BYTES + change.before().map_or(0, |e| e.value.len());
        // Its new value stays in the history if another change has replaced it.
        if let Some(entry) = change.after()
            && self
                .live
                .get(&entry.key)
                .is_some_and(|live| live.mod_revision == entry.mod_revision)
        {
            freed += entry.value.len();
        }
        self.history_bytes -= freed;
    }

    /// Checks that `revision` can be read and watched from.
    pub(super) fn check(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.oldest {
            return Err(StoreError::Compacted {
                asked: revision,
                oldest: self.oldest,
            });
        }
        if revision > self.revision {
            return Err(StoreError::Future {
                asked: revision,
                newest: self.revision,
            });
        }
        Ok(())
    }

    /// Returns the changes after `revision`, which [`Self::check`] accepted.
    fn changes_after(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        self.history.range((revision - self.oldest) as usize..)
    }

    /// Returns the changes under `prefix` after `revision`.
    pub(super) fn changes(
        &self,
        prefix: &str,
        revision: Revision,
    ) -> Result<Vec<Change>, StoreError> {
        self.check(revision)?;
        Ok(self
            .changes_after(revision)
            .filter(|c| c.key().starts_with(prefix))
            .cloned()
            .collect())
    }

    /// Returns a page of the entries under `prefix`.
    pub(super) fn list(&self, prefix: &str, options: &ListOptions) -> Result<Page, StoreError> {
        let revision = options.revision.unwrap_or(self.revision);
        self.check(revision)?;
        let start = match &options.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let in_page = |key: &str| {
            key.starts_with(prefix)
                && match start {
                    Bound::Excluded(after) => key > after,
                    _ => true,
                }
        };
        // The keys that differed at `revision`, with the entry before the first change
        // since.
        let mut then: BTreeMap<&str, Option<&Arc<KeyValue>>> = BTreeMap::new();
        for change in self.changes_after(revision).filter(|c| in_page(c.key())) {
            then.entry(change.key()).or_insert(change.before());
        }
        let now = self
            .live
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (&**key, entry));

        let mut page = Page {
            revision,
            ..Page::default()
        };
        let mut add = |entry: &Arc<KeyValue>| {
            if options.limit == 0 || page.items.len() < options.limit {
                page.items.push(entry.clone());
            } else {
                page.remaining += 1;
            }
        };
        let mut then = then.into_iter().peekable();
        for (key, entry) in now {
            while let Some((_, gone)) = then.next_if(|(old, _)| *old < key) {
                gone.map(&mut add);
            }
            match then.next_if(|(old, _)| *old == key) {
                Some((_, before)) => {
                    before.map(&mut add);
                }
                None => add(entry),
            }
        }
        for (_, gone) in then {
            gone.map(&mut add);
        }
        Ok(page)
    }
}

fn entry_bytes(entry: &KeyValue) -> u64 {
    (entry.key.len() + entry.value.len()) as u64
}
