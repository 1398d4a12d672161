//! What handlers return: the answer to a request, before it is encoded for its client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use rkube_api::Object;
use rkube_api::status::Status;
use serde_json::{Value, json};

use crate::cache::{CachedObject, Filter, Watcher};
use crate::metrics::WatchGauge;

/// The answer to a request for objects.
pub enum Outcome {
    /// An object of the cache.
    Cached(Arc<CachedObject>),
    /// An object that has been written, as JSON of the hub version with its revision.
    Stored(StatusCode, Bytes),
    /// An object in the requested version.
    Object(StatusCode, Object),
    /// Objects of the cache, or a page of them.
    List(Vec<Arc<CachedObject>>, ListMeta),
    /// Objects that were computed for the request, in the requested version.
    Computed(Vec<Object>),
    /// A value that has no tables: a `Status`, the view of a subresource.
    Value(StatusCode, Value),
    /// The changes of a collection.
    Watch(Box<Watching>),
}

impl Outcome {
    /// Returns a `Status` of success.
    pub fn success(code: StatusCode) -> Self {
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": code.as_u16(),
        });
        Self::Value(code, status)
    }
}

/// The metadata of a list response.
#[derive(Default)]
pub struct ListMeta {
    /// The revision of the list.
    pub revision: u64,
    /// The continue token of the next page; empty on the last page.
    pub next: String,
    /// The number of remaining items, if known.
    pub remaining: Option<u64>,
}

impl ListMeta {
    /// Returns the metadata as JSON.
    pub fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.next.is_empty() {
            meta["continue"] = self.next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// A watch that begins.
pub struct Watching {
    /// The initial events.
    pub first: Vec<Arc<CachedObject>>,
    /// The source of further events; or why there can be none, which the client learns by an event.
    pub watcher: Result<Watcher, Status>,
    /// The filter, in terms of the requested version.
    pub filter: Filter,
    /// Whether to send bookmarks.
    pub bookmarks: bool,
    /// Whether to mark the end of the initial events.
    pub marks_initial: bool,
    /// How long the watch lasts.
    pub duration: Duration,
    /// Counts the watch while it runs.
    pub gauge: WatchGauge,
}
