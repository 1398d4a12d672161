//! Takes pods from the queue, decides where they go, and has the decisions carried out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use rand::RngExt as _;
use rkube_client::events::Severity;

use super::devices::reserve;
use super::outcomes::volumes_failed;
use super::{Engine, Outcome};
use crate::actions::{Actions, api_message, is_gone};
use crate::cycle::{self, FitError, Placement};
use crate::model::PodInfo;
use crate::plugins::default_preemption::Candidate;
use crate::plugins::types::PluginSet;
use crate::queue::Queued;

/// Maximum number of pods scheduled before the loop yields to other tasks.
const BATCH: usize = 16;

impl Engine {
    /// Schedules some pods. Returns whether more may be waiting.
    pub(super) fn schedule_batch(&mut self) -> bool {
        for _ in 0..BATCH {
            let Some(queued) = self.queue.pop(Instant::now()) else {
                return false;
            };
            self.schedule(queued);
        }
        true
    }

    fn schedule(&mut self, mut queued: Queued) {
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
                if !placement.devices.is_empty() {
                    self.cluster.devices.hold(&placement.devices);
                    self.held.insert(pod.uid.clone(), placement.devices.clone());
                }
                if !placement.volumes.is_empty() || !placement.devices.is_empty() {
                    // The watch may show the coming nomination only after a failure that clears it.
                    Arc::make_mut(&mut queued.pod).nominated = placement.node.clone();
                }
                self.binding.insert(pod.uid.clone(), queued);
                if !placement.devices.is_empty() {
                    let (actions, pod) = (self.actions.clone(), Arc::clone(&pod));
                    let node = placement.node.clone();
                    self.spawn(async move { nominate(&actions, &pod, &node).await });
                }
                if placement.volumes.is_empty() {
                    self.bind(pod, placement);
                } else {
                    self.ask_for_volumes(pod, placement);
                }
            }
            Err(failure) => {
                let (error, candidate) = *failure;
                if let Some(why) = error.fatal {
                    tracing::warn!(pod = %pod.name, error = %why, "could not schedule a pod");
                    self.retry(queued, why.into());
                    return;
                }
                self.no_fit(queued, &error, candidate);
            }
        }
    }

    pub(super) fn bind(&mut self, pod: Arc<PodInfo>, placement: Placement) {
        let (actions, slots, report) = (
            self.actions.clone(),
            Arc::clone(&self.slots),
            self.report.clone(),
        );
        self.spawn(async move {
            if let Err(why) = reserve(&actions, &pod, &placement, &report).await {
                let message = format!("running PreBind plugin \"DynamicResources\": {why}");
                let _ = report.send((pod.uid.clone(), Outcome::Failed(message)));
                return;
            }
            // Acquiring fails only on a closed semaphore, and this one is never closed.
            let Ok(slot) = slots.acquire_owned().await else {
                return;
            };
            let outcome = match actions.bind(&pod, &placement.node).await {
                Ok(()) => Outcome::Bound,
                Err(error) if is_gone(&error) => Outcome::Gone,
                Err(error) => Outcome::Failed(format!(
                    "running Bind plugin \"DefaultBinder\": {}",
                    api_message(&error)
                )),
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
            // Autoscalers see where the pod will run while its volumes are being made.
            nominate(&actions, &pod, &placement.node).await;
            let outcome = match actions
                .prepare_volumes(&placement.volumes, &placement.node)
                .await
            {
                Ok(()) => Outcome::VolumesAsked(placement),
                Err(error) => Outcome::Failed(volumes_failed(&api_message(&error))),
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
            None => error.clears_nomination.then(String::new),
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
        if let Some(claim) = error.deallocate.clone() {
            let actions = self.actions.clone();
            self.spawn(async move { actions.deallocate(&claim).await });
        }
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
}

/// Reports the node of a pod that cannot be bound at once. An error is logged.
async fn nominate(actions: &Actions, pod: &PodInfo, node: &str) {
    if let Err(error) = actions.nominate(pod, node).await
        && !is_gone(&error)
    {
        tracing::warn!(pod = %pod.name, %error, "could not nominate the node of a pod");
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
