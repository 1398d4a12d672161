//! Thresholds, and which of them call for action.

use std::time::{Duration, Instant};

use rkube_api::quantity::Format;

use super::types::{Observation, Observations, Signal, format_amount};
use crate::pressure::Pressure;

/// Time that a pressure condition remains after the pressure has ended (the kubelet's default).
const TRANSITION_PERIOD: Duration = Duration::from_secs(300);

/// An absolute amount, or a share of the capacity in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    Quantity(u64),
    Percent(f64),
}

impl Amount {
    /// Returns the amount for a capacity.
    pub(crate) fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Quantity(amount) => amount,
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

/// The least that should be available of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub signal: Signal,
    pub value: Amount,
    /// Duration of a shortage before pods are evicted; zero for hard thresholds.
    pub grace: Duration,
    /// Additional amount that must become available before the shortage counts as over.
    pub min_reclaim: Option<Amount>,
}

impl Threshold {
    const fn hard(signal: Signal, value: Amount) -> Self {
        Self {
            signal,
            value,
            grace: Duration::ZERO,
            min_reclaim: None,
        }
    }

    /// Returns whether pods are evicted at once.
    pub(crate) fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// Returns whether less is available than should be; with `after`, whether a shortage goes on.
    fn met(&self, observed: Observation, after: bool) -> bool {
        let mut wanted = self.value.of(observed.capacity);
        if let Some(more) = self.min_reclaim.filter(|_| after) {
            wanted = wanted.saturating_add(more.of(observed.capacity));
        }
        wanted > observed.available
    }

    /// Returns the value in the notation of the kubelet's configuration.
    pub(crate) fn value_text(&self) -> String {
        match self.value {
            Amount::Quantity(amount) => format_amount(amount, Format::BinarySi),
            Amount::Percent(percent) => format!("{percent}%"),
        }
    }
}

/// The hard thresholds of a node.
///
/// That of memory is the kubelet's default. Those of disks are absolute and smaller: the node
/// shares the user's disk, which may be nearly full without any need to evict pods. The kubelet has
/// no default for process IDs; here a pod that uses them up would stop the whole machine.
pub(crate) const HARD: [Threshold; 6] = [
    Threshold::hard(Signal::MemoryAvailable, Amount::Quantity(100 << 20)),
    Threshold::hard(Signal::NodeFsAvailable, Amount::Quantity(1 << 30)),
    Threshold::hard(Signal::NodeFsInodesFree, Amount::Percent(1.0)),
    Threshold::hard(Signal::ImageFsAvailable, Amount::Quantity(1 << 30)),
    Threshold::hard(Signal::ImageFsInodesFree, Amount::Percent(1.0)),
    Threshold::hard(Signal::PidAvailable, Amount::Percent(1.0)),
];

/// Returns the hard threshold of a signal for a capacity; 0 if it has none.
pub(crate) fn reserved(signal: Signal, capacity: u64) -> u64 {
    let threshold = HARD.iter().find(|t| t.signal == signal);
    threshold.map_or(0, |t| t.value.of(capacity))
}

/// Returns the thresholds that are met, in the order in which shortages are relieved.
///
/// `after` asks whether shortages that were there before go on.
pub(super) fn met(
    thresholds: &[Threshold],
    observations: &Observations,
    after: bool,
) -> Vec<Threshold> {
    let observed = |t: &&Threshold| {
        observations
            .get(&t.signal)
            .is_some_and(|o| t.met(*o, after))
    };
    let mut met: Vec<Threshold> = thresholds.iter().filter(observed).copied().collect();
    met.sort_by_key(|t| t.signal);
    met
}

/// Returns how much less is available than the threshold wants.
pub(super) fn shortage(threshold: &Threshold, observations: &Observations) -> u64 {
    observations.get(&threshold.signal).map_or(0, |observed| {
        let wanted = threshold.value.of(observed.capacity);
        wanted.saturating_sub(observed.available)
    })
}

/// Returns the amounts of a threshold that is met, for messages.
pub(super) fn amounts(
    threshold: &Threshold,
    observations: &Observations,
) -> Option<(String, String)> {
    let observed = observations.get(&threshold.signal)?;
    let quantity = threshold.value.of(observed.capacity);
    Some((
        format_amount(quantity, Format::BinarySi),
        format_amount(observed.available, threshold.signal.format()),
    ))
}

/// The history of observations, and the thresholds that it makes due.
pub(super) struct Tracker {
    thresholds: Vec<Threshold>,
    /// The thresholds that are met, and since when.
    since: Vec<(Threshold, Instant)>,
    /// The thresholds that called for action at the last observation.
    due: Vec<Threshold>,
    /// Time of the last observation of each condition.
    last: Vec<(Pressure, Instant)>,
}

impl Tracker {
    pub(super) fn new(thresholds: &[Threshold]) -> Self {
        Self {
            thresholds: thresholds.to_vec(),
            since: Vec::new(),
            due: Vec::new(),
            last: Vec::new(),
        }
    }

    /// Takes new observations. Returns the node's conditions, and the thresholds that call for
    /// action, most urgent first.
    pub(super) fn update(
        &mut self,
        observations: &Observations,
        now: Instant,
    ) -> (Pressure, Vec<Threshold>) {
        let mut current = met(&self.thresholds, observations, false);
        for threshold in met(&self.due, observations, true) {
            if !current.contains(&threshold) {
                current.push(threshold);
            }
        }
        current.sort_by_key(|t| t.signal);
        let since = |threshold: &Threshold| {
            let known = self.since.iter().find(|(t, _)| t == threshold);
            known.map_or(now, |(_, since)| *since)
        };
        self.since = current.iter().map(|t| (*t, since(t))).collect();
        for condition in current.iter().map(|t| t.signal.condition()) {
            self.last.retain(|(known, _)| *known != condition);
            self.last.push((condition, now));
        }
        self.last
            .retain(|(_, at)| now.duration_since(*at) < TRANSITION_PERIOD);
        let conditions = self
            .last
            .iter()
            .fold(Pressure::default(), |all, (condition, _)| {
                all.or(*condition)
            });
        let lasts = |(t, since): &&(Threshold, Instant)| now.duration_since(*since) >= t.grace;
        self.due = self.since.iter().filter(lasts).map(|(t, _)| *t).collect();
        (conditions, self.due.clone())
    }

    /// Returns whether no threshold is met any more, after something was reclaimed.
    pub(super) fn relieved(&self, observations: &Observations) -> bool {
        met(&self.thresholds, observations, true).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn seen(all: &[(Signal, u64, u64)]) -> Observations {
        let observation = |&(signal, available, capacity)| {
            let observation = Observation {
                available,
                capacity,
            };
            (signal, observation)
        };
        all.iter().map(observation).collect()
    }

    /// Cases of upstream's `TestThresholdsMet`.
    #[test]
    fn less_than_the_threshold_and_what_must_be_reclaimed() {
        let mut threshold = Threshold::hard(Signal::MemoryAvailable, Amount::Quantity(GIB));
        threshold.min_reclaim = Some(Amount::Quantity(500 * MIB));
        for (available, after, expected) in [
            (500 * MIB, false, true),
            (2 * GIB, false, false),
            (GIB + GIB / 20, true, true),
            (GIB + GIB / 20, false, false),
            (2 * GIB, true, false),
        ] {
            let seen = seen(&[(Signal::MemoryAvailable, available, 4 * GIB)]);
            assert_eq!(
                !met(&[threshold], &seen, after).is_empty(),
                expected,
                "{available}"
            );
        }
        assert_eq!(met(&[threshold], &Observations::new(), false), []);
        assert_eq!(
            met(&[], &seen(&[(Signal::MemoryAvailable, 0, 1)]), false),
            []
        );
    }

    /// Cases of upstream's `TestPercentageThresholdsMet`.
    #[test]
    fn percentages_are_of_the_capacity() {
        let mut memory = Threshold::hard(Signal::MemoryAvailable, Amount::Percent(20.0));
        memory.min_reclaim = Some(Amount::Percent(5.0));
        let disk = Threshold::hard(Signal::NodeFsAvailable, Amount::Percent(30.0));
        for (memory_mib, disk_gib, after, expected) in [
            (100, 100, false, vec![memory, disk]),
            (300, 400, false, vec![]),
            (300, 100, false, vec![disk]),
            (100, 400, false, vec![memory]),
            (225, 400, true, vec![memory]),
            (300, 400, true, vec![]),
        ] {
            let seen = seen(&[
                (Signal::MemoryAvailable, memory_mib * MIB, 1000 * MIB),
                (Signal::NodeFsAvailable, disk_gib * GIB, 1000 * GIB),
            ]);
            assert_eq!(met(&[disk, memory], &seen, after), expected);
        }
    }

    /// Cases of upstream's `TestSortByEvictionPriority`.
    #[test]
    fn memory_is_most_urgent() {
        let thresholds = [
            Threshold::hard(Signal::NodeFsAvailable, Amount::Percent(1.0)),
            Threshold::hard(Signal::PidAvailable, Amount::Percent(1.0)),
            Threshold::hard(Signal::MemoryAvailable, Amount::Percent(1.0)),
        ];
        let all = seen(&thresholds.map(|t| (t.signal, 0, 100)));
        let order: Vec<Signal> = met(&thresholds, &all, false)
            .iter()
            .map(|t| t.signal)
            .collect();
        assert_eq!(
            order,
            [
                Signal::MemoryAvailable,
                Signal::NodeFsAvailable,
                Signal::PidAvailable
            ]
        );
    }

    /// Upstream's `TestThresholdsMetGracePeriod` and `TestThresholdsFirstObservedAt`.
    #[test]
    fn soft_thresholds_wait() {
        let soft = Threshold {
            grace: Duration::from_secs(60),
            ..Threshold::hard(Signal::MemoryAvailable, Amount::Quantity(2 * GIB))
        };
        let hard = Threshold::hard(Signal::MemoryAvailable, Amount::Quantity(GIB));
        let mut tracker = Tracker::new(&[soft, hard]);
        let low = seen(&[(Signal::MemoryAvailable, GIB + 1, 4 * GIB)]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (conditions, due) = tracker.update(&low, at(0));
        assert!(conditions.memory, "a condition does not wait");
        assert_eq!(due, []);
        assert_eq!(tracker.update(&low, at(59)).1, []);
        assert_eq!(tracker.update(&low, at(60)).1, [soft]);
        // A pause restarts the grace period.
        let well = seen(&[(Signal::MemoryAvailable, 3 * GIB, 4 * GIB)]);
        assert_eq!(tracker.update(&well, at(61)).1, []);
        assert_eq!(tracker.update(&low, at(70)).1, []);
        let worse = seen(&[(Signal::MemoryAvailable, 1, 4 * GIB)]);
        assert_eq!(tracker.update(&worse, at(71)).1, [hard]);
    }

    #[test]
    fn conditions_last_one_by_one() {
        let mut tracker = Tracker::new(&HARD);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let memory = seen(&[(Signal::MemoryAvailable, 0, GIB)]);
        let disk = seen(&[(Signal::NodeFsInodesFree, 0, 1000)]);
        let shown = |p: Pressure| (p.memory, p.disk, p.pid);
        assert_eq!(
            shown(tracker.update(&memory, at(0)).0),
            (true, false, false)
        );
        assert_eq!(shown(tracker.update(&disk, at(200)).0), (true, true, false));
        assert_eq!(
            shown(tracker.update(&disk, at(300)).0),
            (false, true, false)
        );
        let nothing = Observations::new();
        assert_eq!(
            shown(tracker.update(&nothing, at(599)).0),
            (false, true, false)
        );
        assert_eq!(
            shown(tracker.update(&nothing, at(600)).0),
            (false, false, false)
        );
    }

    #[test]
    fn a_shortage_lasts_until_enough_is_reclaimed() {
        let threshold = Threshold {
            min_reclaim: Some(Amount::Quantity(GIB)),
            ..Threshold::hard(Signal::NodeFsAvailable, Amount::Quantity(GIB))
        };
        let mut tracker = Tracker::new(&[threshold]);
        let disk = |available| seen(&[(Signal::NodeFsAvailable, available, 100 * GIB)]);
        let now = Instant::now();
        assert_eq!(tracker.update(&disk(GIB + 1), now).1, []);
        assert_eq!(tracker.update(&disk(GIB - 1), now).1, [threshold]);
        assert_eq!(tracker.update(&disk(GIB + 1), now).1, [threshold]);
        assert!(!tracker.relieved(&disk(GIB + 1)));
        assert!(tracker.relieved(&disk(2 * GIB)));
        assert_eq!(tracker.update(&disk(2 * GIB), now).1, []);
    }

    #[test]
    fn the_defaults_read_as_in_the_kubelets_configuration() {
        let texts = HARD.map(|t| (t.signal.as_str(), t.value_text()));
        let texts: Vec<(&str, &str)> = texts.iter().map(|(s, v)| (*s, v.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("memory.available", "100Mi"),
                ("nodefs.available", "1Gi"),
                ("nodefs.inodesFree", "1%"),
                ("imagefs.available", "1Gi"),
                ("imagefs.inodesFree", "1%"),
                ("pid.available", "1%"),
            ]
        );
        assert_eq!(reserved(Signal::MemoryAvailable, GIB), 100 * MIB);
    }
}
