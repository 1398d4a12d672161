//! The worker's part in resizing a pod: requests grants, applies them and reports progress.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::resize::{self, Applied, Outdated, Refusal};
use super::super::sandbox;
use super::super::status::Resizing;
use super::state::{TaskResult, Worker};
use crate::kinds::*;
use crate::recorder::Severity::{Normal, Warning};

/// Delay before a deferred or failed resize is retried.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// Progress of a pod's resize.
#[derive(Default)]
pub(super) struct ResizeState {
    /// The pod as requested, while its resources are not granted.
    asked: Option<Arc<Pod>>,
    refusal: Option<Refusal>,
    /// Time of the next attempt to get the resources granted.
    ask_at: Option<Instant>,
    /// Whether only a change of the pod makes another attempt worth while.
    is_infeasible: bool,
    /// Whether cgroups are being changed.
    in_progress: bool,
    error: Option<String>,
    apply_at: Option<Instant>,
}

impl Worker {
    /// Returns the pod with its granted resources and remembers a request that exceeds them.
    pub(super) fn as_granted(&mut self, pod: Arc<Pod>) -> Arc<Pod> {
        let Some(granted) = self.record.granted(&pod) else {
            self.resize.asked = None;
            self.resize.refusal = None;
            return pod;
        };
        let asked_before = self.resize.asked.as_ref().map(|p| p.metadata.generation);
        if asked_before != Some(pod.metadata.generation) {
            self.resize.refusal = None;
            self.resize.ask_at = None;
            self.resize.is_infeasible = false;
        }
        self.resize.asked = Some(pod);
        Arc::new(granted)
    }

    /// Grants the pod's requests if the node has the resources, and starts to apply granted ones.
    ///
    /// Returns when the next step is due, and the containers that have to be restarted.
    pub(super) fn step_resize(&mut self, now: Instant) -> (Option<Instant>, HashSet<String>) {
        let ask = self.ask(now);
        let mut outdated = self.record.outdated(&self.pod, &self.instances);
        // Containers that are being started or stopped are resized later.
        outdated.retain(|o| !self.busy.contains(&o.name));
        let (restart, in_place): (Vec<_>, Vec<_>) = outdated.into_iter().partition(|o| o.restart);
        if restart.is_empty() && in_place.is_empty() {
            self.resize.error = None;
        }
        let apply = self.apply(in_place, now);
        let restart = restart.into_iter().map(|o| o.name).collect();
        (ask.into_iter().chain(apply).min(), restart)
    }

    /// Decides a pending resize; returns when to decide again if it is deferred.
    fn ask(&mut self, now: Instant) -> Option<Instant> {
        let asked = self.resize.asked.clone()?;
        if self.resize.is_infeasible {
            return None;
        }
        if let Some(at) = self.resize.ask_at.filter(|at| *at > now) {
            return Some(at);
        }
        let context = self.context.clone();
        let _grants = context.pods.lock_grants();
        let active = context.pods.active();
        let others: Vec<&Pod> = active
            .iter()
            .map(AsRef::as_ref)
            .filter(|p: &&Pod| p.uid() != asked.uid())
            .collect();
        let host = &context.host;
        let decision = resize::check_managers(&asked, &self.pod, &host.settings)
            .and_then(|()| resize::decide(&asked, &others, &host.allocatable()));
        match decision {
            Ok(()) => {
                self.record.grant(&asked);
                self.save_record();
                self.resize.asked = None;
                self.resize.refusal = None;
                self.resize.apply_at = None;
                self.snapshot.send_modify(|s| s.pod = asked.clone());
                self.pod = asked;
                None
            }
            Err(refusal) => {
                let again = (refusal.reason == "Deferred").then(|| now + RETRY_DELAY);
                if self.resize.refusal.as_ref() != Some(&refusal) {
                    let reason = match refusal.reason {
                        "Deferred" => "ResizeDeferred",
                        _ => "ResizeInfeasible",
                    };
                    self.context
                        .recorder
                        .pod(&self.pod, Warning, reason, refusal.message.clone());
                }
                self.resize.refusal = Some(refusal);
                self.resize.ask_at = again;
                self.resize.is_infeasible = again.is_none();
                again
            }
        }
    }

    /// Starts to resize containers in place; returns when to retry after a failure.
    fn apply(&mut self, in_place: Vec<Outdated>, now: Instant) -> Option<Instant> {
        if in_place.is_empty() || self.resize.in_progress {
            return None;
        }
        if let Some(at) = self.resize.apply_at.filter(|at| *at > now) {
            return Some(at);
        }
        self.resize.in_progress = true;
        let (context, after) = (self.context.clone(), self.pod.clone());
        let before = self.as_running();
        self.spawn(async move {
            let runtime = &context.runtime;
            let node = &context.resources;
            let applied = resize::apply(runtime, node, &before, &after, in_place).await;
            sandbox::update_weights(runtime, &context.pods.active()).await;
            TaskResult::Resized(applied)
        });
        None
    }

    /// Handles the result of an in-place resize.
    pub(super) fn resized(&mut self, applied: Applied) {
        self.resize.in_progress = false;
        for container in &applied.done {
            self.record.applied(&container.id, container.to.clone());
        }
        let there: HashSet<String> = self.ids().collect();
        self.record.retain(|id| there.contains(id));
        self.save_record();
        match applied.error {
            None => {
                let names: Vec<&str> = applied.done.iter().map(|o| o.name.as_str()).collect();
                self.context.recorder.pod(
                    &self.pod,
                    Normal,
                    "ResizeCompleted",
                    format!("Pod resize completed: {}", names.join(", ")),
                );
                self.resize.error = None;
            }
            Some(error) => {
                if self.resize.error.as_ref() != Some(&error) {
                    self.context
                        .recorder
                        .pod(&self.pod, Warning, "ResizeError", error.clone());
                }
                self.resize.error = Some(error);
                self.resize.apply_at = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    /// Returns the pod with the resources that its containers currently run with.
    fn as_running(&self) -> Pod {
        let outdated = self.record.outdated(&self.pod, &self.instances);
        let mut pod = Pod::clone(&self.pod);
        let spec = pod.spec.get_or_insert_default();
        let containers = spec.init_containers.iter_mut().flatten();
        for c in containers.chain(&mut spec.containers) {
            if let Some(old) = outdated.iter().find(|o| o.name == c.name) {
                c.resources = Some(old.from.clone());
            }
        }
        pod
    }

    /// Returns the resize's progress for the status.
    pub(super) fn resizing(&self) -> Resizing {
        let refusal = self.resize.refusal.as_ref();
        let unfinished = !self.record.outdated(&self.pod, &self.instances).is_empty();
        Resizing {
            pending: refusal.map(|r| (r.reason.to_owned(), r.message.clone())),
            in_progress: (unfinished || self.resize.in_progress).then(|| self.resize.error.clone()),
        }
    }

    fn save_record(&self) {
        if let Err(e) = self.record.save(self.uid()) {
            tracing::warn!(pod = %self.pod.full_name(), "keeping the record of its resources: {e}");
        }
    }
}
