//! The contract of a store, and the types in it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

/// A position in the store's history. A fresh store is at revision 1 and its
/// first write is revision 2, as in etcd, so that 0 can mean "any" to clients.
pub type Revision = u64;

/// An entry: a key with its value and the revisions of its writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, `/`-separated by convention.
    pub key: Arc<str>,
    /// The value, opaque to the store.
    pub value: Bytes,
    /// The revision that created the key, after its last deletion if there was one.
    pub create_revision: Revision,
    /// The revision that last wrote the value.
    pub mod_revision: Revision,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key was created or overwritten.
    Put {
        /// The new entry.
        now: Arc<KeyValue>,
        /// The entry before, if there was one.
        before: Option<Arc<KeyValue>>,
    },
    /// A key was deleted.
    Delete {
        /// The deleted entry.
        before: Arc<KeyValue>,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl Change {
    /// Returns the key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Change::Put { now, .. } => &now.key,
            Change::Delete { before, .. } => &before.key,
        }
    }

    /// Returns the revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { now, .. } => now.mod_revision,
            Change::Delete { revision, .. } => *revision,
        }
    }

    /// Returns the entry before the change; `None` if the key was absent.
    pub fn before(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Change::Put { before, .. } => before.as_ref(),
            Change::Delete { before, .. } => Some(before),
        }
    }

    /// Returns the entry after the change; `None` if the key was deleted.
    pub fn after(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Change::Put { now, .. } => Some(now),
            Change::Delete { .. } => None,
        }
    }
}

/// The state of the key that a write expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key is absent.
    Absent,
    /// The key was last written at this revision.
    Revision(Revision),
    /// Any state.
    Any,
}

/// One page of a range read.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The entries in key order.
    pub items: Vec<Arc<KeyValue>>,
    /// The revision of the state that the page is of.
    pub revision: Revision,
    /// The number of entries after this page.
    pub remaining: u64,
}

/// Options of a range read.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// The revision to read at; the newest when `None`.
    pub revision: Option<Revision>,
    /// The key after which the page starts (exclusive).
    pub after: Option<String>,
    /// The largest number of entries in the page; 0 is no limit.
    pub limit: usize,
}

/// The error of a store operation.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The write's [`Expect`] did not hold.
    #[error("the key was changed meanwhile")]
    Conflict {
        /// The current entry; `None` if the key is absent.
        found: Option<Arc<KeyValue>>,
    },
    /// The revision is compacted.
    #[error("revision {asked} is compacted, the oldest is {oldest}")]
    Compacted {
        /// The requested revision.
        asked: Revision,
        /// The oldest revision that can be read or watched from.
        oldest: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future {
        /// The requested revision.
        asked: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The key is invalid or too long, or the value is too large.
    #[error("a key of {key} bytes with a value of {value} bytes is more than the store takes")]
    TooLarge {
        /// The key's length in bytes.
        key: usize,
        /// The value's length in bytes.
        value: usize,
    },
    /// The disk is full. The write had no effect, and may succeed when there is room.
    #[error("the store's disk is full: {0}")]
    Full(String),
    /// A disk operation failed. The store accepts no further writes.
    #[error("the store's disk failed: {0}")]
    Disk(String),
    /// The files on disk are damaged, and not just by a torn last write.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The files on disk have a format that this program does not know.
    #[error("the store was made by a newer version of this program: {0}")]
    Format(String),
    /// Another process has the store open.
    #[error("another process has the store open: {0}")]
    InUse(String),
    /// A remote store did not respond as expected. It is unknown whether a write took
    /// effect.
    #[error("{0}")]
    Unavailable(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A stream of changes in revision order, batched as they were committed.
pub type Watch = mpsc::Receiver<Result<WatchBatch, StoreError>>;

/// A batch of a watch.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// Changes under the watch's prefix; empty in a batch that reports progress only.
    pub changes: Vec<Change>,
    /// The revision up to which every change has been delivered.
    pub revision: Revision,
}

/// The future result of a store operation.
pub type Pending<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The contract of a store. The same tests run against every implementation.
pub trait Store: Send + Sync + 'static {
    /// Returns the newest entry under `key`, and the revision of that state.
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)>;

    /// Returns the entries whose keys begin with `prefix`, in key order.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`] for a revision that cannot
    /// be read.
    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page>;

    /// Writes `value` under `key` and returns the new entry once it is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `expect` does not hold.
    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>>;

    /// Writes like [`Self::put`], as a step of a deletion: the mark of an object that is to be
    /// deleted, or a write of an object that has the mark.
    ///
    /// A store that keeps room for deletions on a full disk lets it use a part of that.
    fn put_deleting<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> Pending<'a, Arc<KeyValue>> {
        self.put(key, value, expect)
    }

    /// Deletes `key` and returns its last entry and the revision of the deletion.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `expect` does not hold or the key is absent.
    fn delete<'a>(&'a self, key: &'a str, expect: Expect)
    -> Pending<'a, (Arc<KeyValue>, Revision)>;

    /// Watches the keys that begin with `prefix`: delivers every change after revision
    /// `after`, then new ones as they become durable.
    ///
    /// A change is in the receiver's channel before its write returns; a remote store
    /// waits for that no longer than a second. A receiver that falls too far behind
    /// gets [`StoreError::Compacted`] and the end of the stream.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`] for a revision that cannot
    /// be watched from.
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Pending<'a, Watch>;

    /// Discards the history before `revision`; the newest entry of every key stays.
    /// Compacting to a revision that is compacted already has no effect.
    ///
    /// # Errors
    /// [`StoreError::Future`] when the revision does not exist yet.
    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()>;

    /// Returns the newest durable revision that this process knows of.
    fn revision(&self) -> Revision;

    /// Returns the newest durable revision, no older than this call, including writes
    /// of other processes. Every watch will deliver a batch of at least that revision.
    ///
    /// A store without other writers returns [`Self::revision`].
    fn current(&self) -> Pending<'_, Revision> {
        let revision = self.revision();
        Box::pin(std::future::ready(Ok(revision)))
    }

    /// Returns whether a list costs no more than its references, however many entries it
    /// has.
    fn is_in_memory(&self) -> bool {
        false
    }

    /// Returns why writes fail at present; `Ok` as far as this process knows that they
    /// succeed.
    fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits until the store has failed in a way that it does not recover from, and
    /// returns the reason. The process should end then, and open the store again.
    fn failed(&self) -> BoxFuture<'_, StoreError> {
        Box::pin(std::future::pending())
    }
}
