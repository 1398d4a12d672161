//! A pod's end: containers, sandbox, volumes, records.

use tracing::warn;

use super::super::container::log_dir;
use super::super::kill::Killing;
use super::super::{qos, sandbox};
use super::{Own, Stage, Worker};
use crate::kinds::*;
use crate::volumes;

impl Worker {
    pub(super) fn kill(&mut self, name: &str, id: &str, grace: i64, message: Option<String>) {
        let again = self.killing.contains_key(id);
        self.killing.insert(id.to_owned(), grace);
        self.busy.insert(name.to_owned());
        let killing = Killing {
            agent: self.agent.clone(),
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
            Own::Killed(name, id)
        });
    }

    pub(super) fn begin_stop(&mut self) {
        self.stage = Stage::Stopping;
        self.cancel.cancel();
        self.probes.stop_restarting();
    }

    /// Stops containers, sidecars last; then the sandbox.
    pub(super) fn step_stop(&mut self) {
        let grace = self.pod.grace_seconds().max(1);
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
        if due.is_empty() && self.starting.is_none() {
            // One sidecar after the other, the last started first.
            let next = sidecars
                .iter()
                .find_map(|s| running(&|n| n == s.as_str()).into_iter().next());
            due.extend(next);
        }
        let nothing_runs = due.is_empty();
        for (name, id) in due {
            match self.killing.get(&id) {
                Some(given) if *given <= grace => {}
                _ => self.kill(&name, &id, grace, None),
            }
        }
        if nothing_runs
            && self.starting.is_none()
            && !self.making
            && !self.filling
            && self.killing.is_empty()
        {
            self.tear_down();
        }
    }

    pub(super) fn tear_down(&mut self) {
        self.stage = Stage::TearingDown;
        self.probes.clear();
        let (agent, sandboxes) = (self.agent.clone(), self.sandboxes.clone());
        self.spawn(async move {
            for id in sandboxes {
                sandbox::stop(&agent, &id).await;
            }
            Own::TornDown
        });
    }

    /// Removes volumes; and for a pod that is to go, everything.
    pub(super) fn clean(&mut self) {
        let everything = self.pod.deleting() || self.gone;
        self.removed_records = everything;
        drop(self.volumes.take());
        let (agent, pod) = (self.agent.clone(), self.pod.clone());
        let sandboxes = if everything {
            std::mem::take(&mut self.sandboxes)
        } else {
            Vec::new()
        };
        self.spawn(async move {
            volumes::unmount(pod.uid()).await;
            if everything {
                for id in sandboxes {
                    if let Err(e) = agent.runtime.remove_sandbox(&id).await {
                        warn!("removing sandbox {id}: {e}");
                    }
                }
                agent.runtime.remove_cgroup(&qos::cgroup_parent(&pod)).await;
                sandbox::weigh(&agent).await;
                volumes::tear_down(pod.uid()).await;
                // Logs go with the pod.
                let _ = tokio::fs::remove_dir_all(log_dir(&pod)).await;
            }
            Own::Cleaned
        });
    }
}
