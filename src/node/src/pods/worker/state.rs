//! The worker's state and the operations that its modules share.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rkube_runtime::{ContainerState, ContainerStatus as RuntimeContainer, Sandbox, SandboxState};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::super::backoff::Backoff;
use super::super::container::termination_message;
use super::super::context::PodContext;
use super::super::counts;
use super::super::instance::{Instance, Instances};
use super::super::object_hold::{ObjectHold, SharedHold};
use super::super::plan::{Reset, SandboxView};
use super::super::probes::{ProbeResult, Probes};
use super::super::reason::{Eviction, Reason};
use super::super::resize::{Applied, Record};
use super::super::sandbox::{self, NewSandbox, NotCreated};
use super::super::start::NotStarted;
use super::super::table::{Snapshot, WorkerEvent};
use super::resize::ResizeState;
use super::restarting::Restarting;
use crate::kinds::{Container, Pod, PodExt as _, Time, now};
use crate::volumes::Volumes;

/// A pod's sandboxes and containers that the runtime already has when its worker starts.
#[derive(Default)]
pub(crate) struct Adopted {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<RuntimeContainer>,
}

/// Result of one of the worker's tasks.
pub(super) enum TaskResult {
    /// Volumes are set up; `None` if the task was cancelled.
    VolumesReady(Option<Volumes>),
    SandboxCreated(Result<NewSandbox, NotCreated>),
    ContainerStarted {
        name: String,
        result: Result<(), NotStarted>,
    },
    ContainerStopped {
        name: String,
        id: String,
    },
    SandboxStopped,
    Cleaned,
    StatusPublished(Box<Result<Pod, kube::Error>>),
    PodDeleted(Result<(), kube::Error>),
    /// The containers with these IDs are removed, to start the pod over.
    Reset(Vec<Reset>),
    Probed(ProbeResult),
    Resized(Applied),
    /// Devices are allocated; `None` if the task was cancelled.
    DevicesAllocated(Option<Result<(), String>>),
}

/// A message in the worker's mailbox.
pub(super) enum Message {
    Event(WorkerEvent),
    Task(TaskResult),
}

/// Stage of a pod's life cycle on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Containers are started and restarted.
    Live,
    /// Containers are being stopped.
    Stopping,
    /// The sandbox is being stopped.
    TearingDown,
    /// Nothing is running; volumes are being removed.
    Cleaning,
    /// Only the records for `kubectl logs` are left.
    Over,
}

/// Tasks in progress, at most one of each kind.
#[derive(Default)]
pub(super) struct InFlight {
    /// Devices are being allocated.
    pub devices: bool,
    /// Volumes are being set up.
    pub volumes: bool,
    /// A sandbox is being created.
    pub sandbox: bool,
    /// Name of the container that is being started.
    pub start: Option<String>,
    /// The status is being patched.
    pub publish: bool,
    /// The pod is being deleted in the API.
    pub delete: bool,
    /// Containers are being removed, to start the pod over.
    pub reset: bool,
}

/// State of the writes to the API.
#[derive(Default)]
pub(super) struct Publication {
    /// Time of the next attempt after a failure.
    pub retry_at: Option<Instant>,
    /// Until when it waits for a container that is restarted.
    pub held_until: Option<Instant>,
    /// Consecutive failures.
    pub failures: u32,
}

/// The worker of one pod.
pub(crate) struct Worker {
    pub(super) context: Arc<PodContext>,
    pub(super) pod: Arc<Pod>,
    pub(super) sender: mpsc::UnboundedSender<Message>,
    pub(super) mailbox: mpsc::UnboundedReceiver<Message>,
    pub(super) snapshot: watch::Sender<Snapshot>,
    /// The pod in the API that shows this static one.
    pub(super) mirror: Option<Arc<Pod>>,

    /// IDs of all sandboxes, the current one last.
    pub(super) sandboxes: Vec<String>,
    pub(super) sandbox: Option<SandboxView>,
    pub(super) ip: Option<IpAddr>,
    pub(super) instances: Instances,
    pub(super) volumes: Option<Volumes>,
    pub(super) objects: SharedHold,
    pub(super) probes: Probes,
    pub(super) backoff: Backoff,
    pub(super) record: Record,
    pub(super) resize: ResizeState,

    pub(super) stage: Stage,
    /// Why the node rejected, evicted or failed the pod.
    pub(super) failure: Option<Reason>,
    /// The eviction of the pod by the node, if there is one.
    pub(super) eviction: Option<Eviction>,
    /// Whether the API no longer has the pod.
    pub(super) removed: bool,
    /// Whether the records for `kubectl logs` are removed or being removed.
    pub(super) records_removed: bool,
    pub(super) accepted_at: Time,
    /// Whether devices have to be allocated before anything is started.
    pub(super) needs_devices: bool,
    /// Cancels the tasks of a live pod when it has to stop.
    pub(super) cancel: CancellationToken,
    /// Cancelled when the API no longer has the pod.
    pub(super) gone: CancellationToken,
    pub(super) in_flight: InFlight,
    /// Names of the containers that are being started or stopped.
    pub(super) busy: HashSet<String>,
    /// Grace period in seconds of each stop in progress, by container ID.
    pub(super) stopping: HashMap<String, i64>,
    /// Waiting reasons by container name.
    pub(super) waiting: HashMap<String, Reason>,
    /// Number of the next attempt of containers that were removed to start the pod over.
    pub(super) resets: HashMap<String, u32>,
    /// Time of the next attempt by container name, or by [`SANDBOX`].
    pub(super) retry_at: HashMap<String, Instant>,
    /// IDs of the exited containers for which a `BackOff` event was recorded.
    pub(super) backoff_recorded: HashSet<String>,
    pub(super) publication: Publication,
    pub(super) restarting: Restarting,
}

/// Key of the sandbox in [`Worker::retry_at`]; it is not a valid container name.
pub(super) const SANDBOX: &str = "/sandbox";

/// The worker's ends of its mailbox and its snapshot.
pub(super) struct Channels {
    pub sender: mpsc::UnboundedSender<Message>,
    pub mailbox: mpsc::UnboundedReceiver<Message>,
    pub snapshot: watch::Sender<Snapshot>,
}

impl Worker {
    /// Returns the worker of a pod; `failure` is the reason if the node does not admit it.
    pub(super) fn new(
        context: Arc<PodContext>,
        pod: Arc<Pod>,
        adopted: Adopted,
        failure: Option<Reason>,
        channels: Channels,
    ) -> Self {
        let hold = ObjectHold::new(context.objects.clone(), pod.namespace());
        let mut worker = Self {
            accepted_at: now(),
            context,
            sender: channels.sender,
            mailbox: channels.mailbox,
            snapshot: channels.snapshot,
            mirror: None,
            sandboxes: Vec::new(),
            sandbox: None,
            ip: None,
            instances: Instances::new(),
            volumes: None,
            objects: Arc::new(tokio::sync::Mutex::new(hold)),
            probes: Probes::default(),
            backoff: Backoff::default(),
            record: Record::default(),
            resize: ResizeState::default(),
            stage: Stage::Live,
            failure,
            eviction: None,
            removed: false,
            records_removed: false,
            needs_devices: true,
            cancel: CancellationToken::new(),
            gone: CancellationToken::new(),
            in_flight: InFlight::default(),
            busy: HashSet::new(),
            stopping: HashMap::new(),
            waiting: HashMap::new(),
            resets: HashMap::new(),
            retry_at: HashMap::new(),
            backoff_recorded: HashSet::new(),
            publication: Publication::default(),
            restarting: Restarting::default(),
            pod,
        };
        let known = !adopted.sandboxes.is_empty();
        // Others were admitted before, with their devices.
        worker.needs_devices = !known && worker.pod.api_phase() == "Pending";
        worker.adopt(adopted);
        worker.record = if known {
            Record::load(&worker.pod, &worker.instances)
        } else {
            Record::for_new_pod(&worker.pod)
        };
        worker
    }

    /// Takes over the sandboxes and containers that an earlier agent created.
    fn adopt(&mut self, adopted: Adopted) {
        let mut sandboxes = adopted.sandboxes;
        sandboxes.sort_by_key(|s| s.spec.attempt);
        self.sandboxes = sandboxes.iter().map(|s| s.id.clone()).collect();
        if let Some(last) = sandboxes.last() {
            let ip = sandbox::address(
                &self.context.host,
                &self.context.network,
                &self.pod,
                &last.id,
            );
            self.sandbox = Some(SandboxView {
                id: last.id.clone(),
                attempt: last.spec.attempt,
                ready: last.state == SandboxState::Ready && ip.is_some(),
            });
            self.ip = ip;
        }
        for container in &adopted.containers {
            self.take_over(container);
        }
    }

    /// Returns the pod's UID.
    pub(super) fn uid(&self) -> &str {
        self.pod.uid()
    }

    /// Adds or updates a container from the runtime's status, and counts its end.
    fn note(&mut self, container: &RuntimeContainer) {
        let known = self
            .instances
            .get(&container.spec.name)
            .into_iter()
            .flatten();
        let had_ended = known.filter(|i| i.id == container.id).any(Instance::exited);
        if container.state == ContainerState::Exited && !had_ended {
            self.count_end(&Instance::new(container));
        }
        self.take_over(container);
    }

    fn count_end(&self, instance: &Instance) {
        let is = |c: &Container| c.name == instance.name;
        let container_type = if self.pod.init_containers().iter().any(is) {
            "init_container"
        } else if self.pod.spec().containers.iter().any(is) {
            "container"
        } else {
            "ephemeral_container"
        };
        counts::ended(counts::End {
            container_type,
            exit_code: instance.exit_code,
            reason: instance.exit_reason().to_owned(),
        });
    }

    /// Adds or updates a container from the runtime's status.
    fn take_over(&mut self, container: &RuntimeContainer) {
        let mut instance = Instance::new(container);
        if instance.exited() {
            instance.message = termination_message(self.pod.uid(), container);
        }
        let attempts = self.instances.entry(instance.name.clone()).or_default();
        match attempts.iter_mut().find(|i| i.id == instance.id) {
            Some(known) => {
                if known.exited() {
                    // The message was already read when the container exited.
                    instance.message.clone_from(&known.message);
                    instance.ended = known.ended;
                }
                *known = instance;
            }
            None => {
                attempts.push(instance);
                attempts.sort_by_key(|i| (i.attempt, i.created_at));
            }
        }
    }

    /// Updates the container with this ID from the runtime; an empty ID means the sandbox.
    ///
    /// A container that no longer exists is removed, unless it is the latest attempt and has
    /// exited.
    pub(super) fn refresh(&mut self, id: &str) {
        if id.is_empty() {
            self.refresh_sandbox();
            return;
        }
        match self.context.runtime.container_status(id) {
            Some(status) if self.sandboxes.contains(&status.sandbox_id) => self.note(&status),
            Some(_) => {}
            None => {
                for attempts in self.instances.values_mut() {
                    // The latest attempt is needed for the container's status.
                    let last = attempts.last().map(|i| i.id.clone());
                    attempts.retain(|i| i.id != id || (last.as_deref() == Some(id) && i.exited()));
                }
            }
        }
    }

    fn refresh_sandbox(&mut self) {
        if let Some(view) = &mut self.sandbox {
            let status = self.context.runtime.sandbox_status(&view.id);
            let state = status.map(|s| s.state);
            view.ready = view.ready && state == Some(SandboxState::Ready);
        }
    }

    /// Returns the IDs of all attempts of all containers.
    pub(super) fn ids(&self) -> impl Iterator<Item = String> {
        self.instances.values().flatten().map(|i| i.id.clone())
    }

    /// Updates all attempts of a container, including those that no event has reported yet.
    pub(super) fn refresh_all(&mut self, name: &str) {
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
        let all = self.context.runtime.list_containers();
        for status in all
            .iter()
            .filter(|s| s.sandbox_id == sandbox && s.spec.name == name)
        {
            self.note(status);
        }
    }

    /// Spawns a task whose result is sent to the mailbox.
    pub(super) fn spawn(&self, task: impl Future<Output = TaskResult> + Send + 'static) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            // The worker may have ended.
            let _ = sender.send(Message::Task(task.await));
        });
    }
}
