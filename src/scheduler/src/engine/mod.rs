//! The scheduling loop: applies watch messages, schedules queued pods and handles the outcomes of
//! bindings.

use std::collections::HashMap;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::Client;
use rand::RngExt as _;
use rkube_client::events::{Recorder, Severity};
use rkube_component_helpers::time::instant_after;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::Config;
use crate::actions::{Actions, is_gone};
use crate::cluster::Cluster;
use crate::cycle::{self, FitError, Placement};
use crate::model::{Key, NodeInfo, PodInfo};
use crate::plugins::default_preemption::Candidate;
use crate::plugins::volume_binding::Decision;
use crate::plugins::{Event, PluginSet};
use crate::queue::{Queue, Queued};
use crate::watch::{self, Change, Message};

/// Maximum number of pods scheduled before the loop yields to other tasks.
const BATCH: usize = 16;

/// The outcome of carrying out a placement.
#[derive(Debug)]
enum Outcome {
    /// The pod is bound.
    Bound,
    /// Binding or provisioning of the claims' volumes was requested; the pod is bound once they are
    /// ready.
    VolumesAsked(Placement),
    /// The pod was deleted in the meantime.
    Gone,
    /// A request failed; the pod is retried after its back-off.
    Failed(anyhow::Error),
}

/// A pod whose volumes are being bound or provisioned.
struct Waiting {
    queued: Queued,
    placement: Placement,
    claims: Vec<Key>,
    deadline: Instant,
}

/// The scheduler's state and its event loop.
pub struct Engine {
    config: Config,
    actions: Actions,
    cluster: Cluster,
    queue: Queue,
    /// UIDs of pods by namespace and name, to resolve deletions.
    uids: HashMap<Key, String>,
    /// Pods that are being bound, by UID.
    binding: HashMap<String, Queued>,
    /// Pods that wait for volumes, by UID.
    waiting: HashMap<String, Waiting>,
    slots: Arc<Semaphore>,
    tasks: JoinSet<()>,
    messages: mpsc::UnboundedReceiver<Message>,
    outcomes: mpsc::UnboundedReceiver<(String, Outcome)>,
    report: mpsc::UnboundedSender<(String, Outcome)>,
    unsynced: usize,
}

impl Engine {
    /// Creates an engine and starts the watches in background tasks.
    pub fn new(client: Client, recorder: Recorder, config: Config) -> Self {
        let (to, messages) = mpsc::unbounded_channel();
        let (report, outcomes) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        watch::start(&client, &mut tasks, &to);
        Engine {
            actions: Actions::new(client, recorder, &config.name),
            slots: Arc::new(Semaphore::new(config.bindings.max(1))),
            config,
            cluster: Cluster::default(),
            queue: Queue::default(),
            uids: HashMap::new(),
            binding: HashMap::new(),
            waiting: HashMap::new(),
            tasks,
            messages,
            outcomes,
            report,
            unsynced: watch::WATCHES,
        }
    }

    /// Schedules pods until the watches end.
    ///
    /// # Errors
    ///
    /// Fails if a watch ends or a task panics. A new engine then starts from the API's state.
    pub async fn run(mut self) -> anyhow::Result<()> {
        loop {
            // Drain all pending messages first, so that each decision uses the newest state.
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
            while let Ok((uid, outcome)) = self.outcomes.try_recv() {
                self.on_outcome(&uid, outcome);
            }
            // Reap finished tasks; their results were already sent as outcomes. A lost task leaves
            // the state incomplete: a watch does not go on, or a pod's binding has no outcome.
            while let Some(ended) = self.tasks.try_join_next() {
                ended.context("a task of the scheduler died")?;
            }
            self.expire(Instant::now());
            if self.unsynced == 0 && self.schedule_batch() {
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.next_due();
            let rest = async move {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => anyhow::bail!("the watches ended"),
                },
                Some((uid, outcome)) = self.outcomes.recv() => self.on_outcome(&uid, outcome),
                () = rest => {}
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let queue = (self.unsynced == 0)
            .then(|| self.queue.next_due())
            .flatten();
        let volumes = self.waiting.values().map(|w| w.deadline).min();
        queue.into_iter().chain(volumes).min()
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    // ---- watch messages ----

    fn take(&mut self, message: Message) {
        match message {
            Message::Synced => self.unsynced = self.unsynced.saturating_sub(1),
            Message::Pod(Change::Set(key, pod)) => self.upsert_pod(key, pod),
            Message::Pod(Change::Gone(key)) => self.pod_gone(&key),
            Message::Node(Change::Set(_, node)) => self.node_is(*node),
            Message::Node(Change::Gone((_, name))) => {
                self.cluster.remove_node(&name);
                self.on_event(Event::NodeRemoved);
            }
            Message::Namespace(Change::Set((_, name), labels)) => {
                let old = self.cluster.namespaces.insert(name, labels.clone());
                if old.as_ref() != Some(&labels) {
                    self.on_event(Event::Namespace);
                }
            }
            Message::Namespace(Change::Gone((_, name))) => {
                self.cluster.namespaces.remove(&name);
            }
            Message::Claim(Change::Set(key, claim)) => {
                self.cluster.claims.insert(key.clone(), claim);
                self.claim_changed(&key);
                self.on_event(Event::Claim);
            }
            Message::Claim(Change::Gone(key)) => {
                self.cluster.claims.remove(&key);
                self.claim_changed(&key);
            }
            Message::Volume(Change::Set((_, name), volume)) => {
                self.cluster.volumes.insert(name, volume);
                self.on_event(Event::Volume);
            }
            Message::Volume(Change::Gone((_, name))) => {
                self.cluster.volumes.remove(&name);
            }
            Message::Class(Change::Set((_, name), class)) => {
                self.cluster.classes.insert(name, class);
                self.on_event(Event::StorageClass);
            }
            Message::Class(Change::Gone((_, name))) => {
                self.cluster.classes.remove(&name);
            }
            Message::Budget(Change::Set(key, budget)) => {
                self.cluster.budgets.insert(key, budget);
            }
            Message::Budget(Change::Gone(key)) => {
                self.cluster.budgets.remove(&key);
            }
            Message::Service(Change::Set(key, selector)) => {
                self.cluster.services.insert(key, selector);
            }
            Message::Service(Change::Gone(key)) => {
                self.cluster.services.remove(&key);
            }
            Message::Owner(kind, Change::Set((namespace, name), selector)) => {
                self.cluster
                    .owners
                    .insert((kind, namespace, name), selector);
            }
            Message::Owner(kind, Change::Gone((namespace, name))) => {
                self.cluster.owners.remove(&(kind, namespace, name));
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        self.queue.on_event(event, Instant::now());
    }

    fn upsert_pod(&mut self, key: Key, pod: Arc<PodInfo>) {
        // A pod of the same name with another UID: the old pod's deletion was missed.
        if self.uids.get(&key).is_some_and(|uid| *uid != pod.uid) {
            self.pod_gone(&key);
        }
        self.uids.insert(key, pod.uid.clone());
        if pod.node.is_empty() {
            self.pod_waits(pod);
            return;
        }
        self.queue.remove(&pod.uid);
        self.cluster.nominated.remove(&pod.uid);
        let uid = pod.uid.clone();
        let known = self.cluster.is_placed(&uid) && !self.cluster.is_assumed(&uid);
        let before = self.cluster.remove_pod(&uid);
        let changed = before.as_ref().is_none_or(|old| {
            old.labels != pod.labels || old.deleting != pod.deleting || old.node != pod.node
        });
        let shrunk = known && before.is_some_and(|old| old.requests != pod.requests);
        self.cluster.set_pod(pod);
        if changed {
            self.on_event(Event::PodPlaced);
        }
        if shrunk {
            // A pod whose requests shrank frees resources, as a deleted pod does.
            self.on_event(Event::PodRemoved);
        }
    }

    fn pod_waits(&mut self, pod: Arc<PodInfo>) {
        let uid = &pod.uid;
        if pod.scheduler != self.config.name {
            return;
        }
        if pod.deleting {
            self.queue.remove(uid);
            self.cluster.nominated.remove(uid);
            return;
        }
        if self.cluster.is_assumed(uid) {
            // The watch lags behind: the pod is already being bound.
            if let Some(queued) = self.binding.get_mut(uid) {
                queued.pod = pod;
            }
            return;
        }
        if pod.nominated.is_empty() {
            self.cluster.nominated.remove(uid);
        } else {
            self.cluster
                .nominated
                .insert(uid.clone(), (pod.nominated.clone(), Arc::clone(&pod)));
        }
        self.queue.set(pod, Instant::now());
    }

    fn pod_gone(&mut self, key: &Key) {
        let Some(uid) = self.uids.remove(key) else {
            return;
        };
        self.queue.remove(&uid);
        self.waiting.remove(&uid);
        let nominated = self.cluster.nominated.remove(&uid).is_some();
        let placed = self.cluster.remove_pod(&uid).is_some();
        if placed || nominated {
            self.on_event(Event::PodRemoved);
        }
    }

    fn node_is(&mut self, node: NodeInfo) {
        let mut events = Vec::new();
        match self.cluster.nodes.get(&node.name) {
            None => events.push(Event::NodeAdded),
            Some(old) => {
                if old.labels != node.labels {
                    events.push(Event::NodeLabels);
                }
                if old.taints != node.taints || old.unschedulable != node.unschedulable {
                    events.push(Event::NodeTaints);
                }
                if old.allocatable != node.allocatable || old.max_pods != node.max_pods {
                    events.push(Event::NodeResources);
                }
            }
        }
        self.cluster.set_node(node);
        for event in events {
            self.on_event(event);
        }
    }

    // ---- scheduling ----

    /// Schedules some pods. Returns whether more may be waiting.
    fn schedule_batch(&mut self) -> bool {
        for _ in 0..BATCH {
            let Some(queued) = self.queue.pop(Instant::now()) else {
                return false;
            };
            self.schedule(queued);
        }
        true
    }

    fn schedule(&mut self, queued: Queued) {
        let pod = Arc::clone(&queued.pod);
        // The cycle only reads the state, so a pod on which it panics harms no other.
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let tie = |n| rand::rng().random_range(0..n);
            cycle::schedule(&pod, &self.cluster, tie).map_err(|mut error| {
                let candidate = cycle::preempt(&pod, &self.cluster, &mut error);
                Box::new((error, candidate))
            })
        }));
        let Ok(decided) = decided else {
            tracing::error!(namespace = %pod.namespace, pod = %pod.name, "scheduling panicked, will retry");
            self.queue.failed(queued, Instant::now());
            return;
        };
        match decided {
            Ok(placement) => {
                self.cluster.assume(&pod, &placement.node);
                self.binding.insert(pod.uid.clone(), queued);
                if placement.volumes.is_empty() {
                    self.bind(pod, placement);
                } else {
                    self.ask_for_volumes(pod, placement);
                }
            }
            Err(failure) => {
                let (error, candidate) = *failure;
                self.no_fit(queued, &error, candidate);
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, placement: Placement) {
        let (actions, slots, report) = (
            self.actions.clone(),
            Arc::clone(&self.slots),
            self.report.clone(),
        );
        self.spawn(async move {
            // Acquiring fails only on a closed semaphore, and this one is never closed.
            let Ok(slot) = slots.acquire_owned().await else {
                return;
            };
            let outcome = match actions.bind(&pod, &placement.node).await {
                Ok(()) => Outcome::Bound,
                Err(error) if is_gone(&error) => Outcome::Gone,
                Err(error) => Outcome::Failed(error.into()),
            };
            let bound = matches!(outcome, Outcome::Bound);
            // Sending fails only if the engine is gone, in which case this task is aborted as well.
            let _ = report.send((pod.uid.clone(), outcome));
            if bound {
                let message = format!(
                    "Successfully assigned {}/{} to {}",
                    pod.namespace, pod.name, placement.node
                );
                actions.event(&pod, Severity::Normal, "Scheduled", "Binding", message);
            }
            drop(slot);
        });
    }

    fn ask_for_volumes(&mut self, pod: Arc<PodInfo>, placement: Placement) {
        let (actions, report) = (self.actions.clone(), self.report.clone());
        self.spawn(async move {
            let outcome = match actions
                .prepare_volumes(&placement.volumes, &placement.node)
                .await
            {
                Ok(()) => Outcome::VolumesAsked(placement),
                Err(error) => Outcome::Failed(error),
            };
            let _ = report.send((pod.uid.clone(), outcome));
        });
    }

    fn no_fit(&mut self, mut queued: Queued, error: &FitError, candidate: Option<Candidate>) {
        let pod = Arc::clone(&queued.pod);
        queued.rejected_by = match error.plugins() {
            set if set == PluginSet::default() => PluginSet::all(),
            set => set,
        };
        let message = error.to_string();
        // Clear the pod's nomination if preemption found no candidate. It is kept while the pod is
        // merely not eligible, for example while earlier victims are still terminating.
        let nominated = match &candidate {
            Some(c) => Some(c.node.clone()),
            None if error
                .preemption
                .as_deref()
                .is_some_and(|m| m.starts_with("0/")) =>
            {
                Some(String::new())
            }
            None => None,
        };
        if let Some(node) = &nominated {
            let hoping = Arc::new(PodInfo {
                nominated: node.clone(),
                ..(*pod).clone()
            });
            if node.is_empty() {
                self.cluster.nominated.remove(&pod.uid);
            } else {
                self.cluster
                    .nominated
                    .insert(pod.uid.clone(), (node.clone(), Arc::clone(&hoping)));
            }
            queued.pod = hoping;
        }
        self.queue.unschedulable(queued, Instant::now());
        self.report_no_fit(pod, message, nominated, candidate);
    }

    fn report_no_fit(
        &mut self,
        pod: Arc<PodInfo>,
        message: String,
        nominated: Option<String>,
        candidate: Option<Candidate>,
    ) {
        // Lower-priority pods nominated for the same node lose their nomination.
        let crowded_out: Vec<Arc<PodInfo>> = candidate
            .iter()
            .flat_map(|c| {
                self.cluster
                    .nominated
                    .values()
                    .filter(|(node, p)| {
                        *node == c.node && p.priority < pod.priority && p.uid != pod.uid
                    })
                    .map(|(_, p)| Arc::clone(p))
            })
            .collect();
        for p in &crowded_out {
            self.cluster.nominated.remove(&p.uid);
        }
        let actions = self.actions.clone();
        self.spawn(async move {
            if let Some(candidate) = candidate {
                preempt(&actions, &pod, &candidate, &crowded_out).await;
            }
            let reported = actions
                .report_unschedulable(&pod, "Unschedulable", &message, nominated.as_deref())
                .await;
            if let Err(error) = reported
                && !is_gone(&error)
            {
                tracing::warn!(pod = %pod.name, %error, "could not report that a pod is unschedulable");
            }
            let (reason, action) = ("FailedScheduling", "Scheduling");
            actions.event(&pod, Severity::Warning, reason, action, message);
        });
    }

    // ---- outcomes of bindings ----

    fn on_outcome(&mut self, uid: &str, outcome: Outcome) {
        let Some(queued) = self.binding.remove(uid) else {
            return;
        };
        match outcome {
            Outcome::Bound => {}
            Outcome::Gone => {
                self.cluster.forget(uid);
                self.on_event(Event::PodRemoved);
            }
            Outcome::Failed(error) => self.failed(queued, &error),
            Outcome::VolumesAsked(placement) => {
                let claims = placement
                    .volumes
                    .iter()
                    .map(|d| match d {
                        Decision::Bind { claim, .. } | Decision::Provision { claim } => {
                            claim.clone()
                        }
                    })
                    .collect();
                let waiting = Waiting {
                    queued,
                    placement,
                    claims,
                    deadline: instant_after(Instant::now(), self.config.volume_timeout),
                };
                self.waiting.insert(uid.to_owned(), waiting);
                self.look_at(uid);
            }
        }
    }

    fn failed(&mut self, queued: Queued, error: &anyhow::Error) {
        let pod = Arc::clone(&queued.pod);
        self.cluster.forget(&pod.uid);
        // The assumed pod's resources are free again.
        self.on_event(Event::PodRemoved);
        let confirmed = self.cluster.is_placed(&pod.uid);
        let gone = self.uids.get(&pod.key()) != Some(&pod.uid);
        if confirmed || gone {
            return;
        }
        tracing::warn!(pod = %pod.name, error = format!("{error:#}"), "could not bind a pod");
        self.queue.failed(queued, Instant::now());
        let actions = self.actions.clone();
        let message = format!("binding rejected: {error:#}");
        self.spawn(async move {
            let reported = actions
                .report_unschedulable(&pod, "SchedulerError", &message, None)
                .await;
            if let Err(error) = reported
                && !is_gone(&error)
            {
                tracing::debug!(pod = %pod.name, %error, "could not report a failed binding");
            }
            let (reason, action) = ("FailedScheduling", "Scheduling");
            actions.event(&pod, Severity::Warning, reason, action, message);
        });
    }

    fn claim_changed(&mut self, key: &Key) {
        let concerned: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, w)| w.claims.contains(key))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in concerned {
            self.look_at(&uid);
        }
    }

    /// Checks the volumes of a waiting pod. If a claim was deleted or its provisioner gave up, the
    /// pod returns to the queue; if all claims are bound, the pod is bound.
    fn look_at(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get(uid) else {
            return;
        };
        let node = &waiting.placement.node;
        let mut all = true;
        let mut given_up = None;
        for (key, decision) in waiting.claims.iter().zip(&waiting.placement.volumes) {
            match self.cluster.claims.get(key) {
                Some(claim) if claim.bound && !claim.volume.is_empty() => {}
                Some(claim) => {
                    all = false;
                    // The annotation was set before waiting began. A missing one may be watch lag,
                    // but another node's name means that the claim was reassigned.
                    let elsewhere = claim.selected_node.as_ref().is_some_and(|n| n != node);
                    if matches!(decision, Decision::Provision { .. }) && elsewhere {
                        given_up = Some("provisioning was given up for this node");
                    }
                }
                None => given_up = Some("a claim of the pod is gone"),
            }
        }
        if let Some(why) = given_up {
            if let Some(waiting) = self.waiting.remove(uid) {
                self.failed(waiting.queued, &anyhow::anyhow!(why));
            }
        } else if all && let Some(waiting) = self.waiting.remove(uid) {
            let pod = Arc::clone(&waiting.queued.pod);
            self.binding.insert(uid.to_owned(), waiting.queued);
            self.bind(pod, waiting.placement);
        }
    }

    /// Fails waiting pods whose volumes have exceeded the timeout.
    fn expire(&mut self, now: Instant) {
        let late: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, w)| w.deadline <= now)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in late {
            if let Some(waiting) = self.waiting.remove(&uid) {
                let actions = self.actions.clone();
                let decisions = waiting.placement.volumes.clone();
                self.spawn(async move { actions.release_volumes(&decisions).await });
                let limit = Duration::as_secs(&self.config.volume_timeout);
                self.failed(
                    waiting.queued,
                    &anyhow::anyhow!("binding volumes: timed out after {limit}s"),
                );
            }
        }
    }
}

/// Evicts the victims of a preemption and clears the nominations that it makes void. Errors are
/// logged: the pod is scheduled again when its victims are gone.
async fn preempt(
    actions: &Actions,
    pod: &PodInfo,
    candidate: &Candidate,
    crowded_out: &[Arc<PodInfo>],
) {
    for victim in &candidate.victims {
        if let Err(error) = actions.evict(victim, pod, &candidate.node).await {
            tracing::warn!(victim = %victim.name, %error, "could not preempt a pod");
        }
    }
    for p in crowded_out {
        if let Err(error) = actions.clear_nomination(p).await
            && !is_gone(&error)
        {
            tracing::warn!(pod = %p.name, %error, "could not clear a nomination");
        }
    }
}
