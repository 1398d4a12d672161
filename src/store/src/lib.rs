//! A revisioned key-value store with watch.
//!
//! It knows keys, bytes and revisions, and nothing of Kubernetes. The semantics
//! are etcd v3's: one revision counter for the whole store, each write takes the
//! next, a watch replays every change after a revision, and compaction forgets
//! the history before one.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

pub mod dump;
// A node's own, with a node's file system.
#[cfg(unix)]
pub mod embedded;
pub mod etcd;

#[cfg(test)]
mod contract;

#[cfg(unix)]
pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use etcd::{EtcdOptions, EtcdStore};

/// A position in the store's history. A fresh store is at revision 1 and its
/// first write is revision 2, as in etcd, so that 0 can mean "any" to clients.
pub type Revision = u64;

/// A stored value and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, `/`-separated by convention.
    pub key: Arc<str>,
    /// The value, opaque.
    pub value: Bytes,
    /// When the key was last made.
    pub create_revision: Revision,
    /// When the value was last written.
    pub mod_revision: Revision,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key was made or overwritten.
    Put {
        /// The new state.
        now: Arc<KeyValue>,
        /// The state before, if there was one.
        before: Option<Arc<KeyValue>>,
    },
    /// A key was deleted.
    Delete {
        /// The last state.
        before: Arc<KeyValue>,
        /// When.
        revision: Revision,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Change::Put { now, .. } => &now.key,
            Change::Delete { before, .. } => &before.key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { now, .. } => now.mod_revision,
            Change::Delete { revision, .. } => *revision,
        }
    }

    /// The state before the change.
    pub fn before(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Change::Put { before, .. } => before.as_ref(),
            Change::Delete { before, .. } => Some(before),
        }
    }

    /// The state after the change.
    pub fn after(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Change::Put { now, .. } => Some(now),
            Change::Delete { .. } => None,
        }
    }
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing under the key.
    Absent,
    /// The key as last written at this revision.
    Revision(Revision),
    /// Whatever is there.
    Any,
}

/// A page of a range read.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The entries in key order.
    pub items: Vec<Arc<KeyValue>>,
    /// The revision that the page shows.
    pub revision: Revision,
    /// How many entries follow the last one of this page.
    pub remaining: u64,
}

/// What a range read asks for.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Show the state as of this revision; the newest when `None`.
    pub revision: Option<Revision>,
    /// Start after this key (exclusive).
    pub after: Option<String>,
    /// At most this many entries; 0 is no limit.
    pub limit: usize,
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The write's [`Expect`] did not hold; `found` is what is there now.
    #[error("the key was changed meanwhile")]
    Conflict {
        /// The present state.
        found: Option<Arc<KeyValue>>,
    },
    /// The revision was compacted away; `oldest` can still be read or watched from.
    #[error("revision {asked} is compacted, the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that is left.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The key is empty or longer than the store takes, or the value larger.
    #[error("a key of {key} bytes with a value of {value} bytes is more than the store takes")]
    TooLarge {
        /// The key's length in bytes.
        key: usize,
        /// The value's length in bytes.
        value: usize,
    },
    /// The disk failed; the store takes no further writes.
    #[error("the store's disk failed: {0}")]
    Disk(String),
    /// The files on disk are damaged beyond what a torn last write explains.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The store is elsewhere and did not answer as it should; whether a write
    /// took effect is not known.
    #[error("{0}")]
    Unavailable(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Changes in revision order, batched as they were committed.
pub type Watch = mpsc::Receiver<Result<WatchBatch, StoreError>>;

/// What a watch delivers at once.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// Changes under the watch's prefix; may be empty (progress only).
    pub changes: Vec<Change>,
    /// Every change up to here has been delivered.
    pub revision: Revision,
}

/// An answer of the store that is to come.
pub type Pending<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The store's contract; the same tests run against every implementation.
pub trait Store: Send + Sync + 'static {
    /// The newest entry under `key`, and the revision at which that was so.
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)>;

    /// Entries whose keys begin with `prefix`, in key order.
    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page>;

    /// Writes `value`. Resolves once the write is durable.
    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>>;

    /// Deletes `key`, giving its last state and the revision of the deletion.
    /// Deleting what is not there is `Conflict { found: None }`.
    fn delete<'a>(&'a self, key: &'a str, expect: Expect)
    -> Pending<'a, (Arc<KeyValue>, Revision)>;

    /// Every change under `prefix` after revision `after`, then new ones as
    /// they become durable. A change is in the receiver's channel before its
    /// writer is told of success (a store that is elsewhere waits for that no
    /// longer than a second). A receiver that falls too far behind gets
    /// [`StoreError::Compacted`] and the end of the stream.
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Pending<'a, Watch>;

    /// Forgets history before `revision`; the newest state of every key stays.
    /// Compacting what is compacted already does nothing.
    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()>;

    /// The newest durable revision that is known here.
    fn revision(&self) -> Revision;

    /// The newest durable revision, no older than this call, whoever wrote it;
    /// the watches will tell that they are there. A store that nobody else
    /// writes to knows it at once.
    fn current(&self) -> Pending<'_, Revision> {
        let revision = self.revision();
        Box::pin(std::future::ready(Ok(revision)))
    }
}
