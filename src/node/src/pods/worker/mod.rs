//! The worker of one pod: observes, decides (see [`super::plan`]), acts and reports.
//!
//! Everything that takes time runs in tasks that send their results to the worker's mailbox. The
//! worker itself never waits for a container, an image or the API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

mod devices;
mod live;
mod mirrored;
mod report;
mod reset;
mod resize;
mod restarting;
mod state;
mod stop;
mod tasks;

pub(crate) use state::Adopted;

use super::context::PodContext;
use super::reason::{Eviction, Reason};
use super::table::{Snapshot, WorkerEvent, WorkerHandle};
use crate::delay;
use crate::kinds::*;
use crate::recorder::Severity::Normal;
use crate::static_pods;
use state::{Channels, Message, Stage, Worker};

/// Maximum time between two steps without an event.
const RESYNC_PERIOD: Duration = Duration::from_secs(300);

/// Maximum time between two looks at the time of day of a pod with a deadline.
const DEADLINE_LOOK: Duration = Duration::from_secs(60);

/// Message of a pod that exceeded `activeDeadlineSeconds`, worded as upstream.
const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// Starts the worker of a pod.
///
/// `failure` is the reason if the node does not admit the pod, `mirror` a static pod's mirror. `ended`
/// is called when the worker has ended.
pub(crate) fn start(
    context: Arc<PodContext>,
    pod: Arc<Pod>,
    mirror: Option<Arc<Pod>>,
    adopted: Adopted,
    failure: Option<Reason>,
    ended: impl FnOnce() + Send + 'static,
) -> WorkerHandle {
    let (sender, mailbox) = mpsc::unbounded_channel();
    let (snapshot_sender, snapshot) = watch::channel(Snapshot {
        pod: pod.clone(),
        instances: Arc::default(),
        sandbox: None,
        mirror: None,
        evicting: false,
        cleaned: false,
    });
    let channels = Channels {
        sender: sender.clone(),
        mailbox,
        snapshot: snapshot_sender,
    };
    let mut worker = Worker::new(context, pod, adopted, failure, channels);
    worker.pod = worker.as_granted(worker.pod.clone());
    worker.mirrored(mirror);
    tokio::spawn(async move {
        worker.run().await;
        ended();
    });
    WorkerHandle {
        send: Box::new(move |event| sender.send(Message::Event(event)).is_ok()),
        snapshot,
    }
}

impl Worker {
    async fn run(mut self) {
        loop {
            let next = self.step();
            self.report();
            if self.finished() {
                return;
            }
            let pause = next
                .into_iter()
                .chain(self.publication.retry_at)
                .chain(self.publication.held_until)
                .min()
                .map_or(RESYNC_PERIOD, |at| {
                    at.saturating_duration_since(Instant::now())
                });
            tokio::select! {
                message = self.mailbox.recv() => {
                    let Some(message) = message else { return };
                    self.handle(message);
                    // Handle all pending messages before the next step.
                    while let Ok(message) = self.mailbox.try_recv() {
                        self.handle(message);
                    }
                }
                () = tokio::time::sleep(pause + Duration::from_millis(1)) => {}
            }
        }
    }

    /// Returns whether the worker can end: the pod is over and no longer in the API. The successor of
    /// a static pod waits for that, but not for the API.
    fn finished(&self) -> bool {
        let writes = self.in_flight.publish && !static_pods::is_static(&self.pod);
        self.removed && self.stage == Stage::Over && !writes
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.handle_event(event),
            Message::Task(result) => self.handle_task(result),
        }
    }

    fn handle_event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Updated(pod) => self.update(pod),
            WorkerEvent::Removed => {
                self.removed = true;
                self.gone.cancel();
            }
            WorkerEvent::Mirror(mirror) => self.mirrored(mirror),
            // The next report has it.
            WorkerEvent::DevicesChanged => {}
            WorkerEvent::ContainerChanged(id) => self.refresh(&id),
            WorkerEvent::Evicted(eviction) => self.evicted(eviction),
        }
    }

    /// Fails the pod. If it already stops for another reason, only its grace period is shortened.
    fn evicted(&mut self, eviction: Eviction) {
        match self.stage {
            Stage::Live if self.failure.is_none() => {
                let message = eviction.message.clone();
                self.failure = Some(Reason::new(eviction.reason, message));
                self.eviction = Some(eviction);
            }
            Stage::Stopping if self.eviction.is_none() => self.eviction = Some(eviction),
            _ => {}
        }
    }

    /// Takes the next step; returns when another step is due without an event.
    fn step(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let deadline = self
            .check_deadline(Timestamp::now())
            .map(|left| now + left.min(DEADLINE_LOOK));
        match self.stage {
            Stage::Live => {
                let over = matches!(self.pod.api_phase(), "Succeeded" | "Failed");
                if self.pod.deleting() || self.removed || self.failure.is_some() || over {
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
                if (self.pod.deleting() || self.removed) && !self.records_removed {
                    self.records_removed = true;
                    self.stage = Stage::Cleaning;
                    self.clean();
                }
                None
            }
        }
    }

    /// Fails a pod that has exceeded `activeDeadlineSeconds`; otherwise returns the time that is left.
    fn check_deadline(&mut self, now: Timestamp) -> Option<Duration> {
        let seconds = self.pod.spec().active_deadline_seconds?;
        if self.stage != Stage::Live || self.failure.is_some() {
            return None;
        }
        let start = self
            .pod
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref())
            .unwrap_or(&self.accepted_at)
            .0;
        // A deadline beyond the representable times never passes.
        let end = start.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        if now < end {
            return Some(delay::time_until(end, now));
        }
        self.failure = Some(Reason::new("DeadlineExceeded", DEADLINE_MESSAGE));
        self.context
            .recorder
            .pod(&self.pod, Normal, "DeadlineExceeded", DEADLINE_MESSAGE);
        None
    }
}
