//! Delays between attempts, and waits for a time of day.
//!
//! Delays are measured by the monotonic clock ([`Instant`]), which steps of the time of day do not
//! disturb. What expires at a time of day is waited for with [`until`], because the monotonic clock
//! stands still while the machine sleeps.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Interval at which [`until`] reads the time of day.
const CLOCK_CHECK_PERIOD: Duration = Duration::from_secs(60);

/// Returns the delay after a number of failures: `initial`, doubled with each one, at most `max`.
pub(crate) fn doubled(initial: Duration, failures: u32, max: Duration) -> Duration {
    let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    initial.saturating_mul(factor).min(max)
}

/// Returns the time of an event by the monotonic clock; now for an event in the future, which a step
/// of the time of day has put there.
pub(crate) fn instant(event: Timestamp) -> Instant {
    let now = Instant::now();
    let age = Timestamp::now().duration_since(event);
    let age = Duration::try_from(age).unwrap_or_default();
    now.checked_sub(age).unwrap_or(now)
}

/// Returns how long it is until a time of day; zero if it has passed.
pub(crate) fn time_until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default()
}

/// Waits for a time of day; at most a minute late after the machine has slept.
pub(crate) async fn until(due: Timestamp) {
    while let Some(rest) = next_look(due, Timestamp::now()) {
        tokio::time::sleep(rest).await;
    }
}

/// Returns when to look at the time of day again; `None` once `due` has passed.
fn next_look(due: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = time_until(due, now);
    (!left.is_zero()).then(|| left.min(CLOCK_CHECK_PERIOD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_looked_at_every_minute() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let look = |now| next_look(at(18_000), at(now)).map(|rest| rest.as_secs());
        assert_eq!(look(0), Some(60));
        assert_eq!(look(17_970), Some(30));
        assert_eq!(look(18_000), None);
        // The machine has slept for eight hours.
        assert_eq!(look(28_800), None);
    }

    #[test]
    fn events_of_the_future_are_now() {
        let hour = jiff::SignedDuration::from_hours(1);
        let before = Instant::now();
        assert!(instant(Timestamp::now() + hour) >= before);
        let past = instant(Timestamp::now() - hour);
        assert!(before.duration_since(past) > Duration::from_secs(3500));
    }

    #[test]
    fn delays_double_up_to_a_maximum() {
        let ms = Duration::from_millis;
        let delays = [0, 1, 2, 8, 9, 31, 32, u32::MAX].map(|n| doubled(ms(75), n, ms(30_000)));
        let expected = [75, 150, 300, 19_200, 30_000, 30_000, 30_000, 30_000];
        assert_eq!(delays, expected.map(ms));
    }
}
