//! CPU usage of control groups over a rolling window.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rkube_runtime::Stats;

/// The length that a window should have at least.
const WINDOW: SignedDuration = SignedDuration::from_secs(10);
/// The length that a window must have.
const SHORTEST: SignedDuration = SignedDuration::from_millis(100);
/// Maximum age of a measurement.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);

/// A measurement of cumulative CPU time in nanoseconds.
type Measurement = (Timestamp, u64);

/// The measurements of the last minute, by control group. They are only made by requests.
#[derive(Default)]
pub(crate) struct Rates {
    seen: Mutex<HashMap<String, Vec<Measurement>>>,
}

impl Rates {
    /// Returns whether there is no recent measurement of a group.
    pub(super) fn lacks(&self, group: &str, now: Timestamp) -> bool {
        let seen = self.seen.lock();
        let recent = seen.get(group).and_then(|all| all.last());
        recent.is_none_or(|(at, _)| now.duration_since(*at) > MAX_AGE)
    }

    /// Records a measurement. Returns the usage in billionths of a core since an earlier one.
    pub(super) fn note(&self, group: &str, stats: &Stats) -> Option<u64> {
        let mut seen = self.seen.lock();
        let all = seen.entry(group.to_owned()).or_default();
        // The group may have been created again.
        if all.iter().any(|(_, cpu)| *cpu > stats.cpu_ns) {
            all.clear();
        }
        all.retain(|(at, _)| {
            let age = stats.timestamp.duration_since(*at);
            age >= SignedDuration::ZERO && age <= MAX_AGE
        });
        let age = |(at, _): &&Measurement| stats.timestamp.duration_since(*at);
        let first = all
            .iter()
            .rev()
            .find(|m| age(m) >= WINDOW)
            .or_else(|| all.iter().find(|m| age(m) >= SHORTEST));
        let rate = first.map(|(at, cpu)| {
            let window = stats.timestamp.duration_since(*at).as_secs_f64();
            ((stats.cpu_ns - cpu) as f64 / window) as u64
        });
        let is_new = all
            .last()
            .is_none_or(|(at, _)| stats.timestamp.duration_since(*at) >= SHORTEST);
        if is_new {
            all.push((stats.timestamp, stats.cpu_ns));
        }
        rate
    }

    /// Forgets the groups that were not measured lately.
    pub(super) fn forget(&self, now: Timestamp) {
        let is_recent =
            |all: &Vec<Measurement>| all.iter().any(|(at, _)| now.duration_since(*at) <= MAX_AGE);
        self.seen.lock().retain(|_, all| is_recent(all));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(ms: i64, cpu_ns: u64) -> Stats {
        Stats {
            timestamp: Timestamp::from_millisecond(ms).unwrap(),
            cpu_ns,
            ..Stats::default()
        }
    }

    #[test]
    fn rates_need_an_earlier_measurement() {
        let rates = Rates::default();
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        assert!(rates.lacks("/a", at(0)));
        assert_eq!(rates.note("/a", &stats(0, 0)), None);
        assert!(!rates.lacks("/a", at(1)));
        assert_eq!(rates.note("/a", &stats(50, 1000)), None);
        assert_eq!(rates.note("/a", &stats(200, 20_000_000)), Some(100_000_000));
        assert_eq!(rates.note("/a", &stats(5000, 20_000_000)), Some(4_000_000));
        // The newest measurement that is ten seconds old.
        assert_eq!(
            rates.note("/a", &stats(15_000, 5_020_000_000)),
            Some(500_000_000)
        );
        // The counters of a restarted container begin at zero.
        assert_eq!(rates.note("/a", &stats(16_000, 5)), None);
        assert_eq!(rates.note("/a", &stats(90_000, 6)), None);
        rates.forget(at(160_000));
        assert!(rates.lacks("/a", at(160_000)));
        assert!(rates.seen.lock().is_empty());
    }
}
