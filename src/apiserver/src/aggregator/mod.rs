//! API aggregation: `APIService` objects that lead to other API servers.
//!
//! A request for a group version whose `APIService` names a service is passed
//! on to that service, with the user's name in headers that only the holder of
//! the front proxy's certificate may set. Everything else is served here; the
//! `APIService`s of built-in groups and of custom resources are made by
//! [`local`], because clients look them up.

mod availability;
pub mod discovery;
pub mod local;
mod openapi;
mod openapi_v3;
mod proxy;
pub mod remote;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rkube_api::meta;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cache::{Filter, Watcher};
use crate::{ApiServer, Error, Pki};

pub use openapi::merge_v2;
use remote::{Entry, GROUP, PLURAL, Priority, Reference, Remote, Table};

/// An available server is asked again after this time: nothing tells when one
/// that does not run here changes or dies.
const RESYNC: Duration = Duration::from_secs(30);

/// What is passed on, and how.
pub struct Aggregator {
    table: RwLock<Arc<Table>>,
    tls: proxy::Tls,
    /// Grows when documents of remote servers change.
    generation: AtomicU64,
}

impl Aggregator {
    /// An aggregator that shows the front proxy's certificate.
    pub fn new(pki: &Pki) -> Result<Self, Error> {
        Ok(Self {
            table: RwLock::default(),
            tls: proxy::Tls::new(pki)?,
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

    fn touch(&self) {
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

/// Follows `APIService`s, and the services and endpoints that they lead to.
pub async fn follow(server: Weak<ApiServer>, stop: CancellationToken) {
    loop {
        let (mut api_services, mut services, mut slices) = {
            let Some(server) = server.upgrade() else {
                return;
            };
            let watch = |group: &str, plural: &str| {
                let cache = server.cache.resource(group, plural);
                let (_, position) = cache.snapshot(&Filter::nothing(), 0);
                Watcher::new(cache, position)
            };
            let watchers = (
                watch(GROUP, PLURAL),
                watch("", "services"),
                watch("discovery.k8s.io", "endpointslices"),
            );
            rebuild(&server).await;
            wake(&server, |_| true);
            watchers
        };
        loop {
            let any = match server.upgrade() {
                Some(server) => !server.aggregator.table().is_empty(),
                None => return,
            };
            // Without remote servers nobody cares about services here.
            let (events, of) = tokio::select! {
                () = stop.cancelled() => return,
                events = api_services.next() => (events, 0),
                events = services.next(), if any => (events, 1),
                events = slices.next(), if any => (events, 2),
            };
            let Ok(events) = events else { break };
            let Some(server) = server.upgrade() else {
                return;
            };
            match of {
                0 => rebuild(&server).await,
                1 => wake(&server, |remote| {
                    events
                        .iter()
                        .any(|e| remote.is_behind(&e.object.namespace, &e.object.name))
                }),
                _ => wake(&server, |remote| {
                    events.iter().any(|e| {
                        e.object
                            .label("kubernetes.io/service-name")
                            .is_some_and(|name| remote.is_behind(&e.object.namespace, name))
                    })
                }),
            }
        }
    }
}

fn wake(server: &ApiServer, wanted: impl Fn(&Remote) -> bool) {
    for entry in server.aggregator.table().values() {
        if wanted(&entry.remote) {
            entry.remote.wake.notify_one();
        }
    }
}

/// Makes the table anew, keeping the servers that are as they were.
async fn rebuild(server: &Arc<ApiServer>) {
    let Some(cache) = server.cache.existing(GROUP, PLURAL) else {
        return;
    };
    let old = server.aggregator.table();
    let mut table = Table::new();
    for object in cache.list(&Filter::default()) {
        let api_service = object.parse();
        let spec = &api_service["spec"];
        if !spec["service"].is_object() {
            availability::local(server, &api_service).await;
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&spec["group"]), text(&spec["version"]));
        // The core group is always served here.
        if key.0.is_empty() {
            continue;
        }
        let reference = Reference {
            namespace: text(&spec["service"]["namespace"]),
            name: text(&spec["service"]["name"]),
            port: spec["service"]["port"].as_u64().unwrap_or(443),
        };
        let trust = serde_json::json!([spec["caBundle"], spec["insecureSkipTLSVerify"]]);
        let same = old
            .get(&key)
            .map(|entry| &entry.remote)
            .filter(|r| r.reference == reference && r.trust == trust && r.name == *object.name);
        let remote = match same {
            Some(remote) => {
                // Someone may have written another status.
                if availability::disagrees(remote, &api_service) {
                    remote.wake.notify_one();
                }
                remote.clone()
            }
            None => {
                let remote = Arc::new(Remote {
                    name: meta::name(&api_service).to_owned(),
                    group: key.0.clone(),
                    version: key.1.clone(),
                    client: server.aggregator.tls.client(spec, server),
                    reference,
                    trust,
                    available: AtomicBool::new(availability::said(&api_service)),
                    wake: Notify::new(),
                    stop: CancellationToken::new(),
                    found: Mutex::default(),
                });
                tokio::spawn(tend(Arc::downgrade(server), remote.clone()));
                remote
            }
        };
        let number = |value: &Value| value.as_i64().unwrap_or(0);
        let priority = Priority {
            group: number(&spec["groupPriorityMinimum"]),
            version: number(&spec["versionPriority"]),
        };
        table.insert(key, Entry { remote, priority });
    }
    let kept: HashMap<*const Remote, ()> = table
        .values()
        .map(|entry| (Arc::as_ptr(&entry.remote), ()))
        .collect();
    for entry in old.values() {
        if !kept.contains_key(&Arc::as_ptr(&entry.remote)) {
            entry.remote.stop.cancel();
        }
    }
    if !(old.is_empty() && table.is_empty()) {
        server.aggregator.touch();
    }
    *server.aggregator.table.write() = Arc::new(table);
}

/// Keeps one remote server's condition and documents up to date for as long as
/// its `APIService` is there.
async fn tend(server: Weak<ApiServer>, remote: Arc<Remote>) {
    let mut failures = 0u32;
    loop {
        let next = {
            let Some(server) = server.upgrade() else {
                return;
            };
            let stop = server.shutdown.clone();
            let look = async {
                let verdict = availability::check(&server, &remote).await;
                let was = remote
                    .available
                    .swap(verdict.is_available(), Ordering::AcqRel);
                availability::publish(&server, &remote, &verdict).await;
                if verdict.is_available() {
                    openapi::refresh(&server, &remote).await;
                    discovery::refresh(&server, &remote).await;
                } else if was {
                    server.aggregator.touch();
                }
                verdict
            };
            tokio::select! {
                verdict = look => verdict,
                () = stop.cancelled() => return,
                () = remote.stop.cancelled() => return,
            }
        };
        // What is wrong with objects here changes with them, and that is told;
        // what is wrong there has to be looked for.
        let again = async {
            match next {
                availability::Verdict::Available => tokio::time::sleep(RESYNC).await,
                availability::Verdict::Unreachable { .. } => {
                    tokio::time::sleep(backoff(failures)).await;
                }
                availability::Verdict::Missing { .. } => std::future::pending().await,
            }
        };
        tokio::select! {
            () = remote.stop.cancelled() => return,
            () = remote.wake.notified() => failures = 0,
            () = again => {}
        }
        failures = match next {
            availability::Verdict::Unreachable { .. } => failures.saturating_add(1),
            _ => 0,
        };
    }
}

/// 1, 2, 4 … 30 seconds.
fn backoff(failures: u32) -> Duration {
    RESYNC.min(Duration::from_secs(1 << failures.min(5)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_resync_period() {
        let waits: Vec<u64> = (0..7).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }
}
