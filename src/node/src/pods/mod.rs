//! Pods on this node: who they are, and a worker for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use rkube_runtime::{ContainerStatus as RuntimeContainer, Sandbox};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

mod admission;
mod backoff;
pub(crate) mod container;
pub(crate) mod env;
mod files;
mod handlers;
mod images;
pub(crate) mod instance;
mod kill;
mod plan;
mod probes;
pub(crate) mod qos;
mod resize;
mod sandbox;
mod start;
pub(crate) mod status;
mod worker;

pub(crate) use images::{BUILTIN as BUILTIN_IMAGE, ImagePuller};

use crate::agent::Agent;
use crate::kinds::*;
use crate::objects::Watched;
use crate::watching;
use status::Waiting;

/// Shares in the watches that a pod needs, for as long as it is here.
#[derive(Default)]
pub(crate) struct ObjectHold {
    config_maps: HashMap<String, Arc<Watched<ConfigMap>>>,
    secrets: HashMap<String, Arc<Watched<Secret>>>,
}

impl ObjectHold {
    pub(crate) async fn config_map(
        &mut self,
        agent: &Agent,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<ConfigMap>> {
        self.config_maps
            .entry(name.to_owned())
            .or_insert_with(|| agent.objects.config_map(namespace, name))
            .get()
            .await
    }

    pub(crate) async fn secret(
        &mut self,
        agent: &Agent,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Secret>> {
        self.secrets
            .entry(name.to_owned())
            .or_insert_with(|| agent.objects.secret(namespace, name))
            .get()
            .await
    }
}

/// What the runtime already has of a pod when its worker begins.
#[derive(Default)]
pub(crate) struct Adopted {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<RuntimeContainer>,
}

/// Letters to a pod's worker.
pub(crate) enum Letter {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The API has it no more.
    Gone,
    /// A container of it changed.
    Container(String),
    /// The node cannot keep it.
    Evict(Waiting),
    /// Something for its worker alone.
    Own(worker::Own),
}

/// What others may know of a pod.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The pod, with the status that the node last made.
    pub pod: Arc<Pod>,
    /// All attempts of its containers.
    pub instances: Arc<instance::Instances>,
    /// Its current sandbox.
    pub sandbox: Option<String>,
}

struct Handle {
    letters: mpsc::UnboundedSender<Letter>,
    snapshot: watch::Receiver<Snapshot>,
}

/// The workers, by pod UID.
#[derive(Default)]
pub(crate) struct PodTable {
    handles: Mutex<BTreeMap<String, Handle>>,
    /// Held while a pod is granted more than it has.
    grants: Mutex<()>,
}

impl PodTable {
    /// All pods, as they are.
    pub(crate) fn all(&self) -> Vec<Snapshot> {
        let handles = self.handles.lock();
        handles
            .values()
            .map(|h| h.snapshot.borrow().clone())
            .collect()
    }

    /// Pods whose containers may run.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        self.all()
            .into_iter()
            .map(|s| s.pod)
            .filter(|p| !p.deleting() && !matches!(p.api_phase(), "Succeeded" | "Failed"))
            .collect()
    }

    /// The pod of that name; the UID decides when there are two.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Snapshot> {
        let mut found: Vec<Snapshot> = self
            .all()
            .into_iter()
            .filter(|s| s.pod.namespace() == namespace && s.pod.name() == name)
            .filter(|s| uid.is_none_or(|u| s.pod.uid() == u))
            .collect();
        // Of an old one that is stopping and its successor, the successor is meant.
        found.sort_by_key(|s| s.pod.deleting());
        found.into_iter().next()
    }

    /// Asks the pod's worker to fail and stop it.
    pub(crate) fn evict(&self, uid: &str, verdict: Waiting) {
        self.send(uid, Letter::Evict(verdict));
    }

    fn send(&self, uid: &str, letter: Letter) {
        if let Some(handle) = self.handles.lock().get(uid) {
            // A worker that has just ended needs no more letters.
            let _ = handle.letters.send(letter);
        }
    }

    fn uids(&self) -> Vec<String> {
        self.handles.lock().keys().cloned().collect()
    }
}

/// Follows the pods of this node until it is dropped.
pub(crate) async fn run(agent: Arc<Agent>) -> anyhow::Result<()> {
    let mut adopted = adopt(&agent);
    tokio::spawn(forward_events(agent.clone()));
    let api: Api<Pod> = Api::all(agent.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", agent.config.name));
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
                for uid in agent.pods.uids() {
                    if !listing.contains_key(&uid) {
                        agent.pods.send(&uid, Letter::Gone);
                    }
                }
                for (_, pod) in listing.drain() {
                    dispatch(&agent, pod, &mut adopted);
                }
                if std::mem::take(&mut first) {
                    clean_up(&agent, std::mem::take(&mut adopted)).await;
                }
            }
            Event::Apply(pod) => dispatch(&agent, Arc::new(pod), &mut adopted),
            Event::Delete(pod) => {
                let uid = pod.uid().to_owned();
                agent.pods.send(&uid, Letter::Pod(Arc::new(pod)));
                agent.pods.send(&uid, Letter::Gone);
            }
        }
    }
    anyhow::bail!("the watch of pods ended")
}

fn dispatch(agent: &Arc<Agent>, pod: Arc<Pod>, adopted: &mut HashMap<String, Adopted>) {
    let uid = pod.uid().to_owned();
    let mut handles = agent.pods.handles.lock();
    if let Some(handle) = handles.get(&uid)
        && handle.letters.send(Letter::Pod(pod.clone())).is_ok()
    {
        return;
    }
    let adopted = adopted.remove(&uid).unwrap_or_default();
    let verdict = if adopted.sandboxes.is_empty() && pod.api_phase() == "Pending" {
        let others: Vec<Arc<Pod>> = handles
            .values()
            .map(|h| h.snapshot.borrow().pod.clone())
            .collect();
        admission::admit(agent, &pod, &others).err()
    } else {
        None
    };
    let (letters, inbox) = mpsc::unbounded_channel();
    let (publish, snapshot) = watch::channel(Snapshot {
        pod: pod.clone(),
        instances: Arc::default(),
        sandbox: None,
    });
    let worker = worker::Worker::new(
        agent.clone(),
        pod,
        adopted,
        verdict,
        letters.clone(),
        inbox,
        publish,
    );
    handles.insert(uid.clone(), Handle { letters, snapshot });
    drop(handles);
    let agent = agent.clone();
    tokio::spawn(async move {
        worker.run().await;
        agent.pods.handles.lock().remove(&uid);
    });
}

/// What the runtime has, by pod UID.
fn adopt(agent: &Agent) -> HashMap<String, Adopted> {
    let mut all: HashMap<String, Adopted> = HashMap::new();
    let mut owner: HashMap<String, String> = HashMap::new();
    for sandbox in agent.runtime.list_sandboxes() {
        owner.insert(sandbox.id.clone(), sandbox.spec.uid.clone());
        all.entry(sandbox.spec.uid.clone())
            .or_default()
            .sandboxes
            .push(sandbox);
    }
    for container in agent.runtime.list_containers() {
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

/// Removes what belongs to pods that the API does not know (any more).
async fn clean_up(agent: &Arc<Agent>, orphans: HashMap<String, Adopted>) {
    let network = agent.network.clone();
    let live: std::collections::HashSet<String> = agent
        .runtime
        .list_sandboxes()
        .into_iter()
        .filter(|s| !orphans.contains_key(&s.spec.uid))
        .map(|s| s.id)
        .collect();
    for (uid, adopted) in orphans {
        info!(pod = %uid, "removing a pod that is gone");
        for sandbox in adopted.sandboxes {
            if let Err(e) = agent.runtime.remove_sandbox(&sandbox.id).await {
                warn!("removing sandbox {}: {e}", sandbox.id);
            }
            agent
                .runtime
                .remove_cgroup(&sandbox.spec.cgroup_parent)
                .await;
        }
        crate::volumes::tear_down(&uid).await;
    }
    let done = tokio::task::spawn_blocking(move || network.retain(|id| live.contains(id))).await;
    if let Ok(Err(e)) = done {
        warn!("removing links of pods that are gone: {e}");
    }
    let known: std::collections::HashSet<String> = agent.pods.uids().into_iter().collect();
    let Ok(entries) = std::fs::read_dir(rkube_config::paths::PODS) else {
        return;
    };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&uid) {
            crate::volumes::tear_down(&uid).await;
        }
    }
}

/// Brings the runtime's events to the workers that they concern.
async fn forward_events(agent: Arc<Agent>) {
    let mut events = agent.runtime.events();
    let mut owners: HashMap<String, String> = HashMap::new();
    loop {
        match events.recv().await {
            Ok(event) => {
                let uid = match owners.get(&event.sandbox_id) {
                    Some(uid) => uid.clone(),
                    None => {
                        let Some(sandbox) = agent.runtime.sandbox_status(&event.sandbox_id) else {
                            continue;
                        };
                        if owners.len() > 4096 {
                            owners.clear();
                        }
                        owners.insert(event.sandbox_id.clone(), sandbox.spec.uid.clone());
                        sandbox.spec.uid
                    }
                };
                agent.pods.send(&uid, Letter::Container(event.container_id));
            }
            Err(RecvError::Lagged(_)) => {
                // Some news are lost: everybody looks at everything.
                for container in agent.runtime.list_containers() {
                    if let Some(uid) = container.spec.labels.get(instance::keys::POD_UID) {
                        agent
                            .pods
                            .send(uid, Letter::Container(container.id.clone()));
                    }
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}
