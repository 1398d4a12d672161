//! Handles what became of decisions: bindings, and volumes for which pods wait.

use std::sync::Arc;
use std::time::Instant;

use rkube_client::events::Severity;
use rkube_component_helpers::time::instant_after;

use super::{Engine, Outcome, WaitingPod};
use crate::actions::is_gone;
use crate::model::Key;
use crate::plugins::types::Event;
use crate::plugins::volume_binding::Decision;
use crate::queue::Queued;

/// Returns the message about volumes that could not be bound, in upstream's wording.
pub(super) fn volumes_failed(why: &str) -> String {
    format!("running PreBind plugin \"VolumeBinding\": {why}")
}

impl Engine {
    pub(super) fn on_outcome(&mut self, uid: &str, outcome: Outcome) {
        if let Outcome::ClaimWritten(claim) = outcome {
            self.claim_written(uid, claim);
            return;
        }
        let Some(queued) = self.binding.remove(uid) else {
            return;
        };
        match outcome {
            // The claims are written, and so is the pod.
            Outcome::Bound => drop(self.held.remove(uid)),
            Outcome::ClaimWritten(_) => {}
            Outcome::Gone => {
                self.unreserve(&queued.pod.key(), uid);
                self.cluster.forget(uid);
                self.on_event(Event::PodRemoved);
            }
            Outcome::Failed(message) => self.failed(queued, message),
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
                let waiting = WaitingPod {
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

    fn failed(&mut self, mut queued: Queued, message: String) {
        let pod = Arc::clone(&queued.pod);
        self.unreserve(&pod.key(), &pod.uid);
        // The report clears the nomination.
        if !pod.nominated.is_empty() {
            Arc::make_mut(&mut queued.pod).nominated.clear();
        }
        self.cluster.forget(&pod.uid);
        // The assumed pod's resources are free again.
        self.on_event(Event::PodRemoved);
        let confirmed = self.cluster.is_placed(&pod.uid);
        let gone = self.uids.get(&pod.key()) != Some(&pod.uid);
        if confirmed || gone {
            return;
        }
        tracing::warn!(pod = %pod.name, error = message, "could not bind a pod");
        self.retry(queued, message);
    }

    /// Reports an error about a pod, which is tried again after its back-off.
    pub(super) fn retry(&mut self, queued: Queued, message: String) {
        let pod = Arc::clone(&queued.pod);
        self.queue.failed(queued, Instant::now());
        let actions = self.actions.clone();
        self.spawn(async move {
            let reported = actions
                .report_unschedulable(&pod, "SchedulerError", &message, Some(""))
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

    pub(super) fn claim_changed(&mut self, key: &Key) {
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
        let mut given_up: Option<String> = None;
        for (key, decision) in waiting.claims.iter().zip(&waiting.placement.volumes) {
            match self.cluster.claims.get(key) {
                Some(claim) if claim.bound && !claim.volume.is_empty() => {}
                Some(claim) => {
                    all = false;
                    // The annotation was set before waiting began. A missing one may be watch lag,
                    // but another node's name means that the claim was reassigned.
                    let elsewhere = claim.selected_node.as_ref().is_some_and(|n| n != node);
                    if matches!(decision, Decision::Provision { .. }) && elsewhere {
                        given_up = Some(format!("provisioning failed for PVC {:?}", key.1));
                    }
                }
                None => {
                    let what = match decision {
                        Decision::Bind { .. } => "failed to check binding",
                        Decision::Provision { .. } => "failed to check provisioning pvc",
                    };
                    let name = format!("{}/{}", key.0, key.1);
                    given_up = Some(format!(
                        "{what}: could not find v1.PersistentVolumeClaim {name:?}"
                    ));
                }
            }
        }
        if let Some(why) = given_up {
            if let Some(waiting) = self.waiting.remove(uid) {
                let message = volumes_failed(&format!("binding volumes: {why}"));
                self.failed(waiting.queued, message);
            }
        } else if all && let Some(waiting) = self.waiting.remove(uid) {
            let pod = Arc::clone(&waiting.queued.pod);
            self.binding.insert(uid.to_owned(), waiting.queued);
            self.bind(pod, waiting.placement);
        }
    }

    /// Fails waiting pods whose volumes have exceeded the timeout.
    pub(super) fn expire(&mut self, now: Instant) {
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
                let message = volumes_failed("binding volumes: context deadline exceeded");
                self.failed(waiting.queued, message);
            }
        }
    }
}
