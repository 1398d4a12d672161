//! Results and durations of running probes, for `/metrics/probes`.

use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

/// Upper bounds of the histogram's buckets in seconds: Prometheus' defaults.
pub(crate) const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The labels of a probe in the kubelet's metrics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub container: String,
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    /// `Liveness`, `Readiness` or `Startup`.
    pub kind: &'static str,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Successful,
    Failed,
    Unknown,
}

/// Results and durations of one probe.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub successful: u64,
    pub failed: u64,
    pub unknown: u64,
    /// Number of results by duration, the last for durations above all bounds.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Sum of the durations.
    pub seconds: f64,
    /// Number of the durations.
    pub timed: u64,
}

impl Counts {
    /// Counts a result. As in the kubelet, the durations of failures are not observed.
    pub(crate) fn observe(&mut self, outcome: Outcome, seconds: f64) {
        match outcome {
            Outcome::Successful => self.successful += 1,
            Outcome::Unknown => self.unknown += 1,
            Outcome::Failed => {
                self.failed += 1;
                return;
            }
        }
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BUCKETS.len())] += 1;
        self.seconds += seconds;
        self.timed += 1;
    }
}

type Entry = Arc<(Series, Mutex<Counts>)>;

/// The probes that run, in the order of their start.
static RUNNING: LazyLock<Mutex<Vec<Entry>>> = LazyLock::new(Mutex::default);

/// The counts of a running probe. They disappear from the page when it is dropped.
pub(crate) struct Counter(Entry);

impl Counter {
    /// Starts to count the results of a probe.
    pub(crate) fn start(series: Series) -> Self {
        let entry: Entry = Arc::new((series, Mutex::default()));
        RUNNING.lock().push(entry.clone());
        Self(entry)
    }

    /// Counts a result.
    pub(crate) fn observe(&self, outcome: Outcome, seconds: f64) {
        self.0.1.lock().observe(outcome, seconds);
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        RUNNING.lock().retain(|entry| !Arc::ptr_eq(entry, &self.0));
    }
}

/// Returns the counts of all running probes.
pub(crate) fn all() -> Vec<(Series, Counts)> {
    let running = RUNNING.lock();
    let counts = running.iter();
    counts
        .map(|entry| (entry.0.clone(), entry.1.lock().clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_last_as_long_as_their_probe() {
        let series = Series {
            container: "counted".into(),
            namespace: "n".into(),
            pod: "p".into(),
            pod_uid: "u".into(),
            kind: "Startup",
        };
        let found = || all().into_iter().find(|(found, _)| *found == series);
        let counter = Counter::start(series.clone());
        counter.observe(Outcome::Unknown, 0.5);
        assert_eq!(found().unwrap().1.unknown, 1);
        drop(counter);
        assert_eq!(found(), None);
    }
}
