//! Computes the replica count that a metric requires, from the pods and their samples.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::api::core::v1::Pod;
use rkube_api::quantity::Quantity;
use rkube_component_helpers::time::add_seconds;

use crate::common::pods;

/// Tolerance of usage ratios around 1 that a behavior may override (upstream's default).
const TOLERANCE: f64 = 0.1;
/// Seconds after a pod's start during which a CPU sample must lie entirely after it became ready.
const CPU_WARM_UP: i64 = 300;
/// An unready pod whose readiness last changed within this many seconds after its start counts as
/// never having been ready.
const FIRST_READY: i64 = 30;

/// A usage sample of one pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Value in thousandths of the metric's unit.
    pub milli: i64,
    /// When the sample was taken.
    pub at: Timestamp,
    /// Length of the sampling window.
    pub window: SignedDuration,
}

/// Distances of a usage ratio above and below 1 up to which nothing is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    up: f64,
    down: f64,
}

impl Tolerances {
    /// Returns the tolerances of a behavior.
    pub fn of(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Self {
        let of = |rules: Option<&HPAScalingRules>| {
            rules
                .and_then(|rules| rules.tolerance.as_ref())
                .and_then(|text| Quantity::parse(&text.0).ok())
                .map_or(TOLERANCE, |quantity| quantity.as_f64())
        };
        Self {
            up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
            down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
        }
    }

    fn include(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// Pods grouped by whether their samples can be used.
#[derive(Debug, Default)]
pub struct Groups {
    /// Number of pods with a usable sample.
    pub ready: usize,
    /// Names of pods that are pending, or whose CPU sample is from their startup.
    pub unready: Vec<String>,
    /// Names of pods without a sample.
    pub missing: Vec<String>,
}

/// Groups the pods. Removes from `samples` those of pods that are unready, failed or being deleted.
pub fn group(
    all: &[Arc<Pod>],
    samples: &mut BTreeMap<String, Sample>,
    is_cpu: bool,
    now: Timestamp,
) -> Groups {
    let mut groups = Groups::default();
    for pod in all {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pods::is_deleting(pod) || pods::phase(pod) == "Failed" {
            samples.remove(&name);
            continue;
        }
        if pods::phase(pod) == "Pending" {
            samples.remove(&name);
            groups.unready.push(name);
            continue;
        }
        let Some(sample) = samples.get(&name) else {
            groups.missing.push(name);
            continue;
        };
        if is_cpu && !is_warm(pod, sample, now) {
            samples.remove(&name);
            groups.unready.push(name);
            continue;
        }
        groups.ready += 1;
    }
    groups
}

fn is_warm(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let start = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(start)) = (pods::condition(pod, "Ready"), start) else {
        return false;
    };
    let changed = ready
        .last_transition_time
        .as_ref()
        .map_or(start.0, |time| time.0);
    // The readiness of a pod on a lost node is unknown.
    let is_unready = ready.status == "False";
    if add_seconds(start.0, CPU_WARM_UP) > now {
        !is_unready && sample.at.duration_since(changed) >= sample.window
    } else {
        !is_unready || add_seconds(start.0, FIRST_READY) <= changed
    }
}

/// Returns the number of pods that run and are ready.
///
/// # Errors
///
/// Fails if there are no pods.
pub fn ready_count(all: &[Arc<Pod>]) -> Result<usize, String> {
    if all.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let is_counted = |pod: &&Arc<Pod>| pods::phase(pod) == "Running" && pods::is_ready(pod);
    Ok(all.iter().filter(is_counted).count())
}

/// The target value of a metric per pod.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Percentage of the pods' requests.
    Utilization(i32),
    /// Absolute value in thousandths.
    Average(i64),
}

/// The replica count proposed for one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// Proposed number of replicas.
    pub replicas: i32,
    /// Average usage per pod, in thousandths.
    pub average: i64,
    /// Average usage as a percentage of requests.
    pub utilization: Option<i32>,
}

fn clamped(amount: i128) -> i64 {
    amount.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Returns the usage's ratio to the target, the average and the utilization.
fn ratio(
    samples: &BTreeMap<String, i64>,
    requests: &BTreeMap<String, i64>,
    target: Target,
) -> Result<(f64, i64, Option<i32>), String> {
    match target {
        Target::Average(target) => {
            let sum: i128 = samples.values().copied().map(i128::from).sum();
            let average = clamped(sum / samples.len().max(1) as i128);
            Ok((average as f64 / target as f64, average, None))
        }
        Target::Utilization(target) => {
            let known = samples
                .iter()
                .filter_map(|(pod, used)| Some((used, requests.get(pod)?)));
            let (used, requested, count) =
                known.fold((0i128, 0i128, 0i128), |(a, b, count), (used, requested)| {
                    (a + i128::from(*used), b + i128::from(*requested), count + 1)
                });
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization =
                (used * 100 / requested).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            let average = clamped(used / count);
            let ratio = f64::from(utilization) / f64::from(target);
            Ok((ratio, average, Some(utilization)))
        }
    }
}

/// Computes the replica count for a per-pod metric.
///
/// Pods without samples are assumed to have values that make the change smaller: zero usage when
/// scaling up, at least the target when scaling down. `samples` are those that [`group`] has left.
///
/// # Errors
///
/// Returns a message if no ratio can be computed.
pub fn propose(
    current: i32,
    groups: &Groups,
    samples: &BTreeMap<String, Sample>,
    requests: &BTreeMap<String, i64>,
    target: Target,
    tolerances: Tolerances,
) -> Result<Proposal, String> {
    let mut used: BTreeMap<String, i64> = samples
        .iter()
        .map(|(pod, sample)| (pod.clone(), sample.milli))
        .collect();
    let (first, average, utilization) = ratio(&used, requests, target)?;
    let proposal = |replicas| Proposal {
        replicas,
        average,
        utilization,
    };
    let with_unready = !groups.unready.is_empty() && first > 1.0;
    if !with_unready && groups.missing.is_empty() {
        if tolerances.include(first) {
            return Ok(proposal(current));
        }
        return Ok(proposal((first * groups.ready as f64).ceil() as i32));
    }
    for pod in &groups.missing {
        let assumed = match target {
            _ if first > 1.0 => 0,
            _ if first >= 1.0 => break,
            Target::Average(target) => target,
            Target::Utilization(target) => {
                let request = requests.get(pod).copied().unwrap_or(0);
                clamped(i128::from(target.max(100)) * i128::from(request) / 100)
            }
        };
        used.insert(pod.clone(), assumed);
    }
    if with_unready {
        for pod in &groups.unready {
            used.insert(pod.clone(), 0);
        }
    }
    let (second, _, _) = ratio(&used, requests, target)?;
    if tolerances.include(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0)
    {
        return Ok(proposal(current));
    }
    let replicas = (second * used.len() as f64).ceil() as i32;
    if (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current) {
        return Ok(proposal(current));
    }
    Ok(proposal(replicas))
}

/// Computes the replica count for a metric whose value is to be kept at `wanted`; `ready` is the
/// number of ready pods. Amounts are in thousandths.
pub fn for_value(
    value: i64,
    wanted: i64,
    current: i32,
    ready: usize,
    tolerances: Tolerances,
) -> i32 {
    let ratio = value as f64 / wanted as f64;
    match current {
        0 => ratio.ceil() as i32,
        _ if tolerances.include(ratio) => current,
        _ => (ratio * ready as f64).ceil() as i32,
    }
}

/// Computes the replica count for a metric of which each pod is to have `each`. Returns the count
/// and the value per pod. Amounts are in thousandths.
pub fn for_average(value: i64, each: i64, replicas: i32, tolerances: Tolerances) -> (i32, i64) {
    let ratio = value as f64 / (each as f64 * f64::from(replicas));
    let proposed = if tolerances.include(ratio) {
        replicas
    } else {
        (value as f64 / each as f64).ceil() as i32
    };
    (proposed, (value as f64 / f64::from(replicas)).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    const NOW: i64 = 100_000;

    fn tolerances() -> Tolerances {
        Tolerances::of(None)
    }

    fn sampled(values: &[i64]) -> BTreeMap<String, Sample> {
        let sample = |milli| Sample {
            milli,
            at: at(NOW),
            window: SignedDuration::from_secs(60),
        };
        let named = values.iter().enumerate();
        named
            .map(|(index, milli)| (format!("p{index}"), sample(*milli)))
            .collect()
    }

    /// A pod of upstream's tests: `r`eady, `u`nready, `h`ot (just started), `f`ailed, `d`eleted or
    /// `p`ending.
    fn pods(kinds: &str) -> Vec<Arc<Pod>> {
        let make = |(index, kind): (usize, char)| {
            let phase = match kind {
                'f' => "Failed",
                'p' => "Pending",
                _ => "Running",
            };
            let start = if kind == 'h' { NOW - 10 } else { 50 };
            let mut pod = pod(&format!("p{index}"), "n", phase, Some(start));
            let status = pod.status.as_mut().unwrap();
            status.start_time = Some(Time(at(start)));
            if matches!(kind, 'u' | 'f' | 'p') {
                status.conditions.as_mut().unwrap()[0].status = "False".into();
            }
            if kind == 'd' {
                pod.metadata.deletion_timestamp = Some(Time(at(NOW)));
            }
            Arc::new(pod)
        };
        kinds.chars().enumerate().map(make).collect()
    }

    fn proposed(
        kinds: &str,
        current: i32,
        values: &[i64],
        requests: &[i64],
        target: Target,
    ) -> Result<Proposal, String> {
        let is_cpu = matches!(target, Target::Utilization(_));
        let mut samples = sampled(values);
        let groups = group(&pods(kinds), &mut samples, is_cpu, at(NOW));
        let named = requests.iter().enumerate();
        let requests = named.map(|(i, milli)| (format!("p{i}"), *milli)).collect();
        propose(current, &groups, &samples, &requests, target, tolerances())
    }

    /// Pods, current replicas, usage, target, expected replicas and utilization of upstream's
    /// `replica_calculator_test.go`. Every pod requests one core.
    #[test]
    fn utilization_as_upstream() {
        type Case = (&'static str, i32, &'static [i64], i32, i32, i32);
        let cases: [Case; 22] = [
            ("rrr", 3, &[300, 500, 700], 30, 5, 50),
            ("urr", 3, &[300, 500, 700], 30, 4, 60),
            ("hrr", 3, &[300, 500, 700], 30, 4, 60),
            ("ruu", 3, &[400, 500, 700], 30, 3, 40),
            ("rhh", 3, &[400, 500, 700], 30, 3, 40),
            ("rrff", 2, &[500, 700], 30, 4, 60),
            ("rrdd", 2, &[500, 700], 30, 4, 60),
            ("rrrrr", 5, &[100, 300, 500, 250, 250], 50, 3, 28),
            ("rrruu", 5, &[100, 300, 500, 250, 250], 50, 2, 30),
            ("rpppp", 5, &[100], 50, 1, 10),
            ("rrrhh", 5, &[100, 300, 500, 250, 250], 50, 2, 30),
            ("rrrrrff", 5, &[100, 300, 500, 250, 250], 50, 3, 28),
            ("rrrrrdd", 5, &[100, 300, 500, 250, 250], 50, 3, 28),
            (
                "rrrr",
                4,
                &[4000, 9500, 3000, 7000, 3200, 2000],
                100,
                24,
                587,
            ),
            ("rrrr", 4, &[400, 95], 100, 3, 24),
            ("rr", 2, &[1000], 100, 2, 100),
            ("rr", 2, &[1900], 100, 2, 190),
            ("rr", 2, &[600], 100, 2, 60),
            ("urr", 3, &[100, 450], 50, 3, 45),
            ("hrr", 3, &[100, 450], 50, 3, 45),
            ("urr", 3, &[100, 2000], 50, 4, 200),
            ("urrr", 4, &[100, 100, 100], 50, 3, 10),
        ];
        for (kinds, current, values, target, replicas, utilization) in cases {
            let requests = vec![1000; kinds.len()];
            let target = Target::Utilization(target);
            let found = proposed(kinds, current, values, &requests, target).unwrap();
            assert_eq!(
                (found.replicas, found.utilization),
                (replicas, Some(utilization)),
                "{kinds} {values:?}"
            );
        }
        let requests = [900, 1000, 1100];
        let target = Target::Utilization(100);
        let found = proposed("rrr", 3, &[1010, 1030, 1020], &requests, target).unwrap();
        assert_eq!((found.replicas, found.average), (3, 1020));
        // A rolling update with a surge pod.
        let target = Target::Utilization(50);
        let found = proposed("rrr", 2, &[100, 100], &[1000; 3], target).unwrap();
        assert_eq!(found.replicas, 2);
        let unknown = proposed("", 1, &[100], &[], Target::Utilization(100));
        assert_eq!(
            unknown.unwrap_err(),
            "no metrics returned matched known pods"
        );
    }

    #[test]
    fn averages_as_upstream() {
        type Case = (&'static str, i32, &'static [i64], i64, i32, i64);
        let cases: [Case; 6] = [
            ("rrr", 3, &[20_000, 10_000, 30_000], 15_000, 4, 20_000),
            ("rrh", 3, &[50_000, 10_000, 30_000], 15_000, 6, 30_000),
            ("hrh", 3, &[50_000, 15_000, 30_000], 15_000, 7, 31_666),
            ("rrrrr", 5, &[12_000; 5], 20_000, 3, 12_000),
            ("rrr", 3, &[20_000, 21_000, 21_000], 20_000, 3, 20_666),
            ("r", 1, &[8600], 4400, 2, 8600),
        ];
        for (kinds, current, values, target, replicas, average) in cases {
            let found = proposed(kinds, current, values, &[], Target::Average(target)).unwrap();
            assert_eq!((found.replicas, found.average), (replicas, average));
        }
    }

    #[test]
    fn values_of_objects_as_upstream() {
        for (kinds, current, value, wanted, replicas) in [
            ("rrr", 3, 20_000, 15_000, 4),
            ("uru", 3, 50_000, 10_000, 5),
            ("uru", 3, 8600, 4400, 2),
            ("rrrrr", 5, 12_000, 20_000, 3),
            ("rrrrr", 5, 8600, 14_334, 3),
            ("rrr", 3, 20_666, 20_000, 3),
            ("rrr", 3, 8600, 8888, 3),
            ("r", 0, 20_000, 15_000, 2),
        ] {
            let ready = ready_count(&pods(kinds)).unwrap();
            let found = for_value(value, wanted, current, ready, tolerances());
            assert_eq!(found, replicas, "{kinds} {value}");
        }
        assert!(ready_count(&[]).is_err());
        for (value, each, current, replicas, average) in [
            (20_000, 5000, 3, 4, 6667),
            (6000, 2000, 5, 3, 1200),
            (20_166, 5000, 4, 4, 5042),
            (8600, 2150, 3, 4, 2867),
            (8600, 2867, 5, 3, 1720),
            (8600, 2900, 3, 3, 2867),
            (9000, 3000, 0, 3, i64::MAX),
        ] {
            let found = for_average(value, each, current, tolerances());
            assert_eq!(found, (replicas, average), "{value}");
        }
    }

    #[test]
    fn tolerances_are_configurable() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(serde_json::json!({
            "scaleUp": {"tolerance": "0"}, "scaleDown": {"tolerance": "500m"},
        }))
        .unwrap();
        let set = Tolerances::of(Some(&behavior));
        for (ratio, by_default, configured) in [
            (1.05, true, false),
            (1.0, true, true),
            (0.95, true, true),
            (0.6, false, true),
            (0.4, false, false),
        ] {
            assert_eq!(tolerances().include(ratio), by_default, "{ratio}");
            assert_eq!(set.include(ratio), configured, "{ratio}");
        }
    }

    #[test]
    fn pods_of_lost_nodes_count() {
        let mut lost = Pod::clone(&pods("r")[0]);
        lost.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "Unknown".into();
        let groups = group(&[Arc::new(lost)], &mut sampled(&[1000]), true, at(NOW));
        assert_eq!(groups.ready, 1);
    }

    #[test]
    fn any_metrics_can_be_used() {
        let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
        for (a, b) in numbers
            .iter()
            .flat_map(|a| numbers.iter().map(move |b| (*a, *b)))
        {
            for target in [
                Target::Utilization(1),
                Target::Utilization(0),
                Target::Utilization(i32::MAX),
                Target::Average(1),
                Target::Average(0),
                Target::Average(i64::MAX),
            ] {
                let samples = sampled(&[a, b]);
                let requests = [("p0".to_owned(), b), ("p1".to_owned(), a)].into();
                let groups = Groups {
                    ready: 2,
                    unready: vec!["c".into()],
                    missing: vec!["p1".into()],
                };
                // Only the absence of panics matters.
                let _ = propose(1, &groups, &samples, &requests, target, tolerances());
            }
            for_value(a, b, 1, 1, tolerances());
            for_average(a, b, 0, tolerances());
        }
    }
}
