//! Evicts pods while the node is short of a resource, and pods that exceed their limits of local
//! storage: the kubelet's eviction manager.
//!
//! - [`signals`] observes the node, [`usage`] measures pods.
//! - [`thresholds`] decides when there is too little of something.
//! - [`rank`] decides who has to go, [`message`] says why.
//! - [`limits`] checks what pods may use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rkube_runtime::Runtime;
use tokio::sync::watch;
use tracing::{info, warn};

mod limits;
mod message;
mod rank;
pub(crate) mod signals;
mod status;
pub(crate) mod thresholds;
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
use signals::{Observations, Resource, Signal};
use thresholds::{Threshold, Tracker};
use usage::{Meter, PodUsage};

/// Time between two observations (the kubelet's).
const OBSERVATION_PERIOD: Duration = Duration::from_secs(10);
/// How long evicted pods are waited for before the next observation (the kubelet's).
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
pub(crate) async fn run(evictor: Evictor) -> anyhow::Result<()> {
    let mut tracker = Tracker::new(&thresholds::HARD);
    loop {
        let evicted = evictor.synchronize(&mut tracker).await?;
        if evicted.is_empty() {
            tokio::time::sleep(OBSERVATION_PERIOD).await;
        } else {
            evictor.wait_for(&evicted).await;
        }
    }
}

impl Evictor {
    /// Observes once and acts; returns the UIDs of evicted pods.
    async fn synchronize(&self, tracker: &mut Tracker) -> anyhow::Result<Vec<String>> {
        let observations = self.observe();
        let (conditions, due) = tracker.update(&observations, Instant::now());
        self.pressure.send_if_modified(|known| {
            let changed = *known != conditions;
            *known = conditions;
            changed
        });
        let evicted = self.enforce_limits().await?;
        let Some(threshold) = due.first().filter(|_| evicted.is_empty()) else {
            return Ok(evicted);
        };
        let resource = threshold.signal.resource();
        self.recorder.record(
            node_reference(self.host.name()),
            Warning,
            "EvictionThresholdMet",
            format!("Attempting to reclaim {}", resource.as_str()),
        );
        if self.reclaim(threshold.signal).await && tracker.relieved(&self.observe()) {
            info!("enough {} was reclaimed", resource.as_str());
            return Ok(Vec::new());
        }
        if resource.is_on_disk() && self.pods.all().iter().any(status::is_freeing_space) {
            return Ok(Vec::new());
        }
        self.evict_one(threshold, &observations).await
    }

    fn observe(&self) -> Observations {
        signals::observe(&self.host, &self.runtime)
    }

    /// Removes what the node can spare; returns whether it tried.
    async fn reclaim(&self, signal: Signal) -> bool {
        match signal {
            Signal::MemoryAvailable | Signal::PidAvailable => return false,
            Signal::NodeFsAvailable | Signal::NodeFsInodesFree if signals::images_are_apart() => {
                crate::gc::collect_sandboxes(&self.runtime, &self.pods).await;
            }
            _ => {
                crate::gc::collect_sandboxes(&self.runtime, &self.pods).await;
                self.images.remove_unused().await;
            }
        }
        true
    }

    /// Returns the pods that may be evicted.
    fn active(&self) -> Vec<Snapshot> {
        let mut all = self.pods.all();
        all.retain(status::may_be_evicted);
        all
    }

    /// Evicts the pods that exceed their limits of local storage. Only pods with limits are
    /// measured.
    async fn enforce_limits(&self) -> anyhow::Result<Vec<String>> {
        let mut limited: Vec<(Snapshot, Limited)> = self
            .active()
            .into_iter()
            .filter(|snapshot| snapshot.sandbox.is_some())
            .filter_map(|snapshot| limits::limited(&snapshot.pod).map(|what| (snapshot, what)))
            .collect();
        limited.retain(|(snapshot, _)| !is_critical(&snapshot.pod));
        if limited.is_empty() {
            return Ok(Vec::new());
        }
        let measured = self.measure(move |meter| {
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
            limited.into_iter().filter_map(measure).collect::<Vec<_>>()
        });
        let mut evicted = Vec::new();
        for (pod, Exceeded { signal, message }) in measured.await? {
            evicted.push(pod.uid().to_owned());
            let eviction = Eviction {
                message,
                grace: IMMEDIATELY,
                is_disruption: false,
            };
            self.evict(&pod, signal, eviction);
        }
        Ok(evicted)
    }

    /// Evicts the pod that ranks first for the resource of a threshold.
    async fn evict_one(
        &self,
        threshold: &Threshold,
        observations: &Observations,
    ) -> anyhow::Result<Vec<String>> {
        let resource = threshold.signal.resource();
        let pods = self.active();
        let measured = self.measure(move |meter| {
            let measure = |snapshot: Snapshot| {
                let usage = match resource {
                    Resource::Memory | Resource::Pids => meter.groups(&snapshot),
                    Resource::EphemeralStorage | Resource::Inodes => meter.disk(&snapshot),
                };
                Candidate {
                    usage: Some(usage),
                    pod: snapshot.pod,
                }
            };
            pods.into_iter().map(measure).collect::<Vec<_>>()
        });
        let mut candidates = measured.await?;
        rank::rank(&mut candidates, resource);
        let first = candidates.iter().find(|c| !is_critical(&c.pod));
        let Some(Candidate { pod, usage }) = first else {
            warn!("no pod can be evicted for want of {}", resource.as_str());
            return Ok(Vec::new());
        };
        let amounts = thresholds::amounts(threshold, observations);
        let eviction = Eviction {
            message: message::low(resource, amounts, pod, usage.as_ref()),
            grace: if threshold.is_hard() {
                IMMEDIATELY
            } else {
                pod.grace_seconds()
            },
            is_disruption: true,
        };
        self.evict(pod, threshold.signal.as_str(), eviction);
        Ok(vec![pod.uid().to_owned()])
    }

    /// Measures pods in a thread of its own: walking directories takes time.
    async fn measure<T: Send + 'static>(
        &self,
        work: impl FnOnce(Meter<'_>) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (runtime, sizes) = (self.runtime.clone(), self.sizes.clone());
        let done = tokio::task::spawn_blocking(move || {
            work(Meter {
                runtime: &runtime,
                sizes: &sizes,
                age: OBSERVATION_PERIOD,
            })
        });
        Ok(done.await?)
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
