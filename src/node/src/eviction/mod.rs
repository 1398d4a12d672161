//! Evicts pods while the node is short of a resource, and pods that exceed their limits of local
//! storage: the kubelet's eviction manager.
//!
//! - [`signals`] observes the node, [`usage`] measures pods.
//! - [`thresholds`] decides when there is too little of something.
//! - [`rank`] decides who has to go, [`message`] says why.
//! - [`limits`] checks what pods may use.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkube_runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tracing::{info, warn};

mod limits;
mod message;
mod rank;
mod signals;
mod status;
pub(crate) mod thresholds;
pub(crate) mod types;
mod usage;

use crate::disk::Sizes;
use crate::gc::ImageCollector;
use crate::host::Host;
use crate::kinds::*;
use crate::pods::counts;
use crate::pods::qos::is_critical;
use crate::pods::reason::Eviction;
use crate::pods::table::{PodTable, Snapshot};
use crate::pressure::Pressure;
use crate::recorder::Severity::Warning;
use crate::recorder::{Recorder, node_reference};
use limits::{Exceeded, Limited};
use rank::Candidate;
use thresholds::{Threshold, Tracker};
use types::{Observations, Signal};
use usage::{Meter, PodUsage};

/// Time between two observations (the kubelet's).
const OBSERVATION_PERIOD: Duration = Duration::from_secs(10);
/// Timeout of evicted pods before the next observation (the kubelet's).
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two looks at evicted pods.
const CLEANUP_POLL: Duration = Duration::from_secs(1);
/// Grace period in seconds of pods that are evicted at once (the kubelet's).
const IMMEDIATELY: i64 = 1;

/// The eviction loop and its dependencies.
pub(crate) struct Evictor {
    pub host: Arc<Host>,
    pub runtime: Runtime,
    pub recorder: Recorder,
    pub pods: Arc<PodTable>,
    pub pressure: watch::Sender<Pressure>,
    pub images: Arc<ImageCollector>,
    /// Sizes of directories, shared with the node's endpoint.
    pub sizes: Arc<Sizes>,
}

/// Observes the node and its pods until the future is dropped.
///
/// Reports pressure as node conditions. Reclaims what the node can spare, and otherwise evicts at
/// most one pod per observation, besides those that exceed their limits.
///
/// Directories are walked by tasks of their own, so that a full memory never waits for a disk.
pub(crate) async fn run(evictor: Evictor) -> anyhow::Result<()> {
    let mut tracker = Tracker::new(&thresholds::HARD);
    let mut limits: Measuring<Vec<(Arc<Pod>, Exceeded)>> = None;
    let mut disks: Measuring<Vec<Candidate>> = None;
    let mut next = Instant::now();
    loop {
        let evicted = tokio::select! {
            exceeding = finished(&mut limits) => evictor.enforce_limits(exceeding?),
            candidates = finished(&mut disks) => evictor.relieve_disk(&mut tracker, candidates?),
            () = tokio::time::sleep_until(next.into()) => {
                next = Instant::now() + OBSERVATION_PERIOD;
                if limits.is_none() {
                    limits = evictor.measure_limited();
                }
                let (due, evicted) = evictor.synchronize(&mut tracker).await?;
                if let Some(threshold) = due.filter(|_| disks.is_none())
                    && evictor.reclaim(&threshold, &tracker).await
                {
                    disks = evictor.measure_disks();
                }
                evicted
            }
        };
        if !evicted.is_empty() {
            evictor.wait_for(&evicted).await;
            next = Instant::now();
        }
    }
}

/// A measurement in progress.
type Measuring<T> = Option<JoinHandle<T>>;

/// Waits until a measurement ends; for ever if there is none.
async fn finished<T>(measuring: &mut Measuring<T>) -> Result<T, JoinError> {
    let Some(task) = measuring else {
        return std::future::pending().await;
    };
    let result = task.await;
    *measuring = None;
    result
}

impl Evictor {
    /// Observes once, and evicts for want of memory or process IDs. Returns the threshold of a disk
    /// that calls for action if there was no need to, and the UIDs of evicted pods.
    async fn synchronize(
        &self,
        tracker: &mut Tracker,
    ) -> anyhow::Result<(Option<Threshold>, Vec<String>)> {
        let (observations, due) = self.update(tracker);
        let (disks, others): (Vec<Threshold>, Vec<Threshold>) = due
            .into_iter()
            .partition(|threshold| threshold.signal.resource().is_on_disk());
        if let Some(threshold) = others.first() {
            self.record_attempt(threshold.signal);
            let candidates = self.groups().await?;
            let evicted = self.evict_one(threshold, &observations, candidates);
            if !evicted.is_empty() {
                return Ok((None, evicted));
            }
        }
        Ok((disks.first().copied(), Vec::new()))
    }

    /// Observes the node and reports its conditions; returns the thresholds that call for action.
    fn update(&self, tracker: &mut Tracker) -> (Observations, Vec<Threshold>) {
        let observations = self.observe();
        let (conditions, due) = tracker.update(&observations, Instant::now());
        self.pressure.send_if_modified(|known| {
            let changed = *known != conditions;
            *known = conditions;
            changed
        });
        (observations, due)
    }

    fn record_attempt(&self, signal: Signal) {
        self.recorder.record(
            node_reference(self.host.name()),
            Warning,
            "EvictionThresholdMet",
            format!("Attempting to reclaim {}", signal.resource().as_str()),
        );
    }

    fn observe(&self) -> Observations {
        signals::observe(&self.host, &self.runtime)
    }

    /// Removes what the node can spare of a disk; returns whether that was not enough, and pods
    /// have to go.
    ///
    /// What was removed shows at the next observation, and pods that failed are still freeing
    /// space.
    async fn reclaim(&self, threshold: &Threshold, tracker: &Tracker) -> bool {
        let signal = threshold.signal;
        self.record_attempt(signal);
        crate::gc::collect_sandboxes(&self.runtime, &self.pods).await;
        let of_pods = matches!(signal, Signal::NodeFsAvailable | Signal::NodeFsInodesFree);
        let freed = if of_pods && signals::images_are_apart() {
            0
        } else {
            self.images.remove_unused().await
        };
        if freed > 0 || tracker.relieved(&self.observe()) {
            info!("{} was reclaimed", signal.resource().as_str());
            return false;
        }
        !self.pods.all().iter().any(status::is_freeing_space)
    }

    /// Returns the pods that may be evicted.
    fn active(&self) -> Vec<Snapshot> {
        let mut all = self.pods.all();
        all.retain(status::may_be_evicted);
        all
    }

    /// Returns the UIDs of the pods that may be evicted: the state of pods may have changed while
    /// they were measured.
    fn active_uids(&self) -> HashSet<String> {
        let active = self.active().into_iter();
        active
            .map(|snapshot| snapshot.pod.uid().to_owned())
            .collect()
    }

    /// Begins to look for pods that exceed their limits of local storage. Only pods with limits are
    /// measured.
    fn measure_limited(&self) -> Measuring<Vec<(Arc<Pod>, Exceeded)>> {
        let mut limited: Vec<(Snapshot, Limited)> = self
            .active()
            .into_iter()
            .filter(|snapshot| snapshot.sandbox.is_some())
            .filter_map(|snapshot| limits::limited(&snapshot.pod).map(|what| (snapshot, what)))
            .collect();
        limited.retain(|(snapshot, _)| !is_critical(&snapshot.pod));
        if limited.is_empty() {
            return None;
        }
        Some(self.measure(move |meter| {
            let measure = |(snapshot, what): (Snapshot, Limited)| {
                let usage = match what {
                    Limited::Everything => meter.disk(&snapshot),
                    Limited::Volumes => PodUsage {
                        volumes: meter
                            .volumes(&snapshot.pod, |v| limits::volume_limit(v).is_some()),
                        ..PodUsage::default()
                    },
                };
                let exceeded = limits::exceeded(&snapshot.pod, &usage)?;
                Some((snapshot.pod, exceeded))
            };
            limited.into_iter().filter_map(measure).collect()
        }))
    }

    /// Evicts the pods that exceed their limits of local storage; returns their UIDs.
    fn enforce_limits(&self, exceeding: Vec<(Arc<Pod>, Exceeded)>) -> Vec<String> {
        let active = self.active_uids();
        let mut evicted = Vec::new();
        for (pod, Exceeded { signal, message }) in exceeding {
            if !active.contains(pod.uid()) {
                continue;
            }
            evicted.push(pod.uid().to_owned());
            let eviction = Eviction {
                reason: Eviction::REASON,
                message,
                grace: IMMEDIATELY,
                is_disruption: false,
            };
            self.evict(&pod, signal, eviction);
        }
        evicted
    }

    /// Begins to measure what pods use of disks.
    fn measure_disks(&self) -> Measuring<Vec<Candidate>> {
        let pods = self.active();
        Some(self.measure(move |meter| {
            let measure = |snapshot: Snapshot| Candidate {
                usage: Some(meter.disk(&snapshot)),
                pod: snapshot.pod,
            };
            pods.into_iter().map(measure).collect()
        }))
    }

    /// Measures what pods use of memory and process IDs.
    async fn groups(&self) -> Result<Vec<Candidate>, JoinError> {
        let pods = self.active();
        let measured = self.measure(move |meter| {
            let measure = |snapshot: Snapshot| Candidate {
                usage: Some(meter.groups(&snapshot)),
                pod: snapshot.pod,
            };
            pods.into_iter().map(measure).collect()
        });
        measured.await
    }

    /// Evicts a pod if a disk is still short of something; returns its UID.
    fn relieve_disk(&self, tracker: &mut Tracker, mut candidates: Vec<Candidate>) -> Vec<String> {
        let (observations, due) = self.update(tracker);
        let on_disk = |threshold: &&Threshold| threshold.signal.resource().is_on_disk();
        let Some(threshold) = due.iter().find(on_disk) else {
            return Vec::new();
        };
        if self.pods.all().iter().any(status::is_freeing_space) {
            return Vec::new();
        }
        let active = self.active_uids();
        candidates.retain(|candidate| active.contains(candidate.pod.uid()));
        // Nodes may share the disk. Only the one with a pod that fills it can relieve it.
        let shortage = thresholds::shortage(threshold, &observations);
        candidates.retain(|c| rank::relieves(c, threshold.signal.resource(), shortage));
        self.evict_one(threshold, &observations, candidates)
    }

    /// Evicts the candidate that ranks first for the resource of a threshold; returns its UID.
    fn evict_one(
        &self,
        threshold: &Threshold,
        observations: &Observations,
        mut candidates: Vec<Candidate>,
    ) -> Vec<String> {
        let resource = threshold.signal.resource();
        rank::rank(&mut candidates, resource);
        let first = candidates.iter().find(|c| !is_critical(&c.pod));
        let Some(Candidate { pod, usage }) = first else {
            warn!("no pod can be evicted for want of {}", resource.as_str());
            return Vec::new();
        };
        let amounts = thresholds::amounts(threshold, observations);
        let eviction = Eviction {
            reason: Eviction::REASON,
            message: message::eviction_message(resource, amounts, pod, usage.as_ref()),
            grace: if threshold.is_hard() {
                IMMEDIATELY
            } else {
                pod.grace_seconds()
            },
            is_disruption: true,
        };
        self.evict(pod, threshold.signal.as_str(), eviction);
        vec![pod.uid().to_owned()]
    }

    /// Measures pods in a separate thread: walking directories takes time.
    fn measure<T: Send + 'static>(
        &self,
        work: impl FnOnce(Meter<'_>) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (runtime, sizes) = (self.runtime.clone(), self.sizes.clone());
        tokio::task::spawn_blocking(move || {
            work(Meter {
                runtime: &runtime,
                sizes: &sizes,
                age: OBSERVATION_PERIOD,
            })
        })
    }

    /// Evicts a pod; `signal` is what it is evicted for.
    fn evict(&self, pod: &Pod, signal: &'static str, eviction: Eviction) {
        counts::evicted(signal);
        warn!(pod = %pod.full_name(), "evicting: {}", eviction.message);
        self.recorder
            .pod(pod, Warning, Eviction::REASON, eviction.message.clone());
        self.pods.evict(pod.uid(), eviction);
    }

    /// Waits until the space of pods is free, but not for ever.
    async fn wait_for(&self, uids: &[String]) {
        let poll = async {
            while !status::are_cleaned_up(&self.pods.all(), uids) {
                tokio::time::sleep(CLEANUP_POLL).await;
            }
        };
        if tokio::time::timeout(CLEANUP_TIMEOUT, poll).await.is_err() {
            warn!("evicted pods are not cleaned up within {CLEANUP_TIMEOUT:?}");
        }
    }
}
