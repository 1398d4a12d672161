//! Stops a pod: containers, sandbox, volumes and records.

use tracing::warn;

use super::super::context::PodContext;
use super::super::kill::Killing;
use super::super::paths::log_dir;
use super::super::{qos, sandbox};
use super::devices::unprepare;
use super::state::{Stage, TaskResult, Worker};
use crate::kinds::*;
use crate::volumes;

impl Worker {
    /// Stops a container; `grace` is in seconds.
    ///
    /// If the container is already being stopped, its grace period is shortened.
    pub(super) fn stop_container(
        &mut self,
        name: &str,
        id: &str,
        grace: i64,
        message: Option<String>,
    ) {
        let again = self.stopping.contains_key(id);
        self.stopping.insert(id.to_owned(), grace);
        self.busy.insert(name.to_owned());
        let killing = Killing {
            runtime: self.context.runtime.clone(),
            recorder: self.context.recorder.clone(),
            pod: self.pod.clone(),
            name: name.to_owned(),
            id: id.to_owned(),
            ip: self.ip,
            grace,
            message,
            again,
        };
        let (name, id) = (name.to_owned(), id.to_owned());
        self.spawn(async move {
            killing.run().await;
            TaskResult::ContainerStopped { name, id }
        });
    }

    /// Begins to stop the pod: cancels its tasks and disables restarts by probes.
    pub(super) fn begin_stop(&mut self) {
        self.stage = Stage::Stopping;
        self.cancel.cancel();
        self.restarting.clear();
        self.probes.stop_restarting();
    }

    /// Stops main containers, then sidecars, then the sandbox.
    pub(super) fn step_stop(&mut self) {
        let grace = match &self.eviction {
            Some(eviction) if self.pod.deleting() => eviction.grace.min(self.pod.grace_seconds()),
            Some(eviction) => eviction.grace,
            None => self.pod.grace_seconds(),
        };
        let grace = grace.max(1);
        let sidecars: Vec<String> = self
            .pod
            .init_containers()
            .iter()
            .filter(|c| is_sidecar(c))
            .map(|c| c.name.clone())
            .rev()
            .collect();
        let running = |names: &dyn Fn(&str) -> bool| -> Vec<(String, String)> {
            self.instances
                .values()
                .filter_map(|a| a.last())
                .filter(|i| i.running() && names(&i.name))
                .map(|i| (i.name.clone(), i.id.clone()))
                .collect()
        };
        let mut due = running(&|n| !sidecars.iter().any(|s| s == n));
        if due.is_empty() && self.in_flight.start.is_none() {
            // Sidecars stop one at a time, in reverse order of their start.
            let next = sidecars
                .iter()
                .find_map(|s| running(&|n| n == s.as_str()).into_iter().next());
            due.extend(next);
        }
        let nothing_runs = due.is_empty();
        for (name, id) in due {
            match self.stopping.get(&id) {
                Some(given) if *given <= grace => {}
                _ => self.stop_container(&name, &id, grace, None),
            }
        }
        if nothing_runs
            && self.in_flight.start.is_none()
            && !self.in_flight.sandbox
            && !self.in_flight.volumes
            && !self.in_flight.devices
            && self.stopping.is_empty()
        {
            self.tear_down();
        }
    }

    /// Stops all sandboxes of the pod, and has its claims unprepared.
    pub(super) fn tear_down(&mut self) {
        self.stage = Stage::TearingDown;
        self.probes.clear();
        let (context, sandboxes) = (self.context.clone(), self.sandboxes.clone());
        let (uid, gone) = (self.uid().to_owned(), self.gone.clone());
        self.spawn(async move {
            for id in sandboxes {
                sandbox::stop(&context, &id).await;
            }
            unprepare(&context, &uid, &gone).await;
            TaskResult::SandboxStopped
        });
    }

    /// Removes the volumes; of an evicted pod also the containers, of a deleted one everything.
    pub(super) fn clean(&mut self) {
        let everything = self.pod.deleting() || self.removed;
        self.records_removed = everything;
        drop(self.volumes.take());
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let sandboxes = if everything {
            std::mem::take(&mut self.sandboxes)
        } else {
            Vec::new()
        };
        // The node needs the disk space of evicted pods, so only their logs are left.
        let containers: Vec<String> = match &self.eviction {
            Some(_) if !everything => self.ids().collect(),
            _ => Vec::new(),
        };
        self.spawn(async move {
            volumes::discard(pod.uid()).await;
            for id in containers {
                if let Err(e) = context.runtime.remove_container(&id).await {
                    warn!("removing container {id}: {e}");
                }
            }
            if everything {
                remove_records(&context, &pod, sandboxes).await;
            }
            TaskResult::Cleaned
        });
    }
}

/// Removes a deleted pod's sandboxes, cgroup, files and logs. Errors are only logged.
async fn remove_records(context: &PodContext, pod: &Pod, sandboxes: Vec<String>) {
    let runtime = &context.runtime;
    for id in sandboxes {
        if let Err(e) = runtime.remove_sandbox(&id).await {
            warn!("removing sandbox {id}: {e}");
        }
    }
    runtime.remove_cgroup(&qos::cgroup_parent(pod)).await;
    sandbox::update_weights(runtime, &context.pods.active()).await;
    volumes::tear_down(pod.uid()).await;
    let logs = log_dir(pod);
    match tokio::fs::remove_dir_all(&logs).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            warn!("removing {}: {e}", logs.display());
        }
        _ => {}
    }
}
