//! Stops one container: `preStop` hook, stop signal, then SIGKILL.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkube_runtime::Runtime;

use super::handlers::Outcome;
use super::start::run_hook;
use crate::kinds::*;
use crate::recorder::Recorder;
use crate::recorder::Severity::{Normal, Warning};

/// Minimum time between the `preStop` hook and SIGKILL, in seconds (the kubelet's).
const MIN_GRACE_SECONDS: u64 = 2;

/// A request to stop one container.
pub(crate) struct Killing {
    pub runtime: Runtime,
    pub recorder: Recorder,
    pub pod: Arc<Pod>,
    pub name: String,
    pub id: String,
    pub ip: Option<IpAddr>,
    /// Grace period in seconds, shared by the hook and the signal.
    pub grace: i64,
    /// Message of the `Killing` event; `None` selects the default message.
    pub message: Option<String>,
    /// Whether an earlier request is in progress: only the signal is repeated, with a shorter grace
    /// period.
    pub again: bool,
}

impl Killing {
    /// Stops the container; returns once it has exited.
    pub(crate) async fn run(self) {
        let grace = u64::try_from(self.grace).unwrap_or(0);
        let began = Instant::now();
        if !self.again {
            let message = self
                .message
                .clone()
                .unwrap_or_else(|| format!("Stopping container {}", self.name));
            self.recorder
                .container(&self.pod, &self.name, Normal, "Killing", message);
            self.pre_stop(Duration::from_secs(grace)).await;
        }
        let rest = Duration::from_secs(grace)
            .saturating_sub(began.elapsed())
            .max(Duration::from_secs(MIN_GRACE_SECONDS.min(grace.max(1))));
        if let Err(e) = self.runtime.stop_container(&self.id, rest).await {
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
        let run = run_hook(&self.runtime, hook, &container, &self.id, self.ip, limit);
        let ended = self.runtime.wait_container(&self.id);
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(limit, run) => outcome,
            // If the container exits by itself, the hook is abandoned.
            _ = ended => return,
        };
        if let Ok(Outcome::Failure(message) | Outcome::Error(message)) = outcome {
            tracing::debug!(pod = %self.pod.full_name(), "preStop: {message}");
            self.recorder.container(
                &self.pod,
                &self.name,
                Warning,
                "FailedPreStopHook",
                "PreStopHook failed",
            );
        }
    }
}
