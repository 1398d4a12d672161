//! Starts a pod over: all its containers are stopped and removed first.

use std::time::Duration;

use super::super::instance::Instance;
use super::super::plan::Reset;
use super::state::{TaskResult, Worker};

/// Delay after a container could not be removed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Worker {
    /// Stops containers, and removes them once none runs or is being started.
    pub(super) fn reset(&mut self, containers: Vec<Reset>) {
        let mut nothing_runs = true;
        for container in containers.iter().filter(|c| c.running) {
            nothing_runs = false;
            if !self.stopping.contains_key(&container.id) {
                let message = Some("killing".into());
                self.stop_container(&container.name, &container.id, 0, message);
            }
        }
        let is_busy = self.in_flight.start.is_some() || !self.busy.is_empty();
        if !nothing_runs || is_busy || self.in_flight.reset {
            return;
        }
        self.in_flight.reset = true;
        let runtime = self.context.runtime.clone();
        self.spawn(async move {
            let mut removed = Vec::new();
            for container in containers {
                // In order: what asked for the restart must be there until nothing else is.
                if let Err(e) = runtime.remove_container(&container.id).await {
                    tracing::warn!("removing container {}: {e}", container.id);
                    tokio::time::sleep(RETRY_DELAY).await;
                    break;
                }
                removed.push(container.id);
            }
            TaskResult::Reset(removed)
        });
    }

    /// Forgets removed containers but for the number of their next attempt.
    pub(super) fn was_reset(&mut self, removed: &[String]) {
        self.in_flight.reset = false;
        let is_removed = |i: &Instance| removed.contains(&i.id);
        for (name, attempts) in &mut self.instances {
            if let Some(last) = attempts.last().filter(|i| is_removed(i)) {
                self.resets.insert(name.clone(), last.attempt + 1);
                self.waiting.remove(name);
                self.retry_at.remove(name);
            }
            attempts.retain(|i| !is_removed(i));
        }
        self.instances.retain(|_, attempts| !attempts.is_empty());
    }
}
