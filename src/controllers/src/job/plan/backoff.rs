//! The back-off before a job creates pods again after a failure.

use std::time::Duration;

use jiff::Timestamp;

use crate::common::pods;

/// Back-off in seconds after the first failure; it doubles with each further one.
const FIRST_WAIT: i64 = 10;
/// Maximum back-off in seconds.
const LAST_WAIT: i64 = 600;

/// Failures since the last success, for the back-off before new pods are created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Number of consecutive failures.
    pub failures: u32,
    /// Time of the last failure.
    pub last: Option<Timestamp>,
}

impl Backoff {
    /// Returns the time until the next pod may be created.
    pub fn left(&self, now: Timestamp) -> Duration {
        wait(self.failures, self.last, now)
    }

    /// Counts newly terminated pods: when each ended, and whether it succeeded.
    pub(super) fn note(&mut self, mut news: Vec<(Option<Timestamp>, bool)>) {
        news.sort();
        for (at, success) in news {
            if success {
                *self = Self::default();
            } else {
                self.failures = self.failures.saturating_add(1);
                self.last = at.max(self.last);
            }
        }
    }
}

/// Returns the time until the next attempt after a number of failures.
pub(super) fn wait(failures: u32, last: Option<Timestamp>, now: Timestamp) -> Duration {
    match last {
        Some(last) if failures > 0 => {
            let seconds = FIRST_WAIT
                .saturating_mul(1 << (failures - 1).min(10))
                .min(LAST_WAIT);
            pods::until(last, seconds, now)
        }
        _ => Duration::ZERO,
    }
}
