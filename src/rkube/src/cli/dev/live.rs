//! The pods of a session: their logs, their troubles, and where files are copied to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, Client};
use rkube_client::reflector::{Listed, Sink, Source, reflect};
use rkube_dev::pods::{self, Container, Workload};
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::session::Message;
use super::show::{LogSource, Show};

/// Delay before a log that broke off is read again.
const LOG_RETRY: Duration = Duration::from_millis(300);
/// How often a log is asked for before the first line.
const LOG_ATTEMPTS: u32 = 10;

/// A container that files are copied to.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node.
    pub node: String,
    /// The pod.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// The container's ID.
    pub id: String,
}

#[derive(Default)]
struct State {
    /// Whose pods belong to the session.
    workloads: BTreeSet<Workload>,
    /// All pods of the cluster, by UID.
    pods: BTreeMap<String, Pod>,
    /// IDs of containers that were seen running.
    seen: BTreeSet<String>,
    /// IDs of containers whose logs are printed, or need not be.
    logged: BTreeSet<String>,
    /// The troubles of each pod that were told.
    told: BTreeMap<String, Vec<String>>,
    /// Set once the session has applied something: older containers are others'.
    begun: bool,
    /// The tasks that print logs.
    printing: Vec<AbortHandle>,
    /// The task that watches the pods.
    watching: Option<AbortHandle>,
}

/// Follows the pods of a session.
pub struct Live {
    client: Client,
    show: Arc<Show>,
    logs: bool,
    messages: UnboundedSender<Message>,
    state: Mutex<State>,
}

/// The receiver of the watch.
struct Receiver(Weak<Live>);

impl Sink<Pod> for Receiver {
    fn replace(&self, list: Listed<Pod>) {
        let Some(live) = self.0.upgrade() else {
            return;
        };
        let mut state = live.state();
        state.pods.retain(|_, known| list.keeps(&known.metadata));
        for pod in list.objects {
            live.update(&mut state, pod);
        }
    }

    fn apply(&self, pod: Pod) {
        if let Some(live) = self.0.upgrade() {
            live.update(&mut live.state(), pod);
        }
    }

    fn remove(&self, pod: Pod) {
        if let (Some(live), Some(uid)) = (self.0.upgrade(), &pod.metadata.uid) {
            let mut state = live.state();
            state.pods.remove(uid);
            state.told.remove(uid);
        }
    }
}

impl Live {
    /// Begins to watch the pods of the cluster.
    pub fn start(
        client: Client,
        show: Arc<Show>,
        logs: bool,
        messages: UnboundedSender<Message>,
    ) -> Arc<Self> {
        let live = Arc::new(Self {
            client: client.clone(),
            show,
            logs,
            messages,
            state: Mutex::default(),
        });
        let source = Source::of::<Pod>(None);
        let watch = tokio::spawn(reflect::<Pod>(
            client,
            source,
            Receiver(Arc::downgrade(&live)),
        ));
        live.state().watching = Some(watch.abort_handle());
        live
    }

    /// A panic of another task leaves the state as it is: each change is complete.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whose pods belong to the session from now on.
    pub fn set_workloads(&self, workloads: BTreeSet<Workload>) {
        let mut state = self.state();
        state.workloads = workloads;
        if !state.begun {
            // What has run before has printed its past already, for others.
            let ids: Vec<String> = state
                .pods
                .values()
                .flat_map(pods::containers)
                .filter_map(|c| c.id)
                .collect();
            state.seen.extend(ids);
            state.begun = true;
        }
        for pod in state.pods.values().cloned().collect::<Vec<_>>() {
            self.look(&mut state, &pod);
        }
    }

    /// Returns the running containers of an image.
    pub fn places(&self, image: &str) -> Vec<Place> {
        let state = self.state();
        let mut places = Vec::new();
        for pod in state.pods.values() {
            if pod.metadata.deletion_timestamp.is_some() || !state.is_own(pod) {
                continue;
            }
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            for container in pods::containers(pod) {
                if let (Some(id), Some(node)) = (container.id, node.clone())
                    && container.running
                    && container.image == image
                {
                    let pod = pod.metadata.name.clone().unwrap_or_default();
                    let container = container.name;
                    places.push(Place {
                        node,
                        pod,
                        container,
                        id,
                    });
                }
            }
        }
        places
    }

    /// Returns a pod that fits and has an address, with the address.
    pub fn address(&self, fits: impl Fn(&Pod) -> bool) -> Option<(std::net::IpAddr, Pod)> {
        let state = self.state();
        let ready = |pod: &Pod| {
            let conditions = pod
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten());
            let mut conditions = conditions.filter(|c| c.type_ == "Ready");
            conditions.any(|c| c.status == "True")
        };
        let alive = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && fits(pod);
        let mut fitting: Vec<&Pod> = state.pods.values().filter(alive).collect();
        fitting.sort_by_key(|pod| !ready(pod));
        let pod = *fitting.first()?;
        let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some((address, pod.clone()))
    }

    /// Returns namespace, name and UID of the pods of `workloads` that end and may take longer than
    /// `seconds`.
    pub fn ending(
        &self,
        workloads: &BTreeSet<Workload>,
        seconds: u32,
    ) -> Vec<(String, String, String)> {
        let state = self.state();
        let slow = state.pods.values().filter(|pod| {
            let grace = pod.metadata.deletion_grace_period_seconds;
            let mut origins = pods::origins(pod).into_iter();
            origins.any(|origin| workloads.contains(&origin))
                && grace.is_some_and(|grace| grace > i64::from(seconds))
        });
        let names = slow.filter_map(|pod| {
            let metadata = &pod.metadata;
            Some((
                metadata.namespace.clone()?,
                metadata.name.clone()?,
                metadata.uid.clone()?,
            ))
        });
        names.collect()
    }

    fn update(&self, state: &mut State, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        if state.begun {
            self.look(state, &pod);
        }
        state.pods.insert(uid, pod);
    }

    /// Tells what is new about a pod.
    fn look(&self, state: &mut State, pod: &Pod) {
        if !state.is_own(pod) {
            return;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let troubles = pods::troubles(pod);
        for trouble in &troubles {
            if state
                .told
                .get(&uid)
                .is_none_or(|told| !told.contains(trouble))
            {
                let data = json!({ "pod": name, "namespace": pod.metadata.namespace });
                self.show
                    .event("trouble", &format!("{name}: {trouble}"), data);
            }
        }
        // A trouble that comes again after another is told again.
        if !troubles.is_empty() {
            state.told.insert(uid, troubles);
        }
        let containers = pods::containers(pod);
        let alone = containers.len() == 1;
        for container in containers {
            self.look_at(state, pod, &container, alone);
        }
    }

    fn look_at(&self, state: &mut State, pod: &Pod, container: &Container, alone: bool) {
        let Some(id) = &container.id else {
            return;
        };
        let old = state.seen.contains(id) && !state.logged.contains(id);
        if container.running && state.seen.insert(id.clone()) {
            // The receiver is gone when the session has ended.
            let _ = self.messages.send(Message::Started {
                image: container.image.clone(),
                again: container.restarts > 0,
            });
        }
        if !self.logs || !state.logged.insert(id.clone()) {
            return;
        }
        let workload = pods::origins(pod).pop();
        let source = LogSource {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            pod: pod.metadata.name.clone().unwrap_or_default(),
            container: container.name.clone(),
            workload: workload.map(|w| w.name).unwrap_or_default(),
            alone,
        };
        let task = follow(self.client.clone(), self.show.clone(), source, old);
        state.printing.retain(|task| !task.is_finished());
        state.printing.push(tokio::spawn(task).abort_handle());
    }

    /// Prints nothing any more.
    pub fn quiet(&self) {
        let mut state = self.state();
        state.begun = false;
        for task in state.printing.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(task) = &self.state().watching {
            task.abort();
        }
    }
}

impl State {
    fn is_own(&self, pod: &Pod) -> bool {
        let mut origins = pods::origins(pod).into_iter();
        origins.any(|origin| self.workloads.contains(&origin))
    }
}

/// Prints the log of a container until it ends.
async fn follow(client: Client, show: Arc<Show>, source: LogSource, old: bool) {
    let api: Api<Pod> = Api::namespaced(client, &source.namespace);
    let mut params = LogParams {
        container: Some(source.container.clone()),
        follow: true,
        tail_lines: old.then_some(0),
        ..LogParams::default()
    };
    for attempt in 1.. {
        match api.log_stream(&source.pod, &params).await {
            Ok(stream) => {
                let mut lines = stream.lines();
                let mut broken = false;
                while let Some(line) = lines.next().await {
                    match line {
                        Ok(line) => show.log(&source, &line),
                        Err(_) => broken = true,
                    }
                    if broken {
                        break;
                    }
                }
                if !broken {
                    return;
                }
                // What came in the meantime is not known; at most some lines are missing.
                params.tail_lines = Some(0);
            }
            // The pod is gone.
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(e) if attempt >= LOG_ATTEMPTS => {
                show.warn(&format!("{}: the log cannot be read: {e}", source.pod));
                return;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOG_RETRY).await;
    }
}
