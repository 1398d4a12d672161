//! Runs the pods of this node: one worker per pod, fed by a watch.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use rkube_runtime::Runtime;
use tokio::sync::broadcast::error::RecvError;
use tracing::{info, warn};

mod admission;
mod backoff;
mod container;
pub(crate) mod context;
pub(crate) mod counts;
pub(crate) mod env;
mod files;
mod handlers;
pub(crate) mod images;
pub(crate) mod instance;
mod kill;
pub(crate) mod object_hold;
pub(crate) mod paths;
mod plan;
pub(crate) mod probe_counts;
mod probes;
pub(crate) mod qos;
pub(crate) mod reason;
mod resize;
mod sandbox;
mod start;
mod status;
pub(crate) mod sysctls;
pub(crate) mod table;
pub(crate) mod unsupported;
mod users;
mod worker;

pub(crate) use status::container_id;

use crate::kinds::*;
use crate::recorder::Severity::Warning;
use crate::watching;
use admission::NodeOffer;
use context::PodContext;
use reason::Reason;
use table::WorkerEvent;
use worker::Adopted;

/// Maximum number of entries in the sandbox-to-pod cache.
const MAX_KNOWN_OWNERS: usize = 4096;

/// Watches and runs the pods of this node until the future is dropped.
pub(crate) async fn run(context: Arc<PodContext>) -> anyhow::Result<()> {
    let mut adopted = adopt(&context.runtime);
    tokio::spawn(forward_events(context.clone()));
    let api: Api<Pod> = Api::all(context.client.clone());
    let config =
        watcher::Config::default().fields(&format!("spec.nodeName={}", context.host.name()));
    let events = watching::forever(api, config);
    futures::pin_mut!(events);
    let mut listing: HashMap<String, Arc<Pod>> = HashMap::new();
    let mut first = true;
    while let Some(event) = events.next().await {
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(pod) => {
                listing.insert(pod.uid().to_owned(), Arc::new(pod));
            }
            Event::InitDone => {
                for uid in context.pods.uids() {
                    if !listing.contains_key(&uid) {
                        context.pods.send(&uid, WorkerEvent::Removed);
                    }
                }
                for (_, pod) in listing.drain() {
                    dispatch(&context, pod, &mut adopted);
                }
                if std::mem::take(&mut first) {
                    clean_up(&context, std::mem::take(&mut adopted)).await;
                }
            }
            Event::Apply(pod) => dispatch(&context, Arc::new(pod), &mut adopted),
            Event::Delete(pod) => {
                let uid = pod.uid().to_owned();
                context.pods.send(&uid, WorkerEvent::Updated(Arc::new(pod)));
                context.pods.send(&uid, WorkerEvent::Removed);
            }
        }
    }
    anyhow::bail!("the watch of pods ended")
}

/// Sends a pod to its worker. A pending pod without sandbox is admitted first.
fn dispatch(context: &Arc<PodContext>, pod: Arc<Pod>, adopted: &mut HashMap<String, Adopted>) {
    context.pods.update(pod.clone(), |others| {
        let adopted = adopted.remove(pod.uid()).unwrap_or_default();
        let failure = if adopted.sandboxes.is_empty() && pod.api_phase() == "Pending" {
            let host = &context.host;
            let node = NodeOffer {
                name: host.name(),
                allocatable: host.allocatable(),
                labels: context.node.labels(),
                sysctls: &host.sysctls,
                pressure: *context.pressure.borrow(),
            };
            let rejection = admission::admit(&pod, others, &node).err();
            rejection.map(|rejection| {
                let failure = admission::failure(&rejection);
                let Reason { reason, message } = rejection;
                context.recorder.pod(&pod, Warning, reason, message);
                failure
            })
        } else {
            None
        };
        let (pods, uid) = (context.pods.clone(), pod.uid().to_owned());
        worker::start(context.clone(), pod, adopted, failure, move || {
            pods.remove(&uid);
        })
    });
}

/// Returns the runtime's sandboxes and containers per pod UID.
fn adopt(runtime: &Runtime) -> HashMap<String, Adopted> {
    let mut all: HashMap<String, Adopted> = HashMap::new();
    let mut owner: HashMap<String, String> = HashMap::new();
    for sandbox in runtime.list_sandboxes() {
        owner.insert(sandbox.id.clone(), sandbox.spec.uid.clone());
        all.entry(sandbox.spec.uid.clone())
            .or_default()
            .sandboxes
            .push(sandbox);
    }
    for container in runtime.list_containers() {
        if let Some(uid) = owner.get(&container.sandbox_id) {
            all.entry(uid.clone())
                .or_default()
                .containers
                .push(container);
        }
    }
    if !all.is_empty() {
        info!(pods = all.len(), "adopted what runs here");
    }
    all
}

/// Removes sandboxes, network interfaces and files of pods that are no longer in the API.
async fn clean_up(context: &PodContext, orphans: HashMap<String, Adopted>) {
    let network = context.network.clone();
    let live: HashSet<String> = context
        .runtime
        .list_sandboxes()
        .into_iter()
        .filter(|s| !orphans.contains_key(&s.spec.uid))
        .map(|s| s.id)
        .collect();
    let mut removed = Vec::new();
    for (uid, adopted) in orphans {
        info!(pod = %uid, "removing a pod that is gone");
        for sandbox in adopted.sandboxes {
            if let Err(e) = context.runtime.remove_sandbox(&sandbox.id).await {
                warn!("removing sandbox {}: {e}", sandbox.id);
            }
            context
                .runtime
                .remove_cgroup(&sandbox.spec.cgroup_parent)
                .await;
            removed.push(sandbox.id);
        }
        crate::volumes::tear_down(&uid).await;
    }
    let done = tokio::task::spawn_blocking(move || network.retain(|id| live.contains(id))).await;
    if let Ok(Err(e)) = done {
        warn!("removing links of pods that are gone: {e}");
    }
    for sandbox in removed {
        context.policies.detached(&sandbox).await;
    }
    let known: HashSet<String> = context.pods.uids().into_iter().collect();
    for (_, uid) in find_stray_directories(Path::new(rkube_config::paths::PODS), &known) {
        crate::volumes::tear_down(&uid).await;
    }
    for (logs, _) in find_stray_directories(Path::new(rkube_config::paths::POD_LOGS), &known) {
        if let Err(e) = tokio::fs::remove_dir_all(&logs).await {
            warn!("removing {}: {e}", logs.display());
        }
    }
}

/// Returns the directories of pods that are not known, and their UIDs: each name is or ends with a
/// pod's UID (`<namespace>_<name>_<uid>`).
fn find_stray_directories(dir: &Path, known: &HashSet<String>) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let uid = name.rsplit('_').next()?.to_owned();
            (!known.contains(&uid)).then(|| (entry.path(), uid))
        })
        .collect()
}

/// Forwards the runtime's events to the workers of their pods.
async fn forward_events(context: Arc<PodContext>) {
    let mut events = context.runtime.events();
    let mut owners: HashMap<String, String> = HashMap::new();
    loop {
        match events.recv().await {
            Ok(event) => {
                let uid = match owners.get(&event.sandbox_id) {
                    Some(uid) => uid.clone(),
                    None => {
                        let Some(sandbox) = context.runtime.sandbox_status(&event.sandbox_id)
                        else {
                            continue;
                        };
                        if owners.len() > MAX_KNOWN_OWNERS {
                            owners.clear();
                        }
                        owners.insert(event.sandbox_id.clone(), sandbox.spec.uid.clone());
                        sandbox.spec.uid
                    }
                };
                context
                    .pods
                    .send(&uid, WorkerEvent::ContainerChanged(event.container_id));
            }
            Err(RecvError::Lagged(_)) => refresh_all(&context),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Makes every worker look at its sandbox and all its containers, after events were lost: also at
/// those that the runtime no longer has.
fn refresh_all(context: &PodContext) {
    let mut changed: Vec<(String, String)> = Vec::new();
    for snapshot in context.pods.all() {
        let uid = snapshot.pod.uid();
        changed.push((uid.to_owned(), String::new()));
        let instances = snapshot.instances.values().flatten();
        changed.extend(instances.map(|i| (uid.to_owned(), i.id.clone())));
    }
    for container in context.runtime.list_containers() {
        if let Some(uid) = container.spec.labels.get(instance::keys::POD_UID) {
            changed.push((uid.clone(), container.id));
        }
    }
    for (uid, id) in changed {
        context.pods.send(&uid, WorkerEvent::ContainerChanged(id));
    }
}

#[cfg(test)]
mod tests;
