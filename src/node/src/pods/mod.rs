//! Runs the pods of this node: one worker per pod, fed by a watch of the API and by the manifests of
//! static pods.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use futures::StreamExt;
use rkube_client::reflector::{Changes, Event, Listed};
use rkube_runtime::Runtime;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
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
mod paused;
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
use crate::static_pods::mirror::{self, Mirrors};
use crate::static_pods::schedule::{Schedule, Step};
use crate::static_pods::source::{self, Wanted};
use crate::{static_pods, watching};
use admission::NodeOffer;
use context::PodContext;
use reason::{Eviction, Reason};
use table::WorkerEvent;
use worker::Adopted;

/// Maximum number of entries in the sandbox-to-pod cache.
const MAX_KNOWN_OWNERS: usize = 4096;

/// Watches and runs the pods of this node until the future is dropped: those of the API and those of
/// the manifests in the node's directory, which do not wait for the API.
pub(crate) async fn run(context: Arc<PodContext>) -> anyhow::Result<()> {
    let adopted = adopt(&context.runtime);
    tokio::spawn(forward_events(context.clone()));
    let on_this_node = format!("spec.nodeName={}", context.host.name());
    let source = watching::source::<Pod>(None).fields(on_this_node);
    let mut changes = Changes::new(context.client.clone(), source);
    let mut wanted = source::start(
        Path::new(rkube_config::paths::MANIFESTS),
        context.host.name(),
    );
    let (mirrors, view) = watch::channel(None);
    let keep = mirror::keep(context.client.clone(), context.node.clone(), view);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut feed = Feed {
        context,
        adopted,
        unreadable: HashSet::new(),
        first: true,
        statics: Schedule::default(),
        mirrors,
        ended,
    };
    let pods = wanted.borrow_and_update().clone();
    feed.replace_adopted(&pods).await;
    feed.want(pods);
    let follow = async {
        loop {
            tokio::select! {
                event = changes.next() => match event {
                    Some(event) => feed.take(event).await,
                    None => anyhow::bail!("the watch of pods ended"),
                },
                changed = wanted.changed() => {
                    changed.context("the watch of static pods ended")?;
                    let pods = wanted.borrow_and_update().clone();
                    feed.want(pods);
                }
                Some(uid) = ends.recv() => feed.ended(&uid),
            }
        }
    };
    tokio::select! {
        done = follow => done,
        () = keep => anyhow::bail!("mirror pods are not kept any more"),
    }
}

/// Gives the pods of all sources to their workers.
struct Feed {
    context: Arc<PodContext>,
    /// What earlier agents left, until its pod has a worker.
    adopted: HashMap<String, Adopted>,
    /// The UIDs of pods that cannot be read at present.
    unreadable: HashSet<String>,
    /// Whether the API's first list of pods is still to come.
    first: bool,
    statics: Schedule,
    /// What decides about mirror pods.
    mirrors: watch::Sender<Option<Mirrors>>,
    /// Gets the UIDs of the static pods that have ended.
    ended: mpsc::UnboundedSender<String>,
}

impl Feed {
    /// Takes a change of the API's pods.
    async fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Listed(list) => self.list(list).await,
            Event::Applied(pod) => match self.statics.applied(pod) {
                Ok(steps) => self.perform(steps),
                Err(pod) => {
                    self.unreadable.remove(pod.uid());
                    let pod = Arc::new(static_pods::from_api(*pod));
                    dispatch(&self.context, pod, &mut self.adopted, None);
                    self.note_complete();
                }
            },
            Event::Deleted(pod) => match self.statics.deleted(pod) {
                Ok(steps) => self.perform(steps),
                Err(pod) => self.delete(static_pods::from_api(*pod)).await,
            },
            // Their workers go on with what they know.
            Event::Unreadable(pod) => {
                self.unreadable.insert(pod.uid);
                self.context.plugins.set_unreadable(&self.unreadable);
            }
            Event::Failed(_) => {}
        }
    }

    async fn list(&mut self, mut list: Listed<Pod>) {
        let mut kept = kept(&list);
        kept.extend(self.statics.uids().map(str::to_owned));
        self.unreadable = list.unreadable.iter().map(|pod| pod.uid.clone()).collect();
        for uid in self.context.pods.uids() {
            if !kept.contains(&uid) {
                self.context.pods.send(&uid, WorkerEvent::Removed);
            }
        }
        let (mirrors, pods): (Vec<Pod>, Vec<Pod>) = std::mem::take(&mut list.objects)
            .into_iter()
            .partition(static_pods::is_mirror);
        for pod in pods {
            let pod = Arc::new(static_pods::from_api(pod));
            dispatch(&self.context, pod, &mut self.adopted, None);
        }
        let steps = self.statics.list(mirrors.into_iter().map(Arc::new));
        self.perform(steps);
        // Not before: pods without a worker look gone.
        self.context.plugins.set_unreadable(&self.unreadable);
        // Unreadable pods have no worker; what they have is theirs.
        if self.unreadable.is_empty() {
            self.context.resources.set_complete();
        }
        // What runs of pods that cannot be read waits for the day when they can.
        let orphans: HashMap<_, _> = self
            .adopted
            .extract_if(|uid, _| !kept.contains(uid))
            .collect();
        if std::mem::take(&mut self.first) || !orphans.is_empty() {
            clean_up(&self.context, orphans, &kept).await;
        }
    }

    async fn delete(&mut self, pod: Pod) {
        let pods = &self.context.pods;
        let uid = pod.uid().to_owned();
        pods.send(&uid, WorkerEvent::Updated(Arc::new(pod)));
        pods.send(&uid, WorkerEvent::Removed);
        self.unreadable.remove(&uid);
        self.note_complete();
        if let Some(orphan) = self.adopted.remove(&uid) {
            // Pods that were never read have no worker, and maybe no sandbox either.
            let kept = self.adopted.keys().chain(&self.unreadable);
            let kept = kept.cloned().collect();
            clean_up(&self.context, HashMap::from([(uid, orphan)]), &kept).await;
        }
    }

    /// Notes that all pods are known, once none is unreadable.
    fn note_complete(&self) {
        if !self.first && self.unreadable.is_empty() {
            self.context.resources.set_complete();
        }
    }

    /// Takes the pods of all manifests.
    fn want(&mut self, pods: Wanted) {
        let steps = self.statics.want(pods);
        self.perform(steps);
    }

    /// Takes the end of a static pod's worker.
    fn ended(&mut self, uid: &str) {
        let steps = self.statics.ended(uid);
        self.perform(steps);
    }

    fn perform(&mut self, steps: Vec<Step>) {
        let pods = self.context.pods.clone();
        for step in steps {
            match step {
                Step::Run(pod) => {
                    let is_static = Static {
                        mirror: self.statics.mirror(&pod),
                        ended: self.ended.clone(),
                    };
                    dispatch(&self.context, pod, &mut self.adopted, Some(is_static));
                }
                Step::Update(pod) => {
                    let uid = pod.uid().to_owned();
                    pods.send(&uid, WorkerEvent::Updated(pod));
                }
                Step::End(uid) => pods.send(&uid, WorkerEvent::Removed),
                Step::Mirror(uid, mirror) => pods.send(&uid, WorkerEvent::Mirror(mirror)),
            }
        }
        let view = self.statics.mirrors();
        self.mirrors.send_if_modified(|known| {
            let changed = *known != view;
            *known = view;
            changed
        });
    }

    /// Removes what earlier agents left of static pods whose manifest has changed since, before the
    /// new ones start.
    async fn replace_adopted(&mut self, wanted: &Wanted) {
        let is_replaced = |uid: &String, adopted: &mut Adopted| {
            adopted.sandboxes.iter().any(|sandbox| {
                let name = format!("{}/{}", sandbox.spec.namespace, sandbox.spec.name);
                wanted.get(&name).is_some_and(|pod| pod.uid() != uid)
            })
        };
        let replaced: HashMap<_, _> = self.adopted.extract_if(is_replaced).collect();
        if !replaced.is_empty() {
            remove(&self.context, replaced).await;
        }
    }
}

/// Returns the UIDs of the pods of this node, also of those that cannot be read: they must not
/// look deleted.
fn kept(list: &Listed<Pod>) -> HashSet<String> {
    let readable = list.objects.iter().map(|pod| pod.uid().to_owned());
    let unreadable = list.unreadable.iter().map(|pod| pod.uid.clone());
    readable.chain(unreadable).collect()
}

/// What the worker of a static pod gets in addition.
struct Static {
    mirror: Option<Arc<Pod>>,
    /// Gets the pod's UID when the worker has ended.
    ended: mpsc::UnboundedSender<String>,
}

/// Sends a pod to its worker. A pending pod without sandbox is admitted first.
fn dispatch(
    context: &Arc<PodContext>,
    pod: Arc<Pod>,
    adopted: &mut HashMap<String, Adopted>,
    is_static: Option<Static>,
) {
    let resources = &context.resources;
    resources.release_inactive(&context.pods);
    let mut victims = Vec::new();
    context.pods.update(pod.clone(), |others| {
        let adopted = adopted.remove(pod.uid()).unwrap_or_default();
        let failure = if adopted.sandboxes.is_empty() && pod.api_phase() == "Pending" {
            let host = &context.host;
            let node = NodeOffer {
                name: host.name(),
                allocatable: host.allocatable(),
                labels: context.node.labels(),
                sysctls: &host.sysctls,
                taints: context.node.taints(),
                pressure: *context.pressure.borrow(),
                extended: context.extended_resources(),
                allocate: &|pod| resources.admit(pod),
            };
            let admitted = admission::admit(&pod, others, &node);
            admitted
                .map(|chosen| victims = chosen)
                .err()
                .map(|rejection| {
                    resources.release(pod.uid());
                    let failure = admission::failure(&rejection);
                    let Reason { reason, message } = rejection;
                    context.recorder.pod(&pod, Warning, reason, message);
                    failure
                })
        } else {
            None
        };
        let (pods, uid) = (context.pods.clone(), pod.uid().to_owned());
        let (mirror, told) = match is_static {
            Some(Static { mirror, ended }) => (mirror, Some(ended)),
            None => (None, None),
        };
        worker::start(context.clone(), pod, mirror, adopted, failure, move || {
            pods.remove(&uid);
            if let Some(told) = told {
                // Nobody waits when the agent ends.
                let _ = told.send(uid);
            }
        })
    });
    for uid in victims {
        preempt(context, &uid);
    }
}

/// Ends a pod so that a critical pod has its resources.
fn preempt(context: &PodContext, uid: &str) {
    const MESSAGE: &str = "Preempted in order to admit critical pod";
    let Some(victim) = context.pods.all().into_iter().find(|s| s.pod.uid() == uid) else {
        return;
    };
    let reason = Eviction::PREEMPTING;
    context.recorder.pod(&victim.pod, Warning, reason, MESSAGE);
    let eviction = Eviction {
        reason,
        message: MESSAGE.into(),
        grace: victim.pod.grace_seconds(),
        is_disruption: true,
    };
    context.pods.evict(uid, eviction);
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

/// Removes sandboxes, network interfaces and files of pods that are no longer in the API. `kept` are
/// the UIDs of pods that are, even if they have no worker.
async fn clean_up(context: &PodContext, orphans: HashMap<String, Adopted>, kept: &HashSet<String>) {
    remove(context, orphans).await;
    let mut known: HashSet<String> = context.pods.uids().into_iter().collect();
    known.extend(kept.iter().cloned());
    context.plugins.devices.retain(|uid| known.contains(uid));
    for (_, uid) in find_stray_directories(Path::new(rkube_config::paths::PODS), &known) {
        crate::volumes::tear_down(&uid).await;
    }
    for (logs, _) in find_stray_directories(Path::new(rkube_config::paths::POD_LOGS), &known) {
        if let Err(e) = tokio::fs::remove_dir_all(&logs).await {
            warn!("removing {}: {e}", logs.display());
        }
    }
}

/// Removes the sandboxes, network interfaces and volumes of pods that are gone.
async fn remove(context: &PodContext, orphans: HashMap<String, Adopted>) {
    let network = context.network.clone();
    let runtime = context.runtime.clone();
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
    let gone: HashSet<String> = removed.iter().cloned().collect();
    // Asked for each attachment, and not before: workers start pods meanwhile.
    let is_live = move |id: &str| !gone.contains(id) && runtime.sandbox_status(id).is_some();
    let done = tokio::task::spawn_blocking(move || network.retain(is_live)).await;
    if let Ok(Err(e)) = done {
        warn!("removing links of pods that are gone: {e}");
    }
    for sandbox in removed {
        context.policies.detached(&sandbox).await;
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
