//! Exponential back-off.

use std::time::Duration;

/// A delay that doubles with every failure, up to a maximum.
///
/// Reads neither a clock nor random numbers: callers add the delay to their clock's time and pass
/// the random number for the jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    jitter: f64,
}

impl Backoff {
    /// Returns a back-off from `initial` up to `max`, without jitter.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            jitter: 0.0,
        }
    }

    /// Sets the jitter: the maximum fraction of a delay that is added at random. It must not be
    /// negative.
    pub const fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// Returns the delay after `failures` earlier failures, without jitter: the initial delay for
    /// 0, twice that for 1.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let delay = self.initial.checked_mul(factor).unwrap_or(self.max);
        delay.min(self.max)
    }

    /// Adds jitter to a delay. `random` must be in the range `0.0..1.0`.
    pub fn jitter(&self, delay: Duration, random: f64) -> Duration {
        delay.mul_f64(1.0 + self.jitter * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1000));
        for (failures, millis) in [(0, 5), (1, 10), (3, 40), (17, 655_360), (18, 1_000_000)] {
            assert_eq!(backoff.delay(failures), Duration::from_millis(millis));
        }
        assert_eq!(backoff.delay(40), Duration::from_secs(1000));
        assert_eq!(backoff.delay(u32::MAX), Duration::from_secs(1000));
    }

    #[test]
    fn jitter_is_added_in_proportion() {
        let second = Duration::from_secs(1);
        let plain = Backoff::new(second, second);
        assert_eq!(plain.jitter(second, 0.5), second);
        let jittered = plain.with_jitter(0.1);
        assert_eq!(jittered.jitter(second, 0.0), second);
        assert_eq!(jittered.jitter(second, 0.5), Duration::from_millis(1050));
    }
}
