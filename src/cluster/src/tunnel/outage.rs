//! Reconnection to a cluster whose nodes are stopped, restarted or restored.

use std::time::Duration;

use kube::runtime::watcher;

/// The time to wait after the API server did not respond.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// The time in which the API server does not respond.
#[derive(Default)]
pub(super) struct Outage {
    /// Whether it was reported.
    told: bool,
    /// When to try again.
    retry: Option<tokio::time::Instant>,
}

impl Outage {
    /// Registers a failure of the watch, which is retried later. Returns what to report: only the
    /// first failure, because the nodes may stay stopped for long.
    pub fn begin(&mut self, e: &watcher::Error, profile: &str) -> Option<String> {
        self.retry = Some(tokio::time::Instant::now() + RETRY_PERIOD);
        // After a restore, the cluster does not know the revision of the watch. The watcher lists
        // the services again.
        let is_expired = match e {
            watcher::Error::WatchError(status)
            | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
            _ => false,
        };
        if is_expired || std::mem::replace(&mut self.told, true) {
            return None;
        }
        Some(format!(
            "the cluster '{profile}' does not respond; the tunnel works again once it runs"
        ))
    }

    /// Waits until it is time to try again, and then for `next`.
    pub async fn over<T>(&mut self, next: impl Future<Output = T>) -> T {
        if let Some(retry) = self.retry {
            tokio::time::sleep_until(retry).await;
            self.retry = None;
        }
        next.await
    }
}
