//! The worker's part in resizing a pod: asks the node, changes containers, tells.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::super::resize::{self, Applied, Outdated, Refusal};
use super::super::status::Resizing;
use super::{Own, Worker};
use crate::kinds::*;
use crate::recorder::Severity::{Normal, Warning};
use crate::registration::allocatable;

/// How long until a resize that was deferred, or that failed, is tried again.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// Where a pod's resize stands.
#[derive(Default)]
pub(super) struct State {
    /// The pod as it asks to be, while that is not granted.
    asked: Option<Arc<Pod>>,
    refusal: Option<Refusal>,
    /// When to ask the node again.
    ask_at: Option<Timestamp>,
    /// Cgroups are being changed.
    under_way: bool,
    error: Option<String>,
    apply_at: Option<Timestamp>,
}

impl Worker {
    /// The pod as it was granted; what it asks for beyond that is kept in mind.
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
        }
        self.resize.asked = Some(pod);
        Arc::new(granted)
    }

    /// Grants what the pod asks for, if the node has it, and begins to change what
    /// runs. Answers when to look again, and which containers have to be restarted.
    pub(super) fn step_resize(&mut self, now: Timestamp) -> (Option<Timestamp>, HashSet<String>) {
        let ask = self.ask(now);
        let mut outdated = self.record.outdated(&self.pod, &self.instances);
        // Those that are being started or stopped are looked at later.
        outdated.retain(|o| !self.busy.contains(&o.name));
        let (restart, in_place): (Vec<_>, Vec<_>) = outdated.into_iter().partition(|o| o.restart);
        if restart.is_empty() && in_place.is_empty() {
            self.resize.error = None;
        }
        let apply = self.apply(in_place, now);
        let restart = restart.into_iter().map(|o| o.name).collect();
        (ask.into_iter().chain(apply).min(), restart)
    }

    fn ask(&mut self, now: Timestamp) -> Option<Timestamp> {
        let asked = self.resize.asked.clone()?;
        if let Some(at) = self.resize.ask_at.filter(|at| *at > now) {
            return Some(at);
        }
        let agent = self.agent.clone();
        // One pod after the other, so that two do not get the same rest.
        let _turn = agent.pods.grants.lock();
        let others = resize::others(&agent, asked.uid());
        let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        match resize::decide(&asked, &others, &allocatable(&agent)) {
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
                let again = (refusal.reason == "Deferred").then(|| now + AGAIN);
                if self.resize.refusal.as_ref() != Some(&refusal) {
                    let reason = match refusal.reason {
                        "Deferred" => "ResizeDeferred",
                        _ => "ResizeInfeasible",
                    };
                    self.agent
                        .recorder
                        .pod(&self.pod, Warning, reason, refusal.message.clone());
                }
                self.resize.refusal = Some(refusal);
                // What can never be is asked again when the pod asks for something else.
                self.resize.ask_at = Some(again.unwrap_or(Timestamp::MAX));
                again
            }
        }
    }

    fn apply(&mut self, in_place: Vec<Outdated>, now: Timestamp) -> Option<Timestamp> {
        if in_place.is_empty() || self.resize.under_way {
            return None;
        }
        if let Some(at) = self.resize.apply_at.filter(|at| *at > now) {
            return Some(at);
        }
        self.resize.under_way = true;
        let (agent, after) = (self.agent.clone(), self.pod.clone());
        let before = self.as_running();
        self.spawn(
            async move { Own::Resized(resize::apply(&agent, &before, &after, in_place).await) },
        );
        None
    }

    pub(super) fn resized(&mut self, applied: Applied) {
        self.resize.under_way = false;
        for container in &applied.done {
            self.record.applied(&container.id, container.to.clone());
        }
        let there: HashSet<String> = self.ids().collect();
        self.record.retain(|id| there.contains(id));
        self.save_record();
        match applied.error {
            None => {
                let names: Vec<&str> = applied.done.iter().map(|o| o.name.as_str()).collect();
                self.agent.recorder.pod(
                    &self.pod,
                    Normal,
                    "ResizeCompleted",
                    format!("Pod resize completed: {}", names.join(", ")),
                );
                self.resize.error = None;
            }
            Some(error) => {
                if self.resize.error.as_ref() != Some(&error) {
                    self.agent
                        .recorder
                        .pod(&self.pod, Warning, "ResizeError", error.clone());
                }
                self.resize.error = Some(error);
                self.resize.apply_at = Some(Timestamp::now() + AGAIN);
            }
        }
    }

    /// The pod with the resources that its containers run with.
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

    /// What the status tells of it.
    pub(super) fn resizing(&self) -> Resizing {
        let refusal = self.resize.refusal.as_ref();
        let unfinished = !self.record.outdated(&self.pod, &self.instances).is_empty();
        Resizing {
            pending: refusal.map(|r| (r.reason.to_owned(), r.message.clone())),
            in_progress: (unfinished || self.resize.under_way).then(|| self.resize.error.clone()),
        }
    }

    fn save_record(&self) {
        if let Err(e) = self.record.save(self.uid()) {
            tracing::warn!(pod = %self.pod.full_name(), "keeping the record of its resources: {e}");
        }
    }
}
