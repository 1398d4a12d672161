//! Remote API servers, configured by `APIService` objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rkube_x509::Renewable;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::tls::Tls;
use crate::connect::HttpClient;

/// The API group of `APIService`.
pub const GROUP: &str = "apiregistration.k8s.io";
/// The plural resource name of `APIService`.
pub const PLURAL: &str = "apiservices";

/// The discovery priority of a group version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// Groups with higher values come first.
    pub group: i64,
    /// Versions with higher values come first.
    pub version: i64,
}

/// The service of an `APIService`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u64,
}

/// A remote API server of one group version.
pub struct Remote {
    /// The `APIService`'s name.
    pub name: String,
    /// The API group that the server serves.
    pub group: String,
    /// The API version that the server serves.
    pub version: String,
    pub(super) reference: Reference,
    /// The TLS settings, compared to detect a change.
    pub(super) trust: Value,
    pub(super) client: Result<HttpClient, String>,
    pub(super) available: AtomicBool,
    /// Triggers an immediate check.
    pub(super) wake: Notify,
    pub(super) stop: CancellationToken,
    pub(super) found: Mutex<RemoteDocuments>,
}

/// The documents of a remote server.
#[derive(Default)]
pub(super) struct RemoteDocuments {
    /// The server's `APIVersionDiscovery`, without freshness.
    pub(super) discovery: Option<Arc<Value>>,
    /// The ETag of `discovery`.
    pub(super) etag: Option<String>,
    /// The OpenAPI v3 index entries of this group version.
    pub(super) v3: BTreeMap<String, Value>,
    /// Whether the server has no OpenAPI v3, so that v3 is converted from v2.
    pub(super) v2_only: bool,
    /// The server's part of the OpenAPI v2 document, compressed.
    pub(super) v2: Option<bytes::Bytes>,
    pub(super) v2_etag: Option<String>,
}

/// A remote server and its priority.
pub struct Entry {
    /// The server.
    pub remote: Arc<Remote>,
    /// The discovery priority of the group version.
    pub priority: Priority,
}

/// All remote servers, by group and version.
pub type Table = BTreeMap<(String, String), Entry>;

impl Remote {
    /// Returns whether requests are forwarded.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub(super) fn is_behind(&self, namespace: &str, service: &str) -> bool {
        self.reference.namespace == namespace && self.reference.name == service
    }
}

/// Returns the store key of an `APIService`.
pub(super) fn key(name: &str) -> String {
    format!("/registry/{GROUP}/{PLURAL}/{name}")
}

/// The table of remote servers, and the TLS identity for them.
pub struct Aggregator {
    pub(super) table: RwLock<Arc<Table>>,
    pub(super) tls: Tls,
    /// Increases when a remote server or one of its documents changes.
    generation: AtomicU64,
}

impl Aggregator {
    /// Creates an aggregator that authenticates with the front proxy's certificate.
    pub fn new(front_proxy: Option<Arc<Renewable>>) -> Self {
        Self {
            table: RwLock::default(),
            tls: Tls::new(front_proxy),
            generation: AtomicU64::new(0),
        }
    }

    /// Returns the current remote servers.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Returns a number that changes with the remote servers and their documents.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Records a change of remote servers or documents.
    pub(super) fn touch(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the remote server that serves a path.
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
