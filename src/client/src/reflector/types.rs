//! What is watched, and who receives it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rkube_component_helpers::backoff::Backoff;
use serde::de::DeserializeOwned;

/// Default delays between attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));

/// An object that a store can hold: anything with object metadata.
pub trait Versioned: Clone + DeserializeOwned + Debug + Send + Sync + 'static {
    /// Returns the metadata.
    fn metadata(&self) -> &ObjectMeta;
    /// Returns the metadata for modification.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
}

impl<K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Versioned for K {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        self.meta_mut()
    }
}

/// The objects to list and watch.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path of the collection, such as `/apis/apps/v1/deployments`.
    pub path: String,
    /// Field selector.
    pub fields: Option<String>,
    /// Label selector.
    pub labels: Option<String>,
    /// Whether to request only metadata (`PartialObjectMetadata`).
    pub metadata_only: bool,
    /// How the first list is received.
    pub initial: Initial,
    /// Returns the delay after a number of failures in a row; a quarter is added or taken away at
    /// random.
    pub delay: fn(u32) -> Duration,
}

/// The way in which the objects are received before their changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initial {
    /// In one response, followed by a watch.
    #[default]
    List,
    /// As the first events of the watch (KEP-3157), which saves a request and the text of the whole
    /// list. Servers that refuse that are asked for a list.
    Stream,
}

impl Source {
    /// Returns a source of all objects of a collection, by its path.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            fields: None,
            labels: None,
            metadata_only: false,
            initial: Initial::default(),
            delay: |failures| BACKOFF.delay(failures),
        }
    }

    /// Returns a source of the objects of a kind, in one namespace or in all of them.
    pub fn of<K: kube::Resource<DynamicType = ()>>(namespace: Option<&str>) -> Self {
        Self::new(K::url_path(&(), namespace))
    }

    /// Restricts the source to objects with these fields.
    #[must_use]
    pub fn fields(self, selector: impl Into<String>) -> Self {
        Self {
            fields: Some(selector.into()),
            ..self
        }
    }

    /// Restricts the source to objects with these labels.
    #[must_use]
    pub fn labels(self, selector: impl Into<String>) -> Self {
        Self {
            labels: Some(selector.into()),
            ..self
        }
    }

    /// Requests only metadata.
    #[must_use]
    pub fn metadata_only(self) -> Self {
        Self {
            metadata_only: true,
            ..self
        }
    }

    /// Receives the first list as events.
    #[must_use]
    pub fn streamed(self) -> Self {
        Self {
            initial: Initial::Stream,
            ..self
        }
    }

    /// Sets the delays after failures.
    #[must_use]
    pub fn delays(self, delay: fn(u32) -> Duration) -> Self {
        Self { delay, ..self }
    }
}

/// An object that exists, and whose contents cannot be read.
///
/// The watch goes on without it. A receiver that knows an earlier state of the same object keeps
/// that: the object was not deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
    /// Why it cannot be read.
    pub error: String,
}

impl Unreadable {
    /// Returns whether this is the object with this metadata, in whatever state.
    pub fn is(&self, meta: &ObjectMeta) -> bool {
        meta.name.as_deref() == Some(&self.name)
            && meta.namespace.as_deref().unwrap_or_default() == self.namespace
            && meta.uid.as_deref().unwrap_or_default() == self.uid
    }
}

/// All objects of a source at one revision.
#[derive(Clone, Debug)]
pub struct Listed<K> {
    /// The objects.
    pub objects: Vec<K>,
    /// Objects that exist as well, but cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// The revision.
    pub revision: u64,
}

impl<K> Listed<K> {
    /// Returns a list without unreadable objects.
    pub fn new(objects: Vec<K>, revision: u64) -> Self {
        Self {
            objects,
            unreadable: Vec::new(),
            revision,
        }
    }

    /// Returns whether an object that was known before still exists and cannot be read any more.
    pub fn keeps(&self, meta: &ObjectMeta) -> bool {
        self.unreadable.iter().any(|object| object.is(meta))
    }
}

/// The receiver of a list and watch.
///
/// Its methods are called from one task, one after the other. Except for [`Sink::ready`] they must
/// not block.
pub trait Sink<K>: Send + Sync {
    /// Replaces the contents by a list: objects that are missing in it were deleted, except those
    /// that cannot be read.
    fn replace(&self, list: Listed<K>);

    /// Adds or updates an object.
    fn apply(&self, object: K);

    /// Removes an object.
    fn remove(&self, object: K);

    /// Records that the watch has progressed to this revision without further changes.
    fn bookmark(&self, _revision: u64) {}

    /// An object was added or updated and cannot be read. What is known of it stays.
    fn unreadable(&self, _object: Unreadable) {}

    /// The list or watch failed and will be tried again: until then, what is known may be stale.
    fn failed(&self, _error: &kube::Error) {}

    /// Returns what to wait for before the next call, if the receiver cannot take it yet.
    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }
}

impl<K, S: Sink<K>> Sink<K> for Arc<S> {
    fn replace(&self, list: Listed<K>) {
        S::replace(self, list);
    }

    fn apply(&self, object: K) {
        S::apply(self, object);
    }

    fn remove(&self, object: K) {
        S::remove(self, object);
    }

    fn bookmark(&self, revision: u64) {
        S::bookmark(self, revision);
    }

    fn unreadable(&self, object: Unreadable) {
        S::unreadable(self, object);
    }

    fn failed(&self, error: &kube::Error) {
        S::failed(self, error);
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        S::ready(self)
    }
}
