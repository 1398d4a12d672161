//! Reconnection to a cluster whose nodes are stopped, restarted or restored.

use std::time::Duration;

/// The time to wait after the API server did not respond.
pub(super) const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// The time in which the API server does not respond.
#[derive(Default)]
pub(super) struct Outage {
    /// Whether it was reported.
    told: bool,
}

impl Outage {
    /// Registers a failure of the watch, which is retried. Returns what to report: only the first
    /// failure, because the nodes may stay stopped for long.
    pub fn begin(&mut self, profile: &str) -> Option<String> {
        (!std::mem::replace(&mut self.told, true)).then(|| {
            format!("the cluster '{profile}' does not respond; the tunnel works again once it runs")
        })
    }
}
