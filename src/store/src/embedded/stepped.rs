//! A store without threads on the simulated disk, for simulations of what is above it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::log::{Claim, Preallocation};
use super::sim_disk::SimDisk;
use super::writer::Writer;
use super::{EmbeddedOptions, Shared, open_parts};
use crate::types::{
    Expect, KeyValue, ListOptions, Page, Pending, Revision, Store, StoreError, Watch,
};

/// A [`Store`] whose writes are made durable by [`SteppedStore::run`], a task of the caller's
/// runtime. The order of everything in it is that of the runtime.
pub struct SteppedStore {
    shared: Arc<Shared>,
    writer: Mutex<Writer<SimDisk>>,
    /// Notified when a write is queued.
    queued: Notify,
}

impl SteppedStore {
    /// Opens the store on `disk`.
    ///
    /// # Errors
    /// Those of [`super::EmbeddedStore::open`].
    pub fn open(disk: &SimDisk, options: &EmbeddedOptions) -> Result<Arc<Self>, StoreError> {
        let (shared, writer) = open_parts(disk.clone(), options, Preallocation::default())?;
        Ok(Arc::new(SteppedStore {
            shared,
            writer: Mutex::new(writer),
            queued: Notify::new(),
        }))
    }

    /// Makes writes durable and visible until the disk fails. Each commit takes as long as
    /// `latency` returns for it, and has all writes that were made until then.
    pub async fn run(&self, mut latency: impl FnMut() -> Duration) {
        loop {
            self.queued.notified().await;
            tokio::time::sleep(latency()).await;
            let mut writer = self.writer.lock();
            if self.shared.is_full() {
                writer.try_room();
            }
            // A commit may leave some of what is queued.
            while self.shared.has_queued() {
                if !writer.step() {
                    return;
                }
            }
            if let Some(snapshot) = writer.begin_log() {
                snapshot.take();
            }
        }
    }

    fn write(&self, key: &str, value: Option<Bytes>, expect: Expect, claim: Claim) -> Written {
        let answer = self.shared.decide(key, value, expect, claim);
        self.queued.notify_one();
        Box::pin(async move {
            // The sender is dropped without a result when the simulated process has ended.
            answer?.await.unwrap_or(Err(StoreError::Closed))
        })
    }
}

type Written = BoxFuture<'static, super::Answer>;

impl Store for SteppedStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)> {
        self.shared.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page> {
        self.shared.list(prefix, options)
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>> {
        Box::pin(async move {
            let written = self.write(key, Some(value), expect, Claim::Nothing);
            Ok(written.await?.0)
        })
    }

    fn put_deleting<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> Pending<'a, Arc<KeyValue>> {
        Box::pin(async move {
            let written = self.write(key, Some(value), expect, Claim::Half);
            Ok(written.await?.0)
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
    ) -> Pending<'a, (Arc<KeyValue>, Revision)> {
        Box::pin(async move { self.write(key, None, expect, Claim::All).await })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Pending<'a, Watch> {
        Box::pin(async move { self.shared.watch(prefix, after) })
    }

    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()> {
        Box::pin(async move { self.shared.compact(revision) })
    }

    fn revision(&self) -> Revision {
        self.shared
            .revision
            .load(std::sync::atomic::Ordering::Acquire)
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
