//! Holds back the status while a container is restarted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum time that the status of a pod is held back after a container has ended.
///
/// The kubelet kills a container and starts it again in one step, and reports the result. Here the
/// status is only held back while the start is quick, so that clients are not sent to a container
/// that is missing for long.
const MAX_HOLD: Duration = Duration::from_secs(3);

/// The containers that are stopped to be started again.
#[derive(Default)]
pub(super) struct Restarting {
    /// Time at which the status of each is published anyway; `None` until it has ended.
    limits: HashMap<String, Option<Instant>>,
}

impl Restarting {
    /// A container is about to be stopped.
    pub(super) fn begin(&mut self, name: &str) {
        self.limits.insert(name.to_owned(), None);
    }

    /// A container was started again, or will not be for some time.
    pub(super) fn end(&mut self, name: &str) {
        self.limits.remove(name);
    }

    /// No container will be started again.
    pub(super) fn clear(&mut self) {
        self.limits.clear();
    }

    /// Returns until when the status is held back; `None` if it can be published. `is_running` returns
    /// whether a container runs.
    pub(super) fn held(
        &mut self,
        is_running: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Option<Instant> {
        let ended = self.limits.iter_mut().filter(|(name, _)| !is_running(name));
        let limits = ended.map(|(_, limit)| *limit.get_or_insert(now + MAX_HOLD));
        limits.filter(|limit| *limit > now).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_waits_for_a_quick_restart() {
        let mut restarting = Restarting::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (runs, ended) = (|_: &str| true, |_: &str| false);
        assert_eq!(restarting.held(ended, start), None);
        restarting.begin("a");
        assert_eq!(
            restarting.held(runs, at(30)),
            None,
            "it is still being stopped"
        );
        assert_eq!(restarting.held(ended, at(40)), Some(at(43)));
        assert_eq!(restarting.held(ended, at(42)), Some(at(43)));
        assert_eq!(restarting.held(ended, at(43)), None, "it takes too long");
        restarting.begin("a");
        assert_eq!(restarting.held(ended, at(50)), Some(at(53)));
        restarting.end("a");
        assert_eq!(restarting.held(ended, at(50)), None);
        restarting.begin("a");
        restarting.clear();
        assert_eq!(restarting.held(ended, at(60)), None);
    }
}
