//! The scheduling loop: applies watch messages, schedules queued pods and handles the outcomes of
//! bindings.

mod devices;
mod messages;
mod outcomes;
mod schedule;

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Client;
use rkube_client::events::Recorder;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::Config;
use crate::actions::Actions;
use crate::cluster::Cluster;
use crate::cycle::Placement;
use crate::devices::Reservation;
use crate::model::{Key, PodInfo};
use crate::queue::{Queue, Queued};
use crate::watch::{self, Message};

/// The outcome of carrying out a placement.
#[derive(Debug)]
enum Outcome {
    /// The pod is bound.
    Bound,
    /// Binding or provisioning of the claims' volumes was requested; the pod is bound once they are
    /// ready.
    VolumesAsked(Placement),
    /// A resource claim was written. The pod is still being bound.
    ClaimWritten(Arc<ResourceClaim>),
    /// The pod was deleted in the meantime.
    Gone,
    /// A request failed, for this reason in upstream's wording; the pod is retried after its
    /// back-off.
    Failed(String),
}

/// A pod whose volumes are being bound or provisioned.
struct WaitingPod {
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
    /// The claims of pods that are being bound, by the UID of the pod.
    held: HashMap<String, Vec<Reservation>>,
    /// Pods that wait for their resource claims to be made, by UID.
    lacking_claims: HashMap<String, Arc<PodInfo>>,
    /// Pods that wait for volumes, by UID.
    waiting: HashMap<String, WaitingPod>,
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
            held: HashMap::new(),
            lacking_claims: HashMap::new(),
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
}
