//! The devices and claims of a pod: before its volumes are set up, and after its containers stopped.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::admission;
use super::super::context::PodContext;
use super::super::reason::Reason;
use super::state::{TaskResult, Worker};
use crate::delay::doubled;
use crate::plugins::requests;
use crate::recorder::Severity::Warning;

/// First and longest delay before a driver is asked again to unprepare claims.
const UNPREPARE_DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Worker {
    /// Starts to allocate the pod's devices. Returns whether that is done.
    pub(super) fn allocate_devices(&mut self) -> bool {
        if !self.needs_devices {
            return true;
        }
        if self.in_flight.devices {
            return false;
        }
        let requests = requests(&self.pod);
        let plugins = self.context.plugins.clone();
        if !plugins.devices.concerns(&requests) {
            self.needs_devices = false;
            return true;
        }
        self.in_flight.devices = true;
        let (uid, cancel) = (self.uid().to_owned(), self.cancel.clone());
        self.spawn(async move {
            let result = tokio::select! {
                result = plugins.devices.allocate(&uid, &requests) => Some(result),
                () = cancel.cancelled() => None,
            };
            TaskResult::DevicesAllocated(result)
        });
        false
    }

    /// Fails the pod if its devices could not be allocated.
    pub(super) fn devices_allocated(&mut self, result: Option<Result<(), String>>) {
        self.in_flight.devices = false;
        let Some(result) = result else { return };
        self.needs_devices = false;
        if let Err(e) = result
            && self.failure.is_none()
        {
            let message = format!("Allocate failed due to {e}, which is unexpected");
            let rejection = Reason::new("UnexpectedAdmissionError", message);
            self.failure = Some(admission::failure(&rejection));
            self.context
                .recorder
                .pod(&self.pod, Warning, rejection.reason, rejection.message);
        }
    }
}

/// Has the drivers unprepare a pod's claims. Tries until they have, or the pod is removed by force:
/// then the node agent goes on, see [`crate::plugins`].
pub(super) async fn unprepare(context: &PodContext, uid: &str, gone: &CancellationToken) {
    let claims = &context.plugins.claims;
    let mut failures = 0;
    while claims.is_used_by(uid) {
        let Err(e) = claims.unprepare(uid).await else {
            return;
        };
        tracing::warn!(pod = uid, "unprepare dynamic resources: {e}");
        if gone.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(doubled(UNPREPARE_DELAY.0, failures, UNPREPARE_DELAY.1)) => {}
            () = gone.cancelled() => return,
        }
        failures += 1;
    }
}
