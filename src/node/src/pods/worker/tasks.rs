//! Handles the results of the worker's tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::super::probes::ProbeResult;
use super::super::sandbox::{NewSandbox, NotCreated};
use super::super::start::{NotStarted, RETRY_DELAY};
use super::state::{SANDBOX, Stage, TaskResult, Worker};
use crate::client;
use crate::kinds::*;
use crate::recorder::Severity::Warning;
use crate::static_pods;
use crate::volumes::Volumes;

/// Delay after a patch of a pod that the API server does not have. The watch will report its
/// removal.
const NOT_FOUND_DELAY: Duration = Duration::from_secs(5);

impl Worker {
    /// Updates the worker's state from the result of a task.
    pub(super) fn handle_task(&mut self, result: TaskResult) {
        match result {
            TaskResult::VolumesReady(volumes) => self.volumes_ready(volumes),
            TaskResult::SandboxCreated(result) => self.sandbox_created(result),
            TaskResult::ContainerStarted { name, result } => self.container_started(name, result),
            TaskResult::ContainerStopped { name, id } => self.container_stopped(&name, &id),
            TaskResult::SandboxStopped => self.sandbox_stopped(),
            TaskResult::Cleaned => self.stage = Stage::Over,
            TaskResult::StatusPublished(result) => self.status_published(*result),
            TaskResult::PodDeleted(result) => self.pod_deleted(result),
            TaskResult::Reset(removed) => self.was_reset(&removed, Instant::now()),
            TaskResult::Probed(result) => self.probed(&result),
            TaskResult::Resized(applied) => self.resized(applied),
            TaskResult::DevicesAllocated(result) => self.devices_allocated(result),
        }
    }

    /// Updates the pod unless the new version is older than the current one.
    ///
    /// Responses to patches and events of the watch can arrive out of order.
    pub(super) fn update(&mut self, pod: Arc<Pod>) {
        if is_older(&pod, &self.pod) {
            return;
        }
        self.pod = self.as_granted(self.with_own_status(pod));
        if let Some(volumes) = &self.volumes {
            volumes.update(&self.pod);
        }
    }

    fn volumes_ready(&mut self, volumes: Option<Volumes>) {
        self.in_flight.volumes = false;
        self.volumes = volumes;
        if let Some(volumes) = &self.volumes {
            volumes.update(&self.pod);
        }
    }

    fn sandbox_created(&mut self, result: Result<NewSandbox, NotCreated>) {
        self.in_flight.sandbox = false;
        match result {
            Ok(created) => {
                self.sandboxes.push(created.view.id.clone());
                self.sandbox = Some(created.view);
                self.ip = Some(created.ip);
            }
            Err(e) => {
                self.context
                    .recorder
                    .pod(&self.pod, Warning, e.reason, e.message);
                self.retry_at
                    .insert(SANDBOX.into(), Instant::now() + RETRY_DELAY);
            }
        }
    }

    fn container_started(&mut self, name: String, result: Result<(), NotStarted>) {
        self.busy.remove(&name);
        self.in_flight.start = None;
        self.restarting.end(&name);
        self.refresh_all(&name);
        match result {
            Ok(()) => {
                self.waiting.remove(&name);
                self.retry_at.remove(&name);
            }
            Err(e) => {
                if let Some(at) = e.retry_at {
                    self.retry_at.insert(name.clone(), at);
                }
                self.waiting.insert(name, e.reason);
            }
        }
    }

    fn container_stopped(&mut self, name: &str, id: &str) {
        self.busy.remove(name);
        self.stopping.remove(id);
        self.refresh(id);
    }

    fn sandbox_stopped(&mut self) {
        self.stage = Stage::Cleaning;
        self.context.plugins.devices.free(self.uid());
        let ids: Vec<String> = self.ids().collect();
        for id in ids {
            self.refresh(&id);
        }
        if let Some(view) = &mut self.sandbox {
            view.ready = false;
        }
        self.clean();
    }

    fn status_published(&mut self, result: Result<Pod, kube::Error>) {
        self.in_flight.publish = false;
        match result {
            Ok(pod) => {
                self.publication.failures = 0;
                match static_pods::is_mirror(&pod) {
                    true => self.mirrored(Some(Arc::new(pod))),
                    false => self.update(Arc::new(static_pods::from_api(pod))),
                }
            }
            Err(e) if client::answered(&e, 404) => {
                self.publication.retry_at = Some(Instant::now() + NOT_FOUND_DELAY);
            }
            Err(e) => {
                if !client::unreachable(&e) {
                    warn!(pod = %self.pod.full_name(), "status: {e}");
                }
                self.retry_publication();
            }
        }
    }

    fn pod_deleted(&mut self, result: Result<(), kube::Error>) {
        match result {
            Ok(()) => {}
            Err(e) if client::answered(&e, 404) || client::answered(&e, 409) => {}
            Err(e) => {
                debug!(pod = %self.pod.full_name(), "deleting: {e}");
                self.in_flight.delete = false;
                self.retry_publication();
            }
        }
    }

    /// Schedules the next attempt to write to the API.
    fn retry_publication(&mut self) {
        let delay = client::retry_delay(self.publication.failures * 10);
        self.publication.failures += 1;
        self.publication.retry_at = Some(Instant::now() + delay);
    }

    fn probed(&mut self, result: &ProbeResult) {
        let mut probes = std::mem::take(&mut self.probes);
        probes.apply(result, || self.probe_target(&result.container));
        self.probes = probes;
    }
}

/// Returns whether a version of an object in the API is older than another.
pub(super) fn is_older(this: &Pod, that: &Pod) -> bool {
    let version = |pod: &Pod| {
        pod.metadata
            .resource_version
            .as_deref()?
            .parse::<u64>()
            .ok()
    };
    matches!((version(this), version(that)), (Some(this), Some(that)) if this < that)
}
