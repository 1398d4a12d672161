//! API aggregation: forwards group versions to other API servers, as `APIService` objects specify.
//!
//! If the `APIService` of a request's group version names a service, the request is forwarded to
//! that service. The user is sent in headers, which are only trusted from the holder of the front
//! proxy's certificate. All other requests are served locally. [`local`] maintains the
//! `APIService`s of built-in groups and custom resources, because clients read them.

mod availability;
pub mod discovery;
pub mod local;
mod openapi;
mod openapi_v3;
mod proxy;
pub mod remote;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rkube_api::meta;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::cache::{Event, Filter};
use crate::observer::CacheObserver;

pub use openapi::merge_v2;
use remote::{Aggregator, Entry, GROUP, PLURAL, Priority, Reference, Remote, Table};

/// Interval between checks of an available server. There is no event when a remote server changes
/// or fails.
const RESYNC_PERIOD: Duration = Duration::from_secs(30);

/// Maintains the table of remote servers, their conditions and their documents.
#[derive(Clone)]
pub struct AggregationController {
    /// The source of `APIService`s, services and endpoints.
    pub backend: Arc<Backend>,
    /// Holds the table of remote servers.
    pub aggregator: Arc<Aggregator>,
}

impl CacheObserver for AggregationController {
    fn resources(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            (GROUP, PLURAL),
            ("", "services"),
            ("discovery.k8s.io", "endpointslices"),
        ]
    }

    async fn resync(&mut self) {
        self.rebuild().await;
        self.wake(|_| true);
    }

    async fn handle_events(&mut self, index: usize, events: &[Arc<Event>]) {
        match index {
            0 => self.rebuild().await,
            1 => self.wake(|remote| {
                events
                    .iter()
                    .any(|e| remote.is_behind(&e.object.namespace, &e.object.name))
            }),
            _ => self.wake(|remote| {
                events.iter().any(|e| {
                    e.object
                        .label("kubernetes.io/service-name")
                        .is_some_and(|name| remote.is_behind(&e.object.namespace, name))
                })
            }),
        }
    }

    /// Services and endpoints are only watched while there are remote servers.
    fn is_watching(&self, index: usize) -> bool {
        index == 0 || !self.aggregator.table().is_empty()
    }
}

impl AggregationController {
    fn wake(&self, wanted: impl Fn(&Remote) -> bool) {
        for entry in self.aggregator.table().values() {
            if wanted(&entry.remote) {
                entry.remote.wake.notify_one();
            }
        }
    }

    /// Rebuilds the table. Servers whose configuration has not changed are kept.
    async fn rebuild(&self) {
        let Some(cache) = self.backend.cache.existing(GROUP, PLURAL) else {
            return;
        };
        let ca_cert = &self.backend.config.pki.ca_cert;
        let old = self.aggregator.table();
        let mut table = Table::new();
        for object in cache.list(&Filter::default()) {
            let api_service = object.parse();
            let spec = &api_service["spec"];
            if !spec["service"].is_object() {
                availability::local(&self.backend, &api_service).await;
                continue;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let key = (text(&spec["group"]), text(&spec["version"]));
            // The core group is never forwarded.
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
                    // Another client may have changed the status.
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
                        client: self.aggregator.tls.client(spec, ca_cert),
                        reference,
                        trust,
                        available: AtomicBool::new(availability::is_reported_available(
                            &api_service,
                        )),
                        wake: Notify::new(),
                        stop: CancellationToken::new(),
                        found: Mutex::default(),
                    });
                    tokio::spawn(self.clone().tend(remote.clone()));
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
            self.aggregator.touch();
        }
        *self.aggregator.table.write() = Arc::new(table);
    }

    /// Checks a remote server, and refreshes its documents if it is available.
    async fn look(&self, remote: &Arc<Remote>) -> availability::Verdict {
        let verdict = availability::check(&self.backend, remote).await;
        let was = remote
            .available
            .swap(verdict.is_available(), Ordering::AcqRel);
        availability::publish(&self.backend, remote, &verdict).await;
        if verdict.is_available() {
            openapi::refresh(&self.backend.cache, &self.aggregator, remote).await;
            discovery::refresh(&self.backend.cache, &self.aggregator, remote).await;
        } else if was {
            self.aggregator.touch();
        }
        verdict
    }

    /// Keeps the condition and the documents of one remote server up to date until its `APIService`
    /// is deleted or changed.
    async fn tend(self, remote: Arc<Remote>) {
        let stop = self.backend.shutdown.clone();
        let mut failures = 0u32;
        loop {
            let next = {
                tokio::select! {
                    verdict = self.look(&remote) => verdict,
                    () = stop.cancelled() => return,
                    () = remote.stop.cancelled() => return,
                }
            };
            // Problems with local objects are rechecked on their events; the state of the remote
            // server must be polled.
            let again = async {
                match next {
                    availability::Verdict::Available => tokio::time::sleep(RESYNC_PERIOD).await,
                    availability::Verdict::Unreachable { .. } => {
                        tokio::time::sleep(backoff(failures)).await;
                    }
                    availability::Verdict::Missing { .. } => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
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
}

/// Returns the delay before the next check, after `failures` consecutive failures: 1, 2, 4, 8, 16,
/// then 30 seconds.
fn backoff(failures: u32) -> Duration {
    RESYNC_PERIOD.min(Duration::from_secs(1 << failures.min(5)))
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
