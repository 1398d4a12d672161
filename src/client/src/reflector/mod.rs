//! Keeps a local copy of objects up to date with a list and a watch.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request, Status};
use serde::de::DeserializeOwned;

mod events;

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

/// The receiver of a list and watch.
pub trait Sink<K>: Send + Sync {
    /// Replaces the contents by the list at this revision: missing objects were deleted.
    fn replace(&self, objects: Vec<K>, revision: u64);
    /// Adds or updates an object.
    fn apply(&self, object: K);
    /// Removes an object.
    fn remove(&self, object: K);
    /// Records that the watch has progressed to this revision without further changes.
    fn bookmark(&self, revision: u64);
}

impl<K, S: Sink<K>> Sink<K> for Arc<S> {
    fn replace(&self, objects: Vec<K>, revision: u64) {
        S::replace(self, objects, revision);
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
}

/// Minimum duration of a watch in seconds. Up to the same again is added at random, so that watches
/// do not end simultaneously.
///
/// Within a process no idle connections are dropped, so this only bounds the lifetime of a stuck
/// watch.
const WATCH_SECONDS: u32 = 1800;
/// Timeout for the response to a list, and for the start of a watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout between events of a watch. The server sends a bookmark every minute, so a longer silence
/// means that the watch is dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(180);
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

/// The objects to list and watch.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path of the collection, such as `/apis/apps/v1/deployments`.
    pub path: String,
    /// Field selector.
    pub fields: Option<String>,
    /// Whether to request only metadata (`PartialObjectMetadata`).
    pub metadata_only: bool,
}

/// The end of a watch.
enum End {
    /// It timed out or broke off; resume from this resource version.
    Resume(String),
    /// The resource version is too old, or an event was unreadable: list again.
    Relist,
}

/// A [`Sink`] that accepts serialized objects of any kind, so that the list and watch code is
/// compiled only once instead of once per kind.
trait Feed: Send + Sync {
    /// Replaces the contents by a list and returns the list's resource version.
    fn replace(&self, path: &str, list: &str) -> serde_json::Result<String>;
    /// Applies one watch event.
    fn event(&self, line: &str) -> serde_json::Result<Step>;
}

/// The outcome of one event.
enum Step {
    /// The sink is at this resource version; `None` if the event had none.
    At(Option<String>),
    /// The server ended the watch with this error.
    Failed(Box<Status>),
}

struct Typed<K, S> {
    sink: S,
    kind: PhantomData<fn() -> K>,
}

impl<K: Versioned, S: Sink<K>> Feed for Typed<K, S> {
    fn replace(&self, path: &str, list: &str) -> serde_json::Result<String> {
        let list = read_list::<K>(path, list)?;
        let version = list.metadata.resource_version.unwrap_or_default();
        self.sink.replace(list.items, version.parse().unwrap_or(0));
        Ok(version)
    }

    fn event(&self, line: &str) -> serde_json::Result<Step> {
        let version = |object: &K| Step::At(object.metadata().resource_version.clone());
        Ok(match events::read::<K>(line)? {
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
                self.sink.bookmark(version.parse().unwrap_or(0));
                Step::At(Some(version))
            }
            WatchEvent::Error(status) => Step::Failed(status),
        })
    }
}

/// Keeps `store` up to date. Never returns.
pub async fn reflect<K: Versioned>(client: Client, source: Source, store: impl Sink<K> + 'static) {
    let feed: Box<dyn Feed> = Box::new(Typed {
        sink: store,
        kind: PhantomData,
    });
    run(client, source, feed).await;
}

async fn run(client: Client, source: Source, feed: Box<dyn Feed>) {
    let mut delay = MIN_RETRY_DELAY;
    let mut resume = None;
    loop {
        let version = match resume.take() {
            Some(version) => version,
            None => match list(&client, &source, &*feed).await {
                Ok(version) => version,
                Err(error) => {
                    tracing::warn!(path = %source.path, %error, "cannot list");
                    sleep(&mut delay).await;
                    continue;
                }
            },
        };
        let began = tokio::time::Instant::now();
        match watch(&client, &source, &*feed, &version).await {
            Ok(End::Resume(version)) => resume = Some(version),
            Ok(End::Relist) => {}
            Err((error, version)) => {
                tracing::warn!(path = %source.path, %error, "watch broke");
                resume = Some(version);
            }
        }
        // Back off if watches end immediately.
        if began.elapsed() > Duration::from_secs(5) {
            delay = MIN_RETRY_DELAY;
        } else {
            sleep(&mut delay).await;
        }
    }
}

async fn sleep(delay: &mut Duration) {
    tokio::time::sleep(delay.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
    *delay = (*delay * 2).min(MAX_RETRY_DELAY);
}

/// Applies the response timeout. Without it, a hanging request would block the store's updates
/// forever.
async fn in_time<T>(answer: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

async fn list(client: &Client, source: &Source, feed: &dyn Feed) -> kube::Result<String> {
    let params = ListParams {
        field_selector: source.fields.clone(),
        ..Default::default()
    };
    let request = Request::new(&source.path);
    let request = if source.metadata_only {
        request.list_metadata(&params)
    } else {
        request.list(&params)
    }
    .map_err(kube::Error::BuildRequest)?;
    let list = in_time(client.request_text(request)).await?;
    feed.replace(&source.path, &list)
        .map_err(kube::Error::SerdeError)
}

/// Parses a list. Objects that cannot be deserialized are logged and omitted, so that one invalid
/// object does not hide all others.
fn read_list<K: Versioned>(path: &str, text: &str) -> serde_json::Result<ObjectList<K>> {
    let whole = serde_json::from_str(text);
    if whole.is_ok() {
        return whole;
    }
    let list: ObjectList<serde_json::Value> = serde_json::from_str(text)?;
    let mut items = Vec::with_capacity(list.items.len());
    for item in list.items {
        let metadata = item["metadata"].clone();
        // Convert to text and parse again: deserializing from a `Value` would be compiled for each
        // kind only for this case.
        match serde_json::from_str(&item.to_string()) {
            Ok(item) => items.push(item),
            Err(error) => tracing::warn!(
                path,
                namespace = metadata["namespace"].as_str(),
                name = metadata["name"].as_str(),
                %error,
                "an object cannot be read and is left out"
            ),
        }
    }
    Ok(ObjectList {
        types: list.types,
        metadata: list.metadata,
        items,
    })
}

async fn watch(
    client: &Client,
    source: &Source,
    feed: &dyn Feed,
    version: &str,
) -> Result<End, (kube::Error, String)> {
    let params = WatchParams {
        field_selector: source.fields.clone(),
        timeout: Some(WATCH_SECONDS + rand::random_range(0..WATCH_SECONDS)),
        bookmarks: true,
        ..Default::default()
    };
    let mut at = version.to_owned();
    let fail = |error, at: &str| (error, at.to_owned());
    let request = Request::new(&source.path);
    let request = if source.metadata_only {
        request.watch_metadata(&params, version)
    } else {
        request.watch(&params, version)
    }
    .map_err(|error| fail(kube::Error::BuildRequest(error), &at))?;
    let lines = match in_time(client.request_stream(request)).await {
        Ok(stream) => stream.lines(),
        Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Relist),
        Err(error) => return Err(fail(error, &at)),
    };
    let mut lines = std::pin::pin!(lines);
    loop {
        let Ok(line) = tokio::time::timeout(SILENCE_TIMEOUT, lines.next()).await else {
            tracing::warn!(path = %source.path, "watch has gone silent");
            return Ok(End::Relist);
        };
        let line = match line {
            Some(Ok(line)) => line,
            Some(Err(error)) => return Err(fail(kube::Error::ReadEvents(error), &at)),
            None => return Ok(End::Resume(at)),
        };
        match feed.event(&line) {
            Ok(Step::At(Some(version))) => at = version,
            Ok(Step::At(None)) => {}
            Ok(Step::Failed(status)) => {
                if status.code != 410 {
                    tracing::warn!(path = %source.path, %status, "watch answered an error");
                }
                return Ok(End::Relist);
            }
            // The stream ended within a line: resume after the last complete event.
            Err(error) if error.is_eof() => return Ok(End::Resume(at)),
            Err(error) => {
                // Skipping the event would lose a change, so list again.
                tracing::warn!(path = %source.path, %error, "watch sent what cannot be read");
                return Ok(End::Relist);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    #[test]
    fn an_object_that_cannot_be_read_hides_no_other() {
        let service = |name: &str, status| json!({"metadata": {"name": name}, "status": status});
        let undated = json!({"conditions": [{"type": "A", "status": "True"}]});
        let list = json!({
            "apiVersion": "v1",
            "kind": "ServiceList",
            "metadata": {"resourceVersion": "7"},
            "items": [service("a", json!({})), service("b", undated), service("c", json!({}))],
        });
        let list = read_list::<Service>("/api/v1/services", &list.to_string()).unwrap();
        assert_eq!(list.metadata.resource_version.as_deref(), Some("7"));
        let names: Vec<_> = list.items.iter().flat_map(|s| &s.metadata.name).collect();
        assert_eq!(names, ["a", "c"]);
        assert!(read_list::<Service>("", "{").is_err());
    }
}
