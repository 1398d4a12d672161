//! The watch cache, which serves every read and watch.
//!
//! A single task follows the store's history and applies each change to the cache of its resource.
//! All caches are therefore at the same revision. A consistent read waits until that revision has
//! reached the store's.

mod object;
mod pages;
mod resource;
mod watcher;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rkube_api::status::Status;
use rkube_store::{Change, ListOptions, Store, StoreError};
use tokio::sync::watch;

pub use object::{CachedObject, FieldExtractor, with_revision};
pub use resource::{Event, EventKind, ResourceCache};
pub use watcher::{Filter, Position, TooOld, Watcher};

/// The time in which one attempt waits for the cache to reach the store's revision. Each attempt
/// asks the store again, which makes the watch of a shared store report its progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_PROGRESS_ATTEMPTS: u32 = 5;

/// The prefix of all keys of the API server.
pub const PREFIX: &str = "/registry/";

/// The caches of all resources, and the revision that they have all reached.
pub struct Cache {
    store: Arc<dyn Store>,
    resources: RwLock<HashMap<Box<str>, Arc<ResourceCache>>>,
    revision: watch::Sender<u64>,
}

/// Returns `"<group or core>/<plural>"`, the key of a resource's cache.
pub fn resource_key(group: &str, plural: &str) -> String {
    format!("{}/{plural}", if group.is_empty() { "core" } else { group })
}

impl Cache {
    /// Creates an empty cache of `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            resources: RwLock::default(),
            revision: watch::Sender::new(0),
        }
    }

    /// Returns the cache of a resource; creates it if it does not exist.
    pub fn resource(&self, group: &str, plural: &str) -> Arc<ResourceCache> {
        self.by_key(&resource_key(group, plural))
    }

    /// Returns the cache of a resource if it exists, that is, if it was requested or filled before.
    pub fn existing(&self, group: &str, plural: &str) -> Option<Arc<ResourceCache>> {
        self.resources
            .read()
            .get(resource_key(group, plural).as_str())
            .cloned()
    }

    fn by_key(&self, key: &str) -> Arc<ResourceCache> {
        if let Some(found) = self.resources.read().get(key) {
            return found.clone();
        }
        let mut resources = self.resources.write();
        resources
            .entry(key.into())
            .or_insert_with(|| Arc::new(ResourceCache::new(self.revision())))
            .clone()
    }

    /// Returns the revision that all caches have reached.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits until the cache includes every write that was durable at the time of the call. Returns
    /// the revision of the cache.
    ///
    /// If the store is unreachable or the cache is too far behind, falls back to cached data. Callers
    /// must follow up with a conditional write, which fails if the cache was stale.
    pub async fn consistent(&self) -> u64 {
        match self.try_consistent().await {
            Ok(revision) => revision,
            Err(error) => {
                tracing::warn!(%error, "going on with what the cache shows");
                self.revision()
            }
        }
    }

    /// As [`Self::consistent`], but for reads: fails instead of returning stale data.
    ///
    /// # Errors
    ///
    /// 503 if the store cannot report its current revision, or if the cache does not reach it in
    /// time.
    pub async fn try_consistent(&self) -> Result<u64, Status> {
        let mut patience = MAX_PROGRESS_ATTEMPTS;
        loop {
            let revision = self
                .store
                .current()
                .await
                .map_err(|e| Status::service_unavailable(format!("the store failed: {e}")))?;
            if self.revision() >= revision {
                return Ok(self.revision());
            }
            match tokio::time::timeout(PROGRESS_TIMEOUT, self.reached(revision)).await {
                Ok(now) => return Ok(now),
                Err(_) if patience > 0 => patience -= 1,
                Err(_) => {
                    return Err(Status::service_unavailable(format!(
                        "the cache has not reached the store's revision {revision} in time"
                    )));
                }
            }
        }
    }

    /// Waits until the cache has reached at least `revision`. Returns the revision of the cache.
    pub async fn reached(&self, revision: u64) -> u64 {
        if self.revision() >= revision {
            return self.revision();
        }
        let mut receiver = self.revision.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|now| *now >= revision).await;
        self.revision()
    }

    /// Returns a receiver of each new revision.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Fills the caches from the store. Returns a watch of the changes since then.
    pub async fn load(&self) -> Result<rkube_store::Watch, StoreError> {
        let page = self.store.list(PREFIX, ListOptions::default()).await?;
        let mut by_resource: HashMap<&str, Vec<&rkube_store::KeyValue>> = HashMap::new();
        for item in &page.items {
            if let Some((resource, _)) = split_key(&item.key) {
                by_resource.entry(resource).or_default().push(item);
            }
        }
        let known: Vec<Box<str>> = self.resources.read().keys().cloned().collect();
        for key in &known {
            if !by_resource.contains_key(&**key) {
                self.by_key(key).replace(std::iter::empty(), page.revision);
            }
        }
        for (key, items) in by_resource {
            let cache = self.by_key(key);
            cache.replace(
                items
                    .into_iter()
                    .filter_map(|kv| Some((split_key(&kv.key)?.1, &kv.value, kv.mod_revision))),
                page.revision,
            );
        }
        self.revision.send_replace(page.revision);
        self.store.watch(PREFIX, page.revision).await
    }

    /// Applies the store's changes until the store closes. If the watch is lost (because it fell
    /// too far behind), refills the caches; every watcher then gets [`TooOld`].
    pub async fn follow(&self, mut changes: rkube_store::Watch) {
        loop {
            while let Some(batch) = changes.recv().await {
                match batch {
                    Ok(batch) => self.apply(&batch.changes, batch.revision),
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the store's watch ended, filling the cache again");
                        break;
                    }
                }
            }
            match self.load().await {
                Ok(watch) => changes = watch,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, "the cache cannot be filled");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let (_, closed) = tokio::sync::mpsc::channel(1);
                    changes = closed;
                }
            }
        }
    }

    fn apply(&self, changes: &[Change], revision: u64) {
        // A batch usually changes few resources; wake the watchers of each once.
        let mut touched: Vec<Arc<ResourceCache>> = Vec::new();
        for change in changes {
            let (kv, at) = match change {
                Change::Put { now, .. } => (now, None),
                Change::Delete { before, revision } => (before, Some(*revision)),
            };
            let Some((resource, rest)) = split_key(&kv.key) else {
                continue;
            };
            let cache = self.by_key(resource);
            match at {
                None => cache.put(rest, &kv.value, kv.mod_revision),
                Some(at) => cache.delete(rest, at),
            }
            if !touched.iter().any(|t| Arc::ptr_eq(t, &cache)) {
                touched.push(cache);
            }
        }
        self.revision.send_replace(revision);
        for cache in touched {
            cache.wake();
        }
    }
}

/// Splits `/registry/<group>/<plural>/<rest>` into `<group>/<plural>` and `<rest>`.
fn split_key(key: &str) -> Option<(&str, &str)> {
    let tail = key.strip_prefix(PREFIX)?;
    let group = tail.find('/')?;
    let plural = group + 1 + tail[group + 1..].find('/')?;
    Some((&tail[..plural], &tail[plural + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_into_resource_and_rest() {
        assert_eq!(
            split_key("/registry/core/pods/ns/a"),
            Some(("core/pods", "ns/a"))
        );
        assert_eq!(
            split_key("/registry/apps/deployments/ns/a"),
            Some(("apps/deployments", "ns/a"))
        );
        assert_eq!(
            split_key("/registry/core/nodes/n"),
            Some(("core/nodes", "n"))
        );
        assert_eq!(split_key("/other/core/nodes/n"), None);
    }
}
