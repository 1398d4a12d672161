//! Stopping one container: `preStop`, the stop signal, and at last SIGKILL.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handlers::Outcome;
use super::start::hook_runs;
use crate::agent::Agent;
use crate::kinds::*;
use crate::recorder::Severity::{Normal, Warning};

/// What a container gets at least after its hook, in seconds.
const LEAST: u64 = 2;

pub(crate) struct Killing {
    pub agent: Arc<Agent>,
    pub pod: Arc<Pod>,
    pub name: String,
    pub id: String,
    pub ip: Option<IpAddr>,
    /// Seconds in all.
    pub grace: i64,
    /// Why, for the event.
    pub message: Option<String>,
    /// Whether the hook has run already and only the signal is repeated, with less grace.
    pub again: bool,
}

impl Killing {
    /// Returns when the container has exited.
    pub(crate) async fn run(self) {
        let grace = u64::try_from(self.grace).unwrap_or(0);
        let began = Instant::now();
        if !self.again {
            let message = self
                .message
                .clone()
                .unwrap_or_else(|| format!("Stopping container {}", self.name));
            self.agent
                .recorder
                .container(&self.pod, &self.name, Normal, "Killing", message);
            self.pre_stop(Duration::from_secs(grace)).await;
        }
        let rest = Duration::from_secs(grace)
            .saturating_sub(began.elapsed())
            .max(Duration::from_secs(LEAST.min(grace.max(1))));
        if let Err(e) = self.agent.runtime.stop_container(&self.id, rest).await {
            tracing::warn!("stopping container {}: {e}", self.id);
        }
    }

    async fn pre_stop(&self, limit: Duration) {
        let Some(container) = self.pod.container(&self.name) else {
            return;
        };
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|l| l.pre_stop.as_ref());
        let Some(hook) = hook.filter(|_| !limit.is_zero()) else {
            return;
        };
        let run = hook_runs(&self.agent, hook, &container, &self.id, self.ip, limit);
        let ended = self.agent.runtime.wait_container(&self.id);
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(limit, run) => outcome,
            // A container that goes by itself needs no more of the hook.
            _ = ended => return,
        };
        if let Ok(Outcome::Failure(message) | Outcome::Error(message)) = outcome {
            tracing::debug!(pod = %self.pod.full_name(), "preStop: {message}");
            self.agent.recorder.container(
                &self.pod,
                &self.name,
                Warning,
                "FailedPreStopHook",
                "PreStopHook failed",
            );
        }
    }
}
