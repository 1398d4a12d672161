//! Keeps a store true by list and watch.

use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request};

use super::events;
use super::store::{Store, Versioned};

/// Who is told of what a list and watch say.
pub trait Sink<K>: Send + Sync {
    /// The whole list of this revision: what is not in it is gone.
    fn replace(&self, objects: Vec<K>, revision: u64);
    /// An object is new or different.
    fn apply(&self, object: K);
    /// An object is gone.
    fn remove(&self, object: K);
    /// The watch has come to this revision without more to say.
    fn bookmark(&self, revision: u64);
}

impl<K: Versioned> Sink<K> for Store<K> {
    fn replace(&self, objects: Vec<K>, revision: u64) {
        Store::replace(self, objects, revision);
    }

    fn apply(&self, object: K) {
        Store::apply(self, object);
    }

    fn remove(&self, object: K) {
        Store::remove(self, object);
    }

    fn bookmark(&self, revision: u64) {
        Store::bookmark(self, revision);
    }
}

/// How long one watch lasts, in seconds; up to as much again is added at random
/// so that watches do not end together. Inside one process nothing drops idle
/// connections, so that the figure only bounds how long a stuck watch lives.
const WATCH_SECONDS: u32 = 1800;
/// How long the server may take to answer a list, or to begin a watch.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);
/// How long a watch may be silent: the server sends a bookmark each minute, so that
/// silence means that the watch is dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(180);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(30);

/// What to list and watch.
#[derive(Clone, Debug)]
pub struct Source {
    /// The collection's path, `/apis/apps/v1/deployments`.
    pub path: String,
    /// Only objects that match this field selector.
    pub fields: Option<String>,
    /// Only metadata (`PartialObjectMetadata`) is asked for.
    pub metadata_only: bool,
}

/// Why a watch ended.
enum End {
    /// It timed out; it can go on from this revision.
    Resume(String),
    /// The revision is too old: list again.
    Relist,
}

/// Keeps `store` true for ever.
pub async fn reflect<K: Versioned>(client: Client, source: Source, store: impl Sink<K>) {
    let mut delay = FIRST_DELAY;
    let mut resume = None;
    loop {
        let version = match resume.take() {
            Some(version) => version,
            None => match list(&client, &source, &store).await {
                Ok(version) => version,
                Err(error) => {
                    tracing::warn!(path = %source.path, %error, "cannot list");
                    sleep(&mut delay).await;
                    continue;
                }
            },
        };
        let began = tokio::time::Instant::now();
        match watch(&client, &source, &store, &version).await {
            Ok(End::Resume(version)) => resume = Some(version),
            Ok(End::Relist) => {}
            Err((error, version)) => {
                tracing::warn!(path = %source.path, %error, "watch broke");
                resume = Some(version);
            }
        }
        // A watch that ends at once must not become a busy loop.
        if began.elapsed() > Duration::from_secs(5) {
            delay = FIRST_DELAY;
        } else {
            sleep(&mut delay).await;
        }
    }
}

async fn sleep(delay: &mut Duration) {
    tokio::time::sleep(delay.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
    *delay = (*delay * 2).min(LAST_DELAY);
}

/// An answer that must not be long in coming: without it a mirror would stand still.
async fn in_time<T>(answer: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(LONGEST_ANSWER, answer)
        .await
        .unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

async fn list<K: Versioned>(
    client: &Client,
    source: &Source,
    store: &impl Sink<K>,
) -> kube::Result<String> {
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
    let list = read_list::<K>(&source.path, &list).map_err(kube::Error::SerdeError)?;
    let version = list.metadata.resource_version.unwrap_or_default();
    store.replace(list.items, version.parse().unwrap_or(0));
    Ok(version)
}

/// Reads a list. An object that is not what its kind's type says is left out: one
/// must not keep all others from being seen.
fn read_list<K: Versioned>(path: &str, text: &str) -> serde_json::Result<ObjectList<K>> {
    let whole = serde_json::from_str(text);
    if whole.is_ok() {
        return whole;
    }
    let list: ObjectList<serde_json::Value> = serde_json::from_str(text)?;
    let mut items = Vec::with_capacity(list.items.len());
    for item in list.items {
        let metadata = item["metadata"].clone();
        match serde_json::from_value(item) {
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

async fn watch<K: Versioned>(
    client: &Client,
    source: &Source,
    store: &impl Sink<K>,
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
        let Ok(line) = tokio::time::timeout(LONGEST_SILENCE, lines.next()).await else {
            tracing::warn!(path = %source.path, "watch has gone silent");
            return Ok(End::Relist);
        };
        let line = match line {
            Some(Ok(line)) => line,
            Some(Err(error)) => return Err(fail(kube::Error::ReadEvents(error), &at)),
            None => return Ok(End::Resume(at)),
        };
        match events::read::<K>(&line) {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                set(&mut at, &object);
                store.apply(object);
            }
            Ok(WatchEvent::Deleted(object)) => {
                set(&mut at, &object);
                store.remove(object);
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                at = bookmark.metadata.resource_version;
                store.bookmark(at.parse().unwrap_or(0));
            }
            Ok(WatchEvent::Error(status)) => {
                if status.code != 410 {
                    tracing::warn!(path = %source.path, %status, "watch answered an error");
                }
                return Ok(End::Relist);
            }
            // The end of a stream that broke within a line: go on from what was read.
            Err(error) if error.is_eof() => return Ok(End::Resume(at)),
            Err(error) => {
                // Going on would lose the event: read everything again.
                tracing::warn!(path = %source.path, %error, "watch sent what cannot be read");
                return Ok(End::Relist);
            }
        }
    }
}

fn set<K: Versioned>(at: &mut String, object: &K) {
    if let Some(version) = &object.metadata().resource_version {
        at.clone_from(version);
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
