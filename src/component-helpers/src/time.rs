//! Arithmetic on points in time with numbers from objects.
//!
//! Users write these numbers, and validation allows any `int64`. The operators of [`Timestamp`],
//! [`SignedDuration`] and [`Instant`] panic on overflow, so such numbers must pass through the
//! functions below. They saturate: a deadline beyond the representable range never comes.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// The furthest point in time that timers are set to. Longer delays end here and are computed again.
const MAX_TIMER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Returns the time `seconds` after `at`, or before it for negative numbers.
///
/// Saturates at the first and last representable time.
pub fn add_seconds(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(if seconds < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
}

/// Returns the time `seconds` before `at`, or after it for negative numbers.
///
/// Saturates at the first and last representable time.
pub fn sub_seconds(at: Timestamp, seconds: i64) -> Timestamp {
    add_seconds(at, seconds.saturating_neg())
}

/// Returns the time from `now` until `seconds` after `since`, or zero if that has passed.
pub fn until(since: Timestamp, seconds: i64, now: Timestamp) -> Duration {
    let left = SignedDuration::from_secs(seconds).saturating_sub(now.duration_since(since));
    Duration::try_from(left).unwrap_or(Duration::ZERO)
}

/// Returns the time from `now` until `at`, or zero if that has passed.
pub fn until_time(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// Returns the delay that a timer can be set to: `delay`, but at most a year.
///
/// Clocks of the operating system cannot represent every [`Duration`]. Code that sets a timer must
/// be able to wake up too early, as is the case for work queues: they look at the object again.
pub fn timer(delay: Duration) -> Duration {
    delay.min(MAX_TIMER)
}

/// Returns the time `delay` after `at` to which a timer can be set (see [`timer`]).
pub fn instant_after(at: Instant, delay: Duration) -> Instant {
    at.checked_add(timer(delay)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn sums_saturate() {
        assert_eq!(add_seconds(at(10), 5), at(15));
        assert_eq!(sub_seconds(at(10), 5), at(5));
        assert_eq!(add_seconds(at(10), i64::MAX), Timestamp::MAX);
        assert_eq!(add_seconds(at(10), i64::MIN), Timestamp::MIN);
        assert_eq!(sub_seconds(at(10), i64::MIN), Timestamp::MAX);
    }

    #[test]
    fn what_has_passed_is_zero_away() {
        assert_eq!(until(at(0), 10, at(4)), Duration::from_secs(6));
        assert_eq!(until(at(0), 10, at(11)), Duration::ZERO);
        assert_eq!(until(at(0), i64::MIN, at(11)), Duration::ZERO);
        assert!(until(at(11), i64::MAX, at(0)) > MAX_TIMER);
        assert_eq!(until_time(at(5), at(3)), Duration::from_secs(2));
        assert_eq!(until_time(at(3), at(5)), Duration::ZERO);
    }

    #[test]
    fn any_delay_can_be_waited_for() {
        let now = Instant::now();
        assert_eq!(
            instant_after(now, Duration::from_secs(1)) - now,
            Duration::from_secs(1)
        );
        assert_eq!(instant_after(now, Duration::MAX) - now, MAX_TIMER);
    }

    proptest! {
        #[test]
        fn arithmetic_never_panics(since in -377705023201i64..=253402207200, now in -377705023201i64..=253402207200, seconds: i64) {
            let (since, now) = (at(since), at(now));
            let left = until(since, seconds, now);
            prop_assert_eq!(left.is_zero(), add_seconds(since, seconds) <= now || left.is_zero());
            instant_after(Instant::now(), left);
            sub_seconds(since, seconds);
        }
    }
}
