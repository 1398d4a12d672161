//! Follows the cluster's objects: each change gives a new table.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::{Client, Resource};
use parking_lot::Mutex;
use rkube_client::events::{Recorder, Severity};
use rkube_client::reflector::{Listed, Sink, Source, Versioned, reflect};
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, watch};

use crate::cache::Cache;
use crate::compile::{Compiled, Finding, Objects, compile_with};
use crate::proxy::Proxy;
use crate::status::{MANAGER, SERVICE, Wanted, is_marked};

/// The component of the events.
pub const COMPONENT: &str = "rkube-ingress";
/// The time in which changes are collected for one table.
const COLLECT: Duration = Duration::from_millis(20);
/// The time after which something wrong is reported. What is applied together is created one after
/// the other.
const PATIENCE: Duration = Duration::from_secs(3);

/// The current objects of one kind.
struct Store<K> {
    objects: Mutex<HashMap<String, Arc<K>>>,
    listed: AtomicBool,
    changed: Arc<Notify>,
    /// Drops what is not needed.
    trim: fn(&mut K),
}

impl<K: Versioned> Store<K> {
    fn new(changed: &Arc<Notify>, trim: fn(&mut K)) -> Arc<Self> {
        Arc::new(Self {
            objects: Mutex::default(),
            listed: AtomicBool::new(false),
            changed: changed.clone(),
            trim,
        })
    }

    fn all(&self) -> Vec<Arc<K>> {
        self.objects.lock().values().cloned().collect()
    }

    fn prepared(&self, mut object: K) -> (String, Arc<K>) {
        // Only who wrote it counts.
        if let Some(fields) = &mut object.metadata_mut().managed_fields {
            fields.retain(|entry| entry.manager.as_deref() == Some(MANAGER));
            fields.iter_mut().for_each(|entry| entry.fields_v1 = None);
        }
        (self.trim)(&mut object);
        let meta = object.metadata();
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        let key = format!(
            "{}/{}",
            namespace.unwrap_or_default(),
            name.unwrap_or_default()
        );
        (key, Arc::new(object))
    }
}

impl<K: Versioned> Sink<K> for Store<K> {
    fn replace(&self, mut list: Listed<K>) {
        let all = std::mem::take(&mut list.objects).into_iter();
        let all: Vec<_> = all.map(|object| self.prepared(object)).collect();
        let mut objects = self.objects.lock();
        objects.retain(|_, known| list.keeps(known.metadata()));
        objects.extend(all);
        drop(objects);
        self.listed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn apply(&self, object: K) {
        let (key, object) = self.prepared(object);
        self.objects.lock().insert(key, object);
        self.changed.notify_one();
    }

    fn remove(&self, object: K) {
        let (key, _) = self.prepared(object);
        self.objects.lock().remove(&key);
        self.changed.notify_one();
    }
}

/// Keeps of a secret only what TLS needs; the rest is none of the proxy's business.
fn trim_secret(secret: &mut Secret) {
    if let Some(data) = &mut secret.data {
        data.retain(|key, _| key == "tls.crt" || key == "tls.key");
    }
    secret.string_data = None;
    secret.metadata.annotations = None;
}

/// The stores of all kinds.
pub struct Feed {
    ingresses: Arc<Store<Ingress>>,
    classes: Arc<Store<IngressClass>>,
    services: Arc<Store<Service>>,
    slices: Arc<Store<EndpointSlice>>,
    secrets: Arc<Store<Secret>>,
    changed: Arc<Notify>,
    client: Client,
}

impl Feed {
    /// Creates a feed without objects.
    pub fn new(client: Client) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            ingresses: Store::new(&changed, |_| {}),
            classes: Store::new(&changed, |_| {}),
            services: Store::new(&changed, |_| {}),
            slices: Store::new(&changed, |_| {}),
            secrets: Store::new(&changed, trim_secret),
            changed,
            client,
        }
    }

    /// Loads tables into the proxy, and says which Ingresses are served, until the future is
    /// dropped.
    pub async fn run(
        self,
        proxy: Arc<Proxy>,
        fallback: Arc<CertifiedKey>,
        recorder: Recorder,
        wanted: watch::Sender<Option<Wanted>>,
    ) {
        tokio::join!(
            self.follow("/apis/networking.k8s.io/v1/ingresses", &self.ingresses),
            self.follow("/apis/networking.k8s.io/v1/ingressclasses", &self.classes),
            self.follow("/api/v1/services", &self.services),
            self.follow("/apis/discovery.k8s.io/v1/endpointslices", &self.slices),
            self.follow("/api/v1/secrets", &self.secrets),
            self.compile(proxy, fallback, recorder, wanted),
        );
    }

    async fn follow<K: Versioned + Debug>(&self, path: &str, store: &Arc<Store<K>>) {
        reflect(self.client.clone(), Source::new(path), store.clone()).await;
    }

    fn listed(&self) -> bool {
        let all = [
            &self.ingresses.listed,
            &self.classes.listed,
            &self.services.listed,
            &self.slices.listed,
            &self.secrets.listed,
        ];
        all.iter().all(|listed| listed.load(Ordering::Acquire))
    }

    async fn compile(
        &self,
        proxy: Arc<Proxy>,
        fallback: Arc<CertifiedKey>,
        recorder: Recorder,
        wanted: watch::Sender<Option<Wanted>>,
    ) {
        let mut reports = Reports::default();
        let mut first = true;
        let mut cache = Cache::default();
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = reports.due() => {
                    reports.send(&recorder);
                    continue;
                }
            }
            if !self.listed() {
                continue;
            }
            tokio::time::sleep(COLLECT).await;
            let objects = Objects {
                ingresses: self.ingresses.all(),
                classes: self.classes.all(),
                services: self.services.all(),
                slices: self.slices.all(),
                secrets: self.secrets.all(),
                fallback: Some(fallback.clone()),
            };
            let own = objects.services.iter().find(|s| is_own(&***s)).cloned();
            let slice = objects.slices.iter().find(|s| is_own(&***s)).cloned();
            let mut left = objects.ingresses.clone();
            left.retain(|ingress| is_marked(ingress));
            let kept = std::mem::take(&mut cache);
            let compiled = tokio::task::spawn_blocking(move || compile_with(&objects, kept)).await;
            let Compiled {
                table,
                findings,
                served,
            } = match compiled {
                Ok((compiled, kept)) => {
                    cache = kept;
                    compiled
                }
                Err(error) => {
                    // The old table stays. The next change is another attempt.
                    tracing::error!(%error, "the objects could not be compiled");
                    continue;
                }
            };
            proxy.load(table);
            if first {
                tracing::info!(ingresses = served.len(), "the table is loaded");
                first = false;
            }
            reports.update(findings, &served);
            left.retain(|ingress| !served.iter().any(|other| Arc::ptr_eq(ingress, other)));
            wanted.send_replace(Some(Wanted {
                served,
                left,
                service: own,
                slice,
            }));
        }
    }
}

/// Whether an object has the name of the service that leads to the proxy.
fn is_own(object: &impl Resource) -> bool {
    let meta = object.meta();
    meta.namespace.as_deref() == Some(SERVICE.0) && meta.name.as_deref() == Some(SERVICE.1)
}

/// Findings, which become events when they last.
#[derive(Default)]
struct Reports {
    known: HashMap<Finding, Report>,
}

struct Report {
    since: Instant,
    about: ObjectReference,
    sent: bool,
}

impl Reports {
    fn update(&mut self, findings: Vec<Finding>, served: &[Arc<Ingress>]) {
        let mut before = std::mem::take(&mut self.known);
        let named: HashMap<String, &Arc<Ingress>> = served
            .iter()
            .map(|ingress| {
                let meta = ingress.meta();
                let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
                let key = format!(
                    "{}/{}",
                    namespace.unwrap_or_default(),
                    name.unwrap_or_default()
                );
                (key, ingress)
            })
            .collect();
        for finding in findings {
            let Some(ingress) = named.get(&*finding.ingress) else {
                continue;
            };
            let about = ObjectReference {
                resource_version: ingress.meta().resource_version.clone(),
                ..ingress.object_ref(&())
            };
            // A new Ingress of the same name gets its own event.
            let report = before.remove(&finding).filter(|r| r.about.uid == about.uid);
            let report = report.unwrap_or(Report {
                since: Instant::now(),
                about,
                sent: false,
            });
            self.known.insert(finding, report);
        }
    }

    async fn due(&self) {
        let waiting = self.known.values().filter(|r| !r.sent);
        let Some(first) = waiting.map(|r| r.since + PATIENCE).min() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(first.into()).await;
    }

    fn send(&mut self, recorder: &Recorder) {
        for (finding, report) in &mut self.known {
            if report.sent || report.since.elapsed() < PATIENCE {
                continue;
            }
            report.sent = true;
            tracing::warn!(ingress = %finding.ingress, "{}", finding.message);
            recorder.event_about(
                COMPONENT,
                report.about.clone(),
                Severity::Warning,
                finding.reason,
                finding.message.clone(),
            );
        }
    }
}
