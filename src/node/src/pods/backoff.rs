//! Exponential back-off: 10 s, doubled up to 5 min, reset 10 min after the last attempt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// First delay.
pub(crate) const INITIAL: Duration = Duration::from_secs(10);
/// Maximum delay.
pub(crate) const MAX: Duration = Duration::from_secs(300);

/// Current delay of a key and the time of its last attempt.
#[derive(Clone, Copy, Debug)]
struct Entry {
    pause: Duration,
    updated: Instant,
}

/// Back-off per key, as in client-go's `flowcontrol.Backoff`.
///
/// A delay begins with the *event* (a container's exit, a failed pull), not when the event is
/// observed.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// Returns the length and the end of the delay that began with `event`; `None` if it has passed
    /// or expired.
    pub(crate) fn holds(
        &self,
        key: &str,
        event: Instant,
        now: Instant,
    ) -> Option<(Duration, Instant)> {
        let entry = self.entries.get(key)?;
        if expired(event, entry.updated) {
            return None;
        }
        let until = event + entry.pause;
        (now < until).then_some((entry.pause, until))
    }

    /// Returns the end of the delay that began with the key's last attempt; `None` if it has
    /// passed.
    pub(crate) fn holds_since_update(&self, key: &str, now: Instant) -> Option<Instant> {
        let entry = self.entries.get(key)?;
        let until = entry.updated + entry.pause;
        (now < until).then_some(until)
    }

    /// Records an attempt after `event` and doubles the key's delay, up to [`MAX`].
    pub(crate) fn next(&mut self, key: &str, event: Instant, now: Instant) {
        let pause = match self.entries.get(key) {
            Some(e) if !expired(event, e.updated) => (e.pause * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(
            key.to_owned(),
            Entry {
                pause,
                updated: now,
            },
        );
    }

    /// Resets a key: its next delay is [`INITIAL`].
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Returns whether a key has a delay, which may have passed but not expired.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Removes entries that have expired.
    pub(crate) fn collect(&mut self, now: Instant) {
        self.entries.retain(|_, e| !expired(now, e.updated));
    }
}

fn expired(event: Instant, updated: Instant) -> bool {
    event.saturating_duration_since(updated) > MAX * 2
}

/// Formats a duration as Go's `Duration.String` does, in whole seconds: `10s`, `2m40s`, `5m0s`.
pub(crate) fn go_duration(d: Duration) -> String {
    let s = d.as_secs();
    match (s / 3600, s % 3600 / 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// Formats a duration in the style of Go's `Duration.String`: `1.234s`, `56ms`.
pub(crate) fn go_duration_fine(d: Duration) -> String {
    let ns = d.as_nanos();
    let trim = |v: f64, digits: usize, unit: &str| {
        let text = format!("{v:.digits$}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{unit}")
    };
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => trim(ns as f64 / 1e3, 3, "µs"),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        1_000_000_000..60_000_000_000 => trim(ns as f64 / 1e9, 3, "s"),
        _ => {
            let minutes = ns / 60_000_000_000;
            let rest = (ns % 60_000_000_000) as f64 / 1e9;
            format!("{minutes}m{}", trim(rest, 3, "s"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *START + Duration::from_secs(s)
    }

    #[test]
    fn doubles_up_to_five_minutes_and_forgets() {
        let mut b = Backoff::default();
        assert!(b.holds("k", at(0), at(0)).is_none());
        let mut t = 0;
        for want in [10, 20, 40, 80, 160, 300, 300] {
            b.next("k", at(t), at(t));
            let (pause, until) = b.holds("k", at(t), at(t)).unwrap();
            assert_eq!((pause.as_secs(), until), (want, at(t + want)));
            assert!(b.holds("k", at(t), at(t + want)).is_none());
            t += want;
        }
        // The back-off of a container that ran for more than ten minutes is reset.
        assert!(b.holds("k", at(t + 601), at(t + 601)).is_none());
        b.next("k", at(t + 601), at(t + 601));
        assert_eq!(b.holds("k", at(t + 601), at(t + 601)).unwrap().0, INITIAL);
    }

    #[test]
    fn prints_durations_as_go_does() {
        let s = Duration::from_secs;
        assert_eq!(go_duration(s(10)), "10s");
        assert_eq!(go_duration(s(160)), "2m40s");
        assert_eq!(go_duration(s(300)), "5m0s");
        let ms = Duration::from_millis;
        assert_eq!(go_duration_fine(ms(56)), "56ms");
        assert_eq!(go_duration_fine(ms(100)), "100ms");
        assert_eq!(go_duration_fine(ms(1234)), "1.234s");
        assert_eq!(go_duration_fine(ms(61_500)), "1m1.5s");
    }

    #[test]
    fn the_event_counts_and_not_its_observation() {
        let mut b = Backoff::default();
        b.next("k", at(100), at(130));
        // The container ended at 100; ten seconds later it may start.
        assert!(b.holds("k", at(100), at(109)).is_some());
        assert!(b.holds("k", at(100), at(110)).is_none());
        // The back-off of a pull starts with the pull itself.
        assert_eq!(b.holds_since_update("k", at(139)), Some(at(140)));
        assert_eq!(b.holds_since_update("k", at(140)), None);
        assert_eq!(b.holds_since_update("other", at(0)), None);
    }

    #[test]
    fn entries_are_forgotten() {
        let mut b = Backoff::default();
        b.next("a", at(0), at(0));
        b.next("b", at(0), at(0));
        b.reset("a");
        assert!(b.holds("a", at(0), at(1)).is_none());
        b.collect(at(600));
        assert!(b.knows("b"), "ten minutes are not over");
        b.collect(at(601));
        assert!(!b.knows("b"));
    }

    #[test]
    fn long_durations_have_hours() {
        let s = Duration::from_secs;
        assert_eq!(go_duration(s(0)), "0s");
        assert_eq!(go_duration(s(3600)), "1h0m0s");
        assert_eq!(go_duration(s(3725)), "1h2m5s");
        let us = Duration::from_micros;
        assert_eq!(go_duration_fine(us(12)), "12µs");
        assert_eq!(go_duration_fine(us(1_500_000)), "1.5s");
        assert_eq!(go_duration_fine(us(60_000_000)), "1m0s");
    }
}
