//! A revisioned key-value store with watches.
//!
//! It deals in keys, bytes and revisions, and has no notion of Kubernetes. The
//! semantics are etcd v3's: the store has one revision counter, and each write takes the
//! next revision. A watch replays every change after a revision, and compaction discards
//! the history before one.

pub mod dump;
// It uses the file systems and locks of Unix.
#[cfg(unix)]
pub mod embedded;
pub mod etcd;
mod types;

#[cfg(test)]
mod contract;

#[cfg(unix)]
pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use etcd::{EtcdOptions, EtcdStore};
pub use types::{
    Change, Expect, KeyValue, ListOptions, Page, Pending, Revision, Store, StoreError, Watch,
    WatchBatch,
};
