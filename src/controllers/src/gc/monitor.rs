//! Maintains one watch per resource, following discovery.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::task::JoinSet;

use super::{Collector, SYNC_TIMEOUT};
use crate::context::Context;
use crate::discovery::discover;
use crate::informers::{Listed, Sink, Source, Versioned, reflect};
use crate::served::Served;
use rkube_client::supervise::supervise;

/// Resources without owners or dependents that change too often to be worth watching.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];
/// Resources whose changes can change which resources are served.
const CATALOGUES: &[&str] = &["customresourcedefinitions", "apiservices"];
/// Time for which changes of these are collected before discovery runs: a single CRD changes
/// several times until it is served.
const COLLECTION_DELAY: Duration = Duration::from_millis(100);
/// Interval of retries after discovery failed in part.
const RETRY_PERIOD: Duration = Duration::from_secs(30);

type Name = (String, String);

fn name_of(served: &Served) -> Name {
    (served.group.clone(), served.plural.clone())
}

struct Monitor {
    resource: Arc<Served>,
    synced: watch::Receiver<bool>,
    task: AbortHandle,
}

/// The watches of the garbage collector.
pub struct Monitors {
    ctx: Context,
    collector: Collector,
    /// Resources that the shared informers deliver.
    fed: Vec<Arc<Served>>,
    changed: Arc<Notify>,
    /// Whether the initial lists of all resources have been received.
    ready: watch::Sender<bool>,
}

struct MetadataGraph {
    collector: Collector,
    resource: Arc<Served>,
    synced: watch::Sender<bool>,
    changed: Option<Arc<Notify>>,
}

impl MetadataGraph {
    fn note(&self) {
        if let Some(changed) = &self.changed {
            changed.notify_one();
        }
    }
}

/// The metadata that the graph and the watch need. Other fields, above all `managedFields`, are
/// dropped because they often make up most of the metadata.
#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    #[serde(deserialize_with = "links")]
    metadata: ObjectMeta,
}

fn links<'de, D: Deserializer<'de>>(reader: D) -> std::result::Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Links {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
        finalizers: Option<Vec<String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let links = Links::deserialize(reader)?;
    Ok(ObjectMeta {
        name: links.name,
        namespace: links.namespace,
        uid: links.uid,
        resource_version: links.resource_version,
        deletion_timestamp: links.deletion_timestamp,
        finalizers: links.finalizers,
        owner_references: links.owner_references,
        ..ObjectMeta::default()
    })
}

impl Versioned for Metadata {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Sink<Metadata> for MetadataGraph {
    fn replace(&self, list: Listed<Metadata>) {
        let readable = list.objects.iter();
        let readable = readable.filter_map(|object| object.metadata.uid.as_deref());
        let unreadable = list.unreadable.iter().map(|object| object.uid.as_str());
        let listed: std::collections::HashSet<&str> = readable.chain(unreadable).collect();
        let known = self
            .collector
            .shared
            .graph
            .lock()
            .of_resource(&self.resource);
        for uid in known.iter().filter(|uid| !listed.contains(uid.as_str())) {
            self.collector.remove(uid);
        }
        for object in &list.objects {
            self.collector.put(&self.resource, &object.metadata);
        }
        self.synced.send_replace(true);
        self.collector.listed();
        self.note();
    }

    fn apply(&self, object: Metadata) {
        self.collector.put(&self.resource, &object.metadata);
        self.note();
    }

    fn remove(&self, object: Metadata) {
        self.collector
            .remove(object.metadata.uid.as_deref().unwrap_or_default());
        self.note();
    }
}

impl Monitors {
    /// Creates the set of watches and connects the shared informers to the graph.
    pub fn new(ctx: &Context, collector: &Collector) -> Self {
        let graph = collector.clone();
        let sink = move |resource: &Arc<Served>, meta: &ObjectMeta, gone: bool| {
            if gone {
                graph.remove(meta.uid.as_deref().unwrap_or_default());
            } else {
                graph.put(resource, meta);
            }
        };
        let sink: crate::kinds::MetadataSink = Arc::new(sink);
        Self {
            ctx: ctx.clone(),
            collector: collector.clone(),
            fed: ctx.informers.feed(&sink),
            changed: Arc::new(Notify::new()),
            ready: watch::Sender::new(false),
        }
    }

    /// Waits until all resources are listed, or until the timeout if some cannot be listed.
    pub async fn synced(&self) {
        let all = async {
            self.ctx.informers.synced().await;
            // Cannot fail: `self` owns the sender.
            let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
        };
        if tokio::time::timeout(SYNC_TIMEOUT, all).await.is_err() {
            tracing::warn!("garbage collection begins although some kinds cannot be listed");
        }
    }

    /// Starts and stops watches according to discovery. Never returns.
    pub async fn run(&self) {
        let mut tasks = JoinSet::new();
        let mut monitors: HashMap<Name, Monitor> = HashMap::new();
        loop {
            let complete = match discover(&self.ctx).await {
                Ok((served, failed)) => {
                    self.adjust(&mut tasks, &mut monitors, served, &failed);
                    failed.is_empty()
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot discover what is served");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            if !*self.ready.borrow() {
                let deadline = tokio::time::Instant::now() + SYNC_TIMEOUT;
                for monitor in monitors.values_mut() {
                    // A stopped watch counts as listed.
                    let _ = tokio::time::timeout_at(
                        deadline,
                        monitor.synced.wait_for(|synced| *synced),
                    )
                    .await;
                }
                self.ready.send_replace(true);
            }
            if complete {
                self.changed.notified().await;
            } else {
                let _ = tokio::time::timeout(RETRY_PERIOD, self.changed.notified()).await;
            }
            tokio::time::sleep(COLLECTION_DELAY).await;
        }
    }

    fn adjust(
        &self,
        tasks: &mut JoinSet<()>,
        monitors: &mut HashMap<Name, Monitor>,
        served: Vec<Served>,
        failed: &[String],
    ) {
        let wanted: Vec<Arc<Served>> = served
            .into_iter()
            .filter(|served| served.can("list") && served.can("watch") && served.can("delete"))
            .filter(|served| !IGNORED.contains(&(served.group.as_str(), served.plural.as_str())))
            .map(Arc::new)
            .collect();
        let gone: Vec<Name> = monitors
            .iter()
            .filter(|(name, monitor)| {
                let absent = !wanted.iter().any(|served| name_of(served) == **name);
                absent && !failed.contains(&monitor.resource.api_version())
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(monitor) = monitors.remove(&name) {
                monitor.task.abort();
                let uids = self
                    .collector
                    .shared
                    .graph
                    .lock()
                    .of_resource(&monitor.resource);
                uids.iter().for_each(|uid| self.collector.remove(uid));
            }
        }
        for resource in &wanted {
            let name = name_of(resource);
            let fed = self.fed.iter().any(|fed| name_of(fed) == name);
            if fed || monitors.contains_key(&name) {
                continue;
            }
            let (synced, synced_receiver) = watch::channel(false);
            let sink = MetadataGraph {
                collector: self.collector.clone(),
                resource: resource.clone(),
                synced,
                changed: CATALOGUES
                    .contains(&resource.plural.as_str())
                    .then(|| self.changed.clone()),
            };
            let source = Source::new(resource.path("")).metadata_only();
            let (client, sink) = (self.ctx.client.clone(), Arc::new(sink));
            let task = tasks.spawn(supervise(source.path.clone(), move || {
                reflect::<Metadata>(client.clone(), source.clone(), sink.clone())
            }));
            monitors.insert(
                name,
                Monitor {
                    resource: resource.clone(),
                    synced: synced_receiver,
                    task,
                },
            );
        }
        let mut all = self.fed.clone();
        all.extend(
            wanted
                .into_iter()
                .filter(|served| !self.fed.iter().any(|fed| name_of(fed) == name_of(served))),
        );
        self.collector.set_served(all);
    }
}
