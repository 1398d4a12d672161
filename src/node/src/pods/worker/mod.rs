//! The worker of one pod: watches, decides (see [`super::plan`]), acts, reports.
//!
//! Everything long runs in tasks of its own that write back to the worker's
//! mailbox; the worker itself never waits for a container, an image or the API.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rkube_runtime::SandboxState;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::backoff::Backoff;
use super::container::last_words;
use super::instance::{Instance, Instances};
use super::plan::SandboxView;
use super::probes::{News, Probes};
use super::resize::{Applied, Record};
use super::sandbox;
use super::start::{NotStarted, RETRY};
use super::status::Waiting;
use super::{Adopted, Letter, ObjectHold, Snapshot};
use crate::agent::Agent;
use crate::client;
use crate::kinds::*;
use crate::recorder::Severity::{Normal, Warning};
use crate::volumes::Volumes;

mod live;
mod report;
mod resize;
mod stop;

/// A pod is looked at again at least this often, for what no event told.
const LONGEST_REST: SignedDuration = SignedDuration::from_mins(5);

/// What the worker's own tasks tell it.
pub(crate) enum Own {
    Volumes(Option<Volumes>),
    Sandbox(Result<sandbox::Made, String>),
    Started(String, Result<(), NotStarted>),
    Killed(String, String),
    TornDown,
    Cleaned,
    Published(Box<Result<Pod, kube::Error>>),
    Deleted(Result<(), kube::Error>),
    Probe(News),
    Resized(Applied),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Containers may run.
    Live,
    /// They are being stopped.
    Stopping,
    /// The sandbox is being stopped.
    TearingDown,
    /// Nothing runs; volumes are being removed.
    Cleaning,
    /// Nothing is left but records for `kubectl logs`.
    Over,
}

pub(crate) struct Worker {
    agent: Arc<Agent>,
    pod: Arc<Pod>,
    letters: mpsc::UnboundedSender<Letter>,
    inbox: mpsc::UnboundedReceiver<Letter>,
    snapshot: watch::Sender<Snapshot>,

    sandboxes: Vec<String>,
    sandbox: Option<SandboxView>,
    ip: Option<IpAddr>,
    instances: Instances,
    volumes: Option<Volumes>,
    objects: Arc<tokio::sync::Mutex<ObjectHold>>,
    probes: Probes,
    backoff: Backoff,
    record: Record,
    resize: resize::State,

    stage: Stage,
    verdict: Option<Waiting>,
    gone: bool,
    accepted_at: Time,
    /// Told to tasks when the pod has to stop.
    cancel: CancellationToken,
    filling: bool,
    making: bool,
    starting: Option<String>,
    /// Containers being started or stopped.
    busy: HashSet<String>,
    /// Grace in seconds of the stops under way, by container ID.
    killing: HashMap<String, i64>,
    waiting: HashMap<String, Waiting>,
    retry_at: HashMap<String, Timestamp>,
    /// Ends of containers whose back-off was told as an event.
    told: HashSet<String>,
    publishing: bool,
    publish_at: Option<Timestamp>,
    failures: u32,
    deleting_api: bool,
    removed_records: bool,
}

/// Key of the sandbox among the pod's retry times; no container can have that name.
const SANDBOX: &str = "/sandbox";

impl Worker {
    pub(crate) fn new(
        agent: Arc<Agent>,
        pod: Arc<Pod>,
        adopted: Adopted,
        verdict: Option<Waiting>,
        letters: mpsc::UnboundedSender<Letter>,
        inbox: mpsc::UnboundedReceiver<Letter>,
        snapshot: watch::Sender<Snapshot>,
    ) -> Self {
        let mut worker = Self {
            accepted_at: now(),
            agent,
            letters,
            inbox,
            snapshot,
            sandboxes: Vec::new(),
            sandbox: None,
            ip: None,
            instances: Instances::new(),
            volumes: None,
            objects: Arc::default(),
            probes: Probes::default(),
            backoff: Backoff::default(),
            record: Record::default(),
            resize: resize::State::default(),
            stage: Stage::Live,
            verdict,
            gone: false,
            cancel: CancellationToken::new(),
            filling: false,
            making: false,
            starting: None,
            busy: HashSet::new(),
            killing: HashMap::new(),
            waiting: HashMap::new(),
            retry_at: HashMap::new(),
            told: HashSet::new(),
            publishing: false,
            publish_at: None,
            failures: 0,
            deleting_api: false,
            removed_records: false,
            pod,
        };
        let known = !adopted.sandboxes.is_empty();
        worker.adopt(adopted);
        worker.record = if known {
            Record::load(&worker.pod, &worker.instances)
        } else {
            Record::of_new(&worker.pod)
        };
        worker.pod = worker.as_granted(worker.pod.clone());
        worker
    }

    fn adopt(&mut self, adopted: Adopted) {
        let mut sandboxes = adopted.sandboxes;
        sandboxes.sort_by_key(|s| s.spec.attempt);
        self.sandboxes = sandboxes.iter().map(|s| s.id.clone()).collect();
        if let Some(last) = sandboxes.last() {
            let ip = sandbox::address(&self.agent, &self.pod, &last.id);
            self.sandbox = Some(SandboxView {
                id: last.id.clone(),
                attempt: last.spec.attempt,
                ready: last.state == SandboxState::Ready && ip.is_some(),
            });
            self.ip = ip;
        }
        for container in &adopted.containers {
            self.note(container);
        }
    }

    fn uid(&self) -> &str {
        self.pod.uid()
    }

    /// Takes in what the runtime says of a container.
    fn note(&mut self, container: &rkube_runtime::ContainerStatus) {
        let mut instance = Instance::new(container);
        if instance.exited() {
            instance.message = last_words(self.pod.uid(), container);
        }
        let attempts = self.instances.entry(instance.name.clone()).or_default();
        match attempts.iter_mut().find(|i| i.id == instance.id) {
            Some(known) => {
                if known.exited() {
                    // Its words were read when it ended.
                    instance.message.clone_from(&known.message);
                }
                *known = instance;
            }
            None => {
                attempts.push(instance);
                attempts.sort_by_key(|i| (i.attempt, i.created_at));
            }
        }
    }

    /// Looks at a container anew; one that is gone is dropped.
    fn refresh(&mut self, id: &str) {
        if id.is_empty() {
            self.refresh_sandbox();
            return;
        }
        match self.agent.runtime.container_status(id) {
            Some(status) if self.sandboxes.contains(&status.sandbox_id) => self.note(&status),
            Some(_) => {}
            None => {
                for attempts in self.instances.values_mut() {
                    // The latest attempt is the container's record in the status.
                    let last = attempts.last().map(|i| i.id.clone());
                    attempts.retain(|i| i.id != id || (last.as_deref() == Some(id) && i.exited()));
                }
            }
        }
    }

    fn refresh_sandbox(&mut self) {
        if let Some(view) = &mut self.sandbox {
            let state = self.agent.runtime.sandbox_status(&view.id).map(|s| s.state);
            view.ready = view.ready && state == Some(SandboxState::Ready);
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let next = self.step();
            self.report();
            if self.finished() {
                return;
            }
            let pause = next
                .into_iter()
                .chain(self.publish_at)
                .min()
                .map_or(LONGEST_REST, |t| t.duration_since(Timestamp::now()));
            let pause = Duration::try_from(pause.max(SignedDuration::ZERO)).unwrap_or_default();
            tokio::select! {
                letter = self.inbox.recv() => {
                    let Some(letter) = letter else { return };
                    self.take(letter);
                    // What came together is dealt with together.
                    while let Ok(letter) = self.inbox.try_recv() {
                        self.take(letter);
                    }
                }
                () = tokio::time::sleep(pause + Duration::from_millis(1)) => {}
            }
        }
    }

    fn finished(&self) -> bool {
        self.gone && self.stage == Stage::Over && !self.publishing
    }

    fn take(&mut self, letter: Letter) {
        match letter {
            Letter::Pod(pod) => self.update(pod),
            Letter::Gone => self.gone = true,
            Letter::Container(id) => self.refresh(&id),
            Letter::Evict(verdict) => {
                if self.verdict.is_none() && self.stage == Stage::Live {
                    self.verdict = Some(verdict);
                }
            }
            Letter::Own(own) => self.take_own(own),
        }
    }

    /// The newest version of the pod wins; answers to patches and the watch race.
    fn update(&mut self, pod: Arc<Pod>) {
        let version = |p: &Pod| {
            p.metadata
                .resource_version
                .as_deref()
                .and_then(|v| v.parse::<u64>().ok())
        };
        if let (Some(old), Some(new)) = (version(&self.pod), version(&pod))
            && new < old
        {
            return;
        }
        self.pod = self.as_granted(pod);
        if let Some(volumes) = &self.volumes {
            volumes.update(&self.pod);
        }
    }

    fn take_own(&mut self, own: Own) {
        match own {
            Own::Volumes(volumes) => {
                self.filling = false;
                self.volumes = volumes;
                if let Some(volumes) = &self.volumes {
                    volumes.update(&self.pod);
                }
            }
            Own::Sandbox(made) => {
                self.making = false;
                match made {
                    Ok(made) => {
                        self.sandboxes.push(made.view.id.clone());
                        self.sandbox = Some(made.view);
                        self.ip = Some(made.ip);
                    }
                    Err(e) => {
                        self.agent.recorder.pod(
                            &self.pod,
                            Warning,
                            "FailedCreatePodSandBox",
                            format!("Failed to create pod sandbox: {e}"),
                        );
                        self.retry_at
                            .insert(SANDBOX.into(), Timestamp::now() + RETRY);
                    }
                }
            }
            Own::Started(name, result) => {
                self.busy.remove(&name);
                self.starting = None;
                self.refresh_all(&name);
                match result {
                    Ok(()) => {
                        self.waiting.remove(&name);
                        self.retry_at.remove(&name);
                    }
                    Err(e) => {
                        if let Some(at) = e.retry_at {
                            self.retry_at.insert(name.clone(), at);
                        }
                        self.waiting.insert(name, e.waiting);
                    }
                }
            }
            Own::Killed(name, id) => {
                self.busy.remove(&name);
                self.killing.remove(&id);
                self.refresh(&id);
            }
            Own::TornDown => {
                self.stage = Stage::Cleaning;
                let ids: Vec<String> = self.ids().collect();
                for id in ids {
                    self.refresh(&id);
                }
                if let Some(view) = &mut self.sandbox {
                    view.ready = false;
                }
                self.clean();
            }
            Own::Cleaned => {
                self.stage = Stage::Over;
            }
            Own::Published(result) => {
                self.publishing = false;
                match *result {
                    Ok(pod) => {
                        self.failures = 0;
                        self.update(Arc::new(pod));
                    }
                    Err(e) if client::answered(&e, 404) => {
                        // The watch tells that it is gone; nothing is left to report to.
                        self.publish_at = Some(Timestamp::now() + SignedDuration::from_secs(5));
                    }
                    Err(e) => {
                        if !client::unreachable(&e) {
                            warn!(pod = %self.pod.full_name(), "status: {e}");
                        }
                        let pause = client::retry_delay(self.failures * 10);
                        self.failures += 1;
                        self.publish_at = Timestamp::now().checked_add(pause).ok();
                    }
                }
            }
            Own::Deleted(result) => match result {
                Ok(()) => {}
                Err(e) if client::answered(&e, 404) || client::answered(&e, 409) => {}
                Err(e) => {
                    debug!(pod = %self.pod.full_name(), "deleting: {e}");
                    self.deleting_api = false;
                    let pause = client::retry_delay(self.failures * 10);
                    self.failures += 1;
                    self.publish_at = Timestamp::now().checked_add(pause).ok();
                }
            },
            Own::Resized(applied) => self.resized(applied),
            Own::Probe(news) => {
                let mut probes = std::mem::take(&mut self.probes);
                probes.take(&news, || self.target(&news.container));
                self.probes = probes;
            }
        }
    }

    fn ids(&self) -> impl Iterator<Item = String> {
        self.instances.values().flatten().map(|i| i.id.clone())
    }

    /// Looks for all attempts of a name, those that no event has told of yet too.
    fn refresh_all(&mut self, name: &str) {
        let Some(sandbox) = self.sandbox.as_ref().map(|s| s.id.clone()) else {
            return;
        };
        let known: Vec<String> = self
            .instances
            .get(name)
            .into_iter()
            .flatten()
            .map(|i| i.id.clone())
            .collect();
        for id in &known {
            self.refresh(id);
        }
        let all = self.agent.runtime.list_containers();
        for status in all
            .iter()
            .filter(|s| s.sandbox_id == sandbox && s.spec.name == name)
        {
            self.note(status);
        }
    }

    fn spawn(&self, work: impl Future<Output = Own> + Send + 'static) {
        let letters = self.letters.clone();
        tokio::spawn(async move {
            // The worker is gone when nobody listens any more.
            let _ = letters.send(Letter::Own(work.await));
        });
    }

    /// Does what is due; answers when to look again at the latest.
    fn step(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        let deadline = self.check_deadline(now);
        match self.stage {
            Stage::Live => {
                let over = matches!(self.pod.api_phase(), "Succeeded" | "Failed");
                if self.pod.deleting() || self.gone || self.verdict.is_some() || over {
                    self.begin_stop();
                    self.step_stop();
                    return None;
                }
                let next = self.step_live(now);
                deadline.into_iter().chain(next).min()
            }
            Stage::Stopping => {
                self.step_stop();
                None
            }
            Stage::TearingDown | Stage::Cleaning => None,
            Stage::Over => {
                if (self.pod.deleting() || self.gone) && !self.removed_records {
                    self.removed_records = true;
                    self.stage = Stage::Cleaning;
                    self.clean();
                }
                None
            }
        }
    }

    /// Fails a pod that runs longer than it may; answers when that will be.
    fn check_deadline(&mut self, now: Timestamp) -> Option<Timestamp> {
        let seconds = self.pod.spec().active_deadline_seconds?;
        if self.stage != Stage::Live || self.verdict.is_some() {
            return None;
        }
        let start = self
            .pod
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref())
            .unwrap_or(&self.accepted_at)
            .0;
        let end = start + SignedDuration::from_secs(seconds);
        if now < end {
            return Some(end);
        }
        self.verdict = Some(Waiting {
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
        });
        self.agent.recorder.pod(
            &self.pod,
            Normal,
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        );
        None
    }
}
