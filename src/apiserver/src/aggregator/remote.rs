//! Another API server that an `APIService` leads to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::tls::Tls;
use crate::config::{Error, Pki};
use crate::connect::HttpClient;

/// The group of `APIService`.
pub const GROUP: &str = "apiregistration.k8s.io";
/// The resource name of `APIService`.
pub const PLURAL: &str = "apiservices";

/// Where a group version stands among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// Groups with a higher number come first.
    pub group: i64,
    /// Versions with a higher number come first.
    pub version: i64,
}

/// The service that an `APIService` leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u64,
}

/// Another API server, for one group version.
pub struct Remote {
    /// The `APIService`'s name.
    pub name: String,
    /// The group that it serves.
    pub group: String,
    /// The version that it serves.
    pub version: String,
    pub(super) reference: Reference,
    /// How it is trusted, to tell whether it must be set up anew.
    pub(super) trust: Value,
    pub(super) client: Result<HttpClient, String>,
    pub(super) available: AtomicBool,
    /// Look at it again now.
    pub(super) wake: Notify,
    pub(super) stop: CancellationToken,
    pub(super) found: Mutex<Found>,
}

/// What a remote server says that it serves.
#[derive(Default)]
pub(super) struct Found {
    /// Its `APIVersionDiscovery`, without freshness.
    pub(super) discovery: Option<Arc<Value>>,
    /// Its ETag.
    pub(super) etag: Option<String>,
    /// The paths of its OpenAPI v3 index that are of this group version.
    pub(super) v3: BTreeMap<String, Value>,
    /// It has no OpenAPI v3: its v2 stands for it.
    pub(super) v2_only: bool,
    /// Its part of the OpenAPI v2 document, compressed.
    pub(super) v2: Option<bytes::Bytes>,
    pub(super) v2_etag: Option<String>,
}

/// A remote server and its place among the group versions.
pub struct Entry {
    /// The server.
    pub remote: Arc<Remote>,
    /// Its place.
    pub priority: Priority,
}

/// Every remote server, by group and version.
pub type Table = BTreeMap<(String, String), Entry>;

impl Remote {
    /// Whether requests are passed on.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub(super) fn is_behind(&self, namespace: &str, service: &str) -> bool {
        self.reference.namespace == namespace && self.reference.name == service
    }
}

/// The key under which the store keeps an `APIService`.
pub(super) fn key(name: &str) -> String {
    format!("/registry/{GROUP}/{PLURAL}/{name}")
}

/// What is passed on, and how.
pub struct Aggregator {
    pub(super) table: RwLock<Arc<Table>>,
    pub(super) tls: Tls,
    /// Grows when documents of remote servers change.
    generation: AtomicU64,
}

impl Aggregator {
    /// An aggregator that shows the front proxy's certificate.
    pub fn new(pki: &Pki) -> Result<Self, Error> {
        Ok(Self {
            table: RwLock::default(),
            tls: Tls::new(pki)?,
            generation: AtomicU64::new(0),
        })
    }

    /// The remote servers at present.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Differs whenever a remote server or one of its documents does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Marks the documents of remote servers as changed.
    pub(super) fn touch(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// The remote server that a path belongs to.
    pub fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let table = self.table.read();
        if table.is_empty() {
            return None;
        }
        let mut parts = path.strip_prefix("/apis/")?.split('/');
        let key = (parts.next()?.to_owned(), parts.next()?.to_owned());
        table.get(&key).map(|entry| entry.remote.clone())
    }
}
