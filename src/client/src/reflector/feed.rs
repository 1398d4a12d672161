//! From the text of lists and events to a [`Sink`].

use std::collections::BTreeMap;
use std::marker::PhantomData;

use futures::future::BoxFuture;
use kube::api::WatchEvent;
use kube::core::{ObjectList, Status};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::error::Category;

use super::events;
use super::types::{Listed, Sink, Unreadable, Versioned};

/// The annotation of the bookmark after the last object of a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A [`Sink`] that accepts serialized objects of any kind, so that the list and watch code is
/// compiled only once instead of once per kind.
pub(super) trait Feed: Send + Sync {
    /// Replaces the contents by a list and returns the list's resource version.
    fn replace(&self, path: &str, list: &str) -> serde_json::Result<String>;
    /// Begins a streamed list: objects are collected until its end.
    fn begin(&self);
    /// Applies one watch event.
    fn event(&self, path: &str, line: &str) -> serde_json::Result<Step>;
    /// Reports a failure.
    fn failed(&self, error: &kube::Error);
    /// Returns what to wait for before the next call.
    fn ready(&self) -> Option<BoxFuture<'_, ()>>;
}

/// The outcome of one event.
pub(super) enum Step {
    /// The sink is at this resource version; `None` if the event had none.
    At(Option<String>),
    /// A streamed list is not complete yet.
    Listing,
    /// An object was deleted that cannot be read: only a list shows what is left.
    Lost,
    /// The server ended the watch with this error.
    Failed(Box<Status>),
}

/// The objects of a streamed list so far, by namespace and name.
type Streamed<K> = BTreeMap<(String, String), Result<K, Unreadable>>;

pub(super) struct Typed<K, S> {
    sink: S,
    streamed: Mutex<Option<Streamed<K>>>,
    kind: PhantomData<fn() -> K>,
}

impl<K, S> Typed<K, S> {
    pub(super) fn new(sink: S) -> Self {
        Self {
            sink,
            streamed: Mutex::new(None),
            kind: PhantomData,
        }
    }
}

fn revision(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

fn key<K: Versioned>(object: &K) -> (String, String) {
    let meta = object.metadata();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

impl<K: Versioned, S: Sink<K>> Typed<K, S> {
    /// Takes an event into a streamed list. Returns the list at its end.
    fn collect(
        streamed: &mut Option<Streamed<K>>,
        event: WatchEvent<K>,
    ) -> Result<Option<(String, Listed<K>)>, Box<Status>> {
        let Some(known) = streamed else {
            return Ok(None);
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                known.insert(key(&object), Ok(object));
            }
            WatchEvent::Deleted(object) => {
                known.remove(&key(&object));
            }
            WatchEvent::Bookmark(bookmark) => {
                let end = bookmark.metadata.annotations.get(INITIAL_EVENTS_END);
                if end.is_some_and(|end| end == "true") {
                    let version = bookmark.metadata.resource_version;
                    let mut list = Listed::new(Vec::with_capacity(known.len()), revision(&version));
                    for object in streamed.take().into_iter().flatten().map(|(_, o)| o) {
                        match object {
                            Ok(object) => list.objects.push(object),
                            Err(unreadable) => list.unreadable.push(unreadable),
                        }
                    }
                    return Ok(Some((version, list)));
                }
            }
            WatchEvent::Error(status) => return Err(status),
        }
        Ok(None)
    }

    fn streamed(&self, streamed: &mut Option<Streamed<K>>, event: WatchEvent<K>) -> Step {
        match Self::collect(streamed, event) {
            Ok(Some((version, list))) => {
                self.sink.replace(list);
                Step::At(Some(version))
            }
            Ok(None) => Step::Listing,
            Err(status) => Step::Failed(status),
        }
    }

    /// Handles an event with an object that cannot be read: the identity is all that is known.
    fn unread(&self, path: &str, line: &str, error: serde_json::Error) -> serde_json::Result<Step> {
        if error.is_eof() {
            return Err(error);
        }
        let bare = match events::read::<Bare>(line) {
            Ok(WatchEvent::Added(bare) | WatchEvent::Modified(bare)) => bare.metadata,
            Ok(WatchEvent::Deleted(bare)) if !bare.metadata.name.is_empty() => {
                return Ok(Step::Lost);
            }
            _ => return Err(error),
        };
        if bare.name.is_empty() {
            return Err(error);
        }
        let version = bare.resource_version.clone();
        let object = bare.unreadable(path, &error);
        match &mut *self.streamed.lock() {
            Some(known) => {
                known.insert((object.namespace.clone(), object.name.clone()), Err(object));
                Ok(Step::Listing)
            }
            None => {
                self.sink.unreadable(object);
                Ok(Step::At(version))
            }
        }
    }
}

impl<K: Versioned, S: Sink<K>> Feed for Typed<K, S> {
    fn replace(&self, path: &str, list: &str) -> serde_json::Result<String> {
        let (version, list) = read_list::<K>(path, list)?;
        *self.streamed.lock() = None;
        self.sink.replace(list);
        Ok(version)
    }

    fn begin(&self) {
        *self.streamed.lock() = Some(Streamed::new());
    }

    fn event(&self, path: &str, line: &str) -> serde_json::Result<Step> {
        let event = match events::read::<K>(line) {
            Ok(event) => event,
            Err(error) => return self.unread(path, line, error),
        };
        let mut streamed = self.streamed.lock();
        if streamed.is_some() {
            return Ok(self.streamed(&mut streamed, event));
        }
        drop(streamed);
        let version = |object: &K| Step::At(object.metadata().resource_version.clone());
        Ok(match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let step = version(&object);
                self.sink.apply(object);
                step
            }
            WatchEvent::Deleted(object) => {
                let step = version(&object);
                self.sink.remove(object);
                step
            }
            WatchEvent::Bookmark(bookmark) => {
                let version = bookmark.metadata.resource_version;
                self.sink.bookmark(revision(&version));
                Step::At(Some(version))
            }
            WatchEvent::Error(status) => Step::Failed(status),
        })
    }

    fn failed(&self, error: &kube::Error) {
        self.sink.failed(error);
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        self.sink.ready()
    }
}

/// What must be readable of every object.
#[derive(Deserialize)]
struct Bare {
    #[serde(default)]
    metadata: Identity,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Identity {
    namespace: String,
    name: String,
    uid: String,
    resource_version: Option<String>,
}

impl Identity {
    /// Reports that the object cannot be read.
    fn unreadable(self, path: &str, error: &serde_json::Error) -> Unreadable {
        let Self {
            namespace,
            name,
            uid,
            ..
        } = self;
        let error = place(error);
        tracing::warn!(path, %namespace, %name, error, "an object cannot be read and is left as it was known");
        Unreadable {
            namespace,
            name,
            uid,
            error,
        }
    }
}

/// Describes an error without its text, which may quote a value, such as one of a secret.
pub(super) fn place(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        Category::Data => "a field has another type than expected",
        Category::Syntax => "this is no JSON",
        Category::Eof => "the text ends too early",
        Category::Io => "it cannot be received",
    };
    format!("{kind} (line {}, column {})", error.line(), error.column())
}

/// Parses a list, and returns its resource version. One invalid object does not hide all others.
fn read_list<K: Versioned>(path: &str, text: &str) -> serde_json::Result<(String, Listed<K>)> {
    let done = |metadata: kube::core::ListMeta, objects, unreadable| {
        let version = metadata.resource_version.unwrap_or_default();
        let list = Listed {
            objects,
            unreadable,
            revision: revision(&version),
        };
        (version, list)
    };
    if let Ok(list) = serde_json::from_str::<ObjectList<K>>(text) {
        return Ok(done(list.metadata, list.items, Vec::new()));
    }
    let list: ObjectList<serde_json::Value> = serde_json::from_str(text)?;
    let (mut objects, mut unreadable) = (Vec::with_capacity(list.items.len()), Vec::new());
    for item in list.items {
        // Convert to text and parse again: deserializing from a `Value` would be compiled for each
        // kind only for this case.
        match serde_json::from_str(&item.to_string()) {
            Ok(object) => objects.push(object),
            Err(error) => {
                let identity = Bare::deserialize(item).map(|bare| bare.metadata);
                unreadable.push(identity.unwrap_or_default().unreadable(path, &error));
            }
        }
    }
    Ok(done(list.metadata, objects, unreadable))
}
