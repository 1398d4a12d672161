//! Steps of a pod that is not being stopped: volumes, sandbox, containers and probes.

use std::time::Instant;

use super::super::backoff;
use super::super::instance::latest;
use super::super::plan::{self, Observed};
use super::super::probes::Target;
use super::super::reason::Reason;
use super::super::sandbox;
use super::super::start::Start;
use super::super::status::{self, Health};
use super::state::{Message, SANDBOX, TaskResult, Worker};
use crate::kinds::*;
use crate::recorder::Severity::{Normal, Warning};

impl Worker {
    /// Takes the next step of a live pod; returns when another step is due without an event.
    pub(super) fn step_live(&mut self, now: Instant) -> Option<Instant> {
        if !self.allocate_devices() {
            return None;
        }
        self.set_up_volumes();
        self.watch_probes();
        let (resize, restarts) = self.step_resize(now);
        let plan = plan::plan(&Observed {
            pod: &self.pod,
            sandbox: self.sandbox.as_ref(),
            instances: &self.instances,
            probes: &self.probes,
            busy: &self.busy,
            resize: &restarts,
        });
        if plan.finished {
            if self.in_flight.start.is_none() && !self.in_flight.sandbox {
                self.begin_stop();
                self.step_stop();
            }
            return None;
        }
        if !plan.reset.is_empty() {
            let next = self.reset(plan.reset, now);
            return resize.into_iter().chain(next).min();
        }
        for kill in plan.kill {
            let grace = kill
                .probe
                .and_then(|p| self.probe_grace(&kill.name, p))
                .unwrap_or_else(|| self.pod.grace_seconds());
            self.restarting.begin(&kill.name);
            self.stop_container(&kill.name, &kill.id, grace, Some(kill.message));
        }
        if let Some(attempt) = plan.create_sandbox {
            return self.create_sandbox(attempt, now);
        }
        let mut next: Option<Instant> = resize;
        for name in plan.start {
            if let Some(at) = self.held_back(&name, now) {
                self.restarting.end(&name);
                next = Some(next.map_or(at, |n| n.min(at)));
                continue;
            }
            if self.in_flight.start.is_none() && self.volumes.is_some() {
                self.start_container(&name, now);
            }
        }
        next
    }

    /// Returns the probe's own termination grace period in seconds, if it has one.
    pub(super) fn probe_grace(&self, name: &str, probe: &str) -> Option<i64> {
        let container = self.pod.container(name)?;
        let probe = match probe {
            "startup" => container.startup_probe.as_ref(),
            _ => container.liveness_probe.as_ref(),
        };
        probe?.termination_grace_period_seconds
    }

    /// Starts to set up the volumes, unless they are set up or in progress.
    pub(super) fn set_up_volumes(&mut self) {
        if self.volumes.is_some() || self.in_flight.volumes {
            return;
        }
        self.in_flight.volumes = true;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let (objects, cancel) = (self.objects.clone(), self.cancel.clone());
        self.spawn(async move {
            TaskResult::VolumesReady(sandbox::fill_volumes(&context, &pod, &objects, &cancel).await)
        });
    }

    /// Starts to create a sandbox and to stop the old one.
    ///
    /// Returns the time of the next attempt while it is delayed after a failure.
    pub(super) fn create_sandbox(&mut self, attempt: u32, now: Instant) -> Option<Instant> {
        if self.in_flight.sandbox || self.volumes.is_none() {
            return None;
        }
        if let Some(at) = self.retry_at.get(SANDBOX).filter(|at| **at > now) {
            return Some(*at);
        }
        self.retry_at.remove(SANDBOX);
        self.in_flight.sandbox = true;
        self.probes.clear();
        let old = self.sandbox.as_ref().map(|s| s.id.clone());
        if old.is_some() {
            self.context.recorder.pod(
                &self.pod,
                Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
        }
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.spawn(async move {
            if let Some(old) = old {
                sandbox::stop(&context, &old).await;
            }
            TaskResult::SandboxCreated(sandbox::create(&context, &pod, attempt).await)
        });
        None
    }

    /// Returns the key of a container's restart back-off. It changes with the container's image, so
    /// that a mended container starts at once.
    pub(super) fn backoff_key(&self, name: &str) -> String {
        let hash = self.pod.container(name).map(|c| plan::hash(&c));
        format!("{name}_{}", hash.unwrap_or_default())
    }

    /// Returns the time before which a container must not be started; `None` if it may start now. A
    /// restart back-off becomes the container's waiting reason.
    pub(super) fn held_back(&mut self, name: &str, now: Instant) -> Option<Instant> {
        if let Some(at) = self.retry_at.get(name).filter(|at| **at > now) {
            return Some(*at);
        }
        let instance = latest(&self.instances, name).filter(|i| i.exited())?;
        let ended = instance.ended.unwrap_or(now);
        let (pause, until) = self.backoff.holds(&self.backoff_key(name), ended, now)?;
        let pod = self.pod.full_name();
        if self.backoff_recorded.insert(instance.id.clone()) {
            self.context.recorder.container(
                &self.pod,
                name,
                Warning,
                "BackOff",
                format!("Back-off restarting failed container {name} in pod {pod}"),
            );
        }
        self.waiting.insert(
            name.to_owned(),
            Reason::new(
                "CrashLoopBackOff",
                format!(
                    "back-off {} restarting failed container={name} pod={pod}",
                    backoff::go_duration(pause)
                ),
            ),
        );
        Some(until)
    }

    /// Starts a container in the current sandbox, and its restart back-off after an exit.
    pub(super) fn start_container(&mut self, name: &str, now: Instant) {
        let (Some(container), Some(sandbox), Some(volumes)) = (
            self.pod.container(name).map(std::borrow::Cow::into_owned),
            self.sandbox.as_ref(),
            self.volumes.as_ref(),
        ) else {
            return;
        };
        let earlier = self.instances.get(name).cloned().unwrap_or_default();
        if let Some(last) = earlier.last().filter(|i| i.exited()) {
            let ended = last.ended.unwrap_or(now);
            self.backoff.next(&self.backoff_key(name), ended, now);
        }
        let attempt = earlier
            .last()
            .map_or_else(|| self.lost_attempts(name), |i| i.attempt + 1)
            .max(self.resets.get(name).copied().unwrap_or(0));
        let target = self
            .pod
            .spec()
            .ephemeral_containers
            .iter()
            .flatten()
            .find(|e| e.name == name)
            .and_then(|e| e.target_container_name.as_deref())
            .and_then(|t| latest(&self.instances, t))
            .map(|i| i.id.clone());
        let start = Start {
            context: self.context.clone(),
            pod: self.pod.clone(),
            container,
            attempt,
            sandbox: sandbox.id.clone(),
            ip: self.ip,
            volumes: volumes.mounted(),
            objects: self.objects.clone(),
            earlier,
            target,
            cancel: self.cancel.clone(),
        };
        self.busy.insert(name.to_owned());
        self.in_flight.start = Some(name.to_owned());
        let name = name.to_owned();
        self.spawn(async move {
            let result = start.run().await;
            TaskResult::ContainerStarted { name, result }
        });
    }

    /// Returns the first attempt number for a container that only the API knows: its restart count
    /// there plus one, or 0 if it never ran.
    pub(super) fn lost_attempts(&self, name: &str) -> u32 {
        next_attempt(&self.pod, name)
    }

    /// Returns the probe target for a running container; `None` if it is not running or has no
    /// address.
    pub(super) fn probe_target(&self, name: &str) -> Option<Target> {
        let instance = latest(&self.instances, name).filter(|i| i.running())?;
        let sender = self.sender.clone();
        Some(Target {
            runtime: self.context.runtime.clone(),
            recorder: self.context.recorder.clone(),
            pod: self.pod.clone(),
            container: self.pod.container(name)?.into_owned(),
            id: instance.id.clone(),
            ip: self.ip?,
            since: instance.started_at.unwrap_or(instance.created_at),
            report: Box::new(move |result| {
                sender
                    .send(Message::Task(TaskResult::Probed(result)))
                    .is_ok()
            }),
        })
    }

    /// Starts and stops probes so that exactly the running containers are probed.
    pub(super) fn watch_probes(&mut self) {
        let names: Vec<String> = self
            .pod
            .init_containers()
            .iter()
            .filter(|c| is_sidecar(c))
            .chain(&self.pod.spec().containers)
            .map(|c| c.name.clone())
            .collect();
        for name in names {
            let Some(instance) = latest(&self.instances, &name).filter(|i| i.running()) else {
                self.probes.forget(&name);
                continue;
            };
            // Probes start once the `postStart` hook has finished.
            if self.in_flight.start.as_deref() == Some(&name)
                || self.probes.probed(&name) == Some(&instance.id)
            {
                continue;
            }
            let id = status::container_id(&instance.id);
            let adopted = self
                .pod
                .status
                .iter()
                .flat_map(|s| {
                    s.container_statuses
                        .iter()
                        .chain(&s.init_container_statuses)
                        .flatten()
                })
                .find(|s| s.name == name && s.container_id.as_deref() == Some(&id))
                .map(|s| Health {
                    started: s.started.unwrap_or(false),
                    ready: s.ready,
                });
            if let Some(target) = self.probe_target(&name) {
                self.probes.watch(target, adopted);
            }
        }
    }
}

/// Returns the number of a container's next attempt according to the pod's status. A container
/// that waits to start over has no ID there, and its count is that of the coming attempt.
fn next_attempt(pod: &Pod, name: &str) -> u32 {
    let statuses = pod.status.iter().flat_map(|s| {
        s.container_statuses
            .iter()
            .chain(&s.init_container_statuses)
            .flatten()
    });
    statuses
        .filter(|s| s.name == name)
        .find_map(|s| u32::try_from(s.restart_count + i32::from(s.container_id.is_some())).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

    #[test]
    fn attempts_go_on_where_the_status_ends() {
        for (id, count, next) in [
            (None, 0, 0),
            (Some("a"), 0, 1),
            (Some("a"), 3, 4),
            // It was removed to start the pod over, and the agent was restarted.
            (None, 3, 3),
        ] {
            let status = ContainerStatus {
                name: "c".into(),
                container_id: id.map(str::to_owned),
                restart_count: count,
                ..Default::default()
            };
            let pod = Pod {
                status: Some(PodStatus {
                    container_statuses: Some(vec![status]),
                    ..Default::default()
                }),
                ..Default::default()
            };
            assert_eq!(next_attempt(&pod, "c"), next, "{id:?} {count}");
            assert_eq!(next_attempt(&pod, "other"), 0);
        }
    }
}
