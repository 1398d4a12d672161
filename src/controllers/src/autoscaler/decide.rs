//! Computes replica counts: usage ratios, and the rules that limit and stabilize scaling.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};
use k8s_openapi::api::core::v1::Pod;
use rkube_api::quantity::Quantity;
use rkube_component_helpers::time::{add_seconds, sub_seconds};

use crate::common::pods;

/// Tolerance of usage ratios around 1 that a behavior may override (upstream's default).
pub const TOLERANCE: f64 = 0.1;
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
    /// Length of the sampling window in seconds.
    pub window: i64,
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
    let is_ready = ready.status == "True";
    if add_seconds(start.0, CPU_WARM_UP) > now {
        is_ready && sample.at >= add_seconds(changed, sample.window)
    } else {
        is_ready || add_seconds(start.0, FIRST_READY) <= changed
    }
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

fn ratio(
    samples: &BTreeMap<String, i64>,
    requests: &BTreeMap<String, i64>,
    target: Target,
) -> Option<(f64, i64, Option<i32>)> {
    if samples.is_empty() {
        return None;
    }
    match target {
        Target::Average(target) => {
            let sum: i128 = samples.values().copied().map(i128::from).sum();
            let average = clamped(sum / samples.len() as i128);
            (target > 0).then(|| (average as f64 / target as f64, average, None))
        }
        Target::Utilization(target) => {
            let known = samples
                .iter()
                .filter_map(|(pod, used)| Some((used, requests.get(pod)?)));
            let (used, requested, count) =
                known.fold((0i128, 0i128, 0i128), |(a, b, count), (used, requested)| {
                    (a + i128::from(*used), b + i128::from(*requested), count + 1)
                });
            if requested == 0 || target <= 0 {
                return None;
            }
            let utilization =
                (used * 100 / requested).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            let average = clamped(used / count);
            Some((
                f64::from(utilization) / f64::from(target),
                average,
                Some(utilization),
            ))
        }
    }
}

/// Computes the replica count for a per-pod metric.
///
/// Pods without samples are assumed to have values that make the change smaller: zero usage when
/// scaling up, at least the target when scaling down. `tolerance` is as returned by
/// [`tolerance()`].
///
/// # Errors
///
/// Returns a message if no ratio can be computed, for example without samples of ready pods.
pub fn propose(
    current: i32,
    groups: &Groups,
    samples: &BTreeMap<String, Sample>,
    requests: &BTreeMap<String, i64>,
    target: Target,
    tolerance: (f64, f64),
) -> Result<Proposal, String> {
    let mut used: BTreeMap<String, i64> = samples
        .iter()
        .map(|(pod, sample)| (pod.clone(), sample.milli))
        .collect();
    let (first, average, utilization) =
        ratio(&used, requests, target).ok_or("did not receive metrics for any ready pods")?;
    let stay = Proposal {
        replicas: current,
        average,
        utilization,
    };
    let within = |ratio: f64| 1.0 - tolerance.1 <= ratio && ratio <= 1.0 + tolerance.0;
    let with_unready = !groups.unready.is_empty() && first > 1.0;
    if !with_unready && groups.missing.is_empty() {
        if within(first) {
            return Ok(stay);
        }
        let replicas = (first * groups.ready as f64).ceil() as i32;
        return Ok(Proposal { replicas, ..stay });
    }
    for pod in &groups.missing {
        let assumed = match target {
            _ if first > 1.0 => 0,
            Target::Average(target) => target,
            Target::Utilization(target) => {
                let request = requests.get(pod).copied().unwrap_or(0);
                clamped(i128::from(target.max(100)) * i128::from(request) / 100)
            }
        };
        if (first - 1.0).abs() > f64::EPSILON {
            used.insert(pod.clone(), assumed);
        }
    }
    if with_unready {
        for pod in &groups.unready {
            used.insert(pod.clone(), 0);
        }
    }
    let Some((second, _, _)) = ratio(&used, requests, target) else {
        return Ok(stay);
    };
    if within(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
        return Ok(stay);
    }
    let replicas = (second * used.len() as f64).ceil() as i32;
    if (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current) {
        return Ok(stay);
    }
    Ok(Proposal { replicas, ..stay })
}

/// Recent recommendations and scale changes of one autoscaler.
#[derive(Clone, Debug, Default)]
pub struct History {
    recommendations: Vec<(Timestamp, i32)>,
    changes: Vec<(Timestamp, i32)>,
}

/// Retention of the history in seconds: the longest period that scaling rules may have.
const MEMORY: i64 = 3600;

impl History {
    /// Records that the replica count was changed by `change`.
    pub fn note(&mut self, change: i32, now: Timestamp) {
        self.changes.push((now, change));
    }

    fn forget(&mut self, now: Timestamp) {
        let since = sub_seconds(now, MEMORY);
        self.recommendations.retain(|(at, _)| *at >= since);
        self.changes.retain(|(at, _)| *at >= since);
    }

    fn changed(&self, seconds: i32, now: Timestamp) -> (i32, i32) {
        let since = sub_seconds(now, seconds.into());
        let recent = self.changes.iter().filter(|(at, _)| *at > since);
        recent.fold((0, 0), |(up, down), (_, change)| {
            (
                i32::saturating_add(up, (*change).max(0)),
                i32::saturating_add(down, change.saturating_neg().max(0)),
            )
        })
    }
}

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy {
        type_: kind.into(),
        value,
        period_seconds: 15,
    }
}

fn up_rules(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> HPAScalingRules {
    let mut rules = behavior
        .and_then(|behavior| behavior.scale_up.clone())
        .unwrap_or_default();
    rules.stabilization_window_seconds.get_or_insert(0);
    rules
        .policies
        .get_or_insert_with(|| vec![policy("Pods", 4), policy("Percent", 100)]);
    rules
}

fn down_rules(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> HPAScalingRules {
    let mut rules = behavior
        .and_then(|behavior| behavior.scale_down.clone())
        .unwrap_or_default();
    rules.stabilization_window_seconds.get_or_insert(300);
    rules
        .policies
        .get_or_insert_with(|| vec![policy("Percent", 100)]);
    rules
}

/// Returns how far a usage ratio may be above and below 1 without scaling.
pub fn tolerance(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> (f64, f64) {
    let of = |rules: Option<&HPAScalingRules>| {
        rules
            .and_then(|rules| rules.tolerance.as_ref())
            .and_then(|text| Quantity::parse(&text.0).ok())
            .map_or(TOLERANCE, |quantity| quantity.as_f64())
    };
    (
        of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    )
}

/// Bounds of the replica count.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Minimum, inclusive.
    pub min: i32,
    /// Maximum, inclusive.
    pub max: i32,
}

/// Applies stabilization windows, rate limits and bounds to a recommendation, and records it.
///
/// Returns the resulting replica count and, if that was limited, the reason and message for the
/// condition `ScalingLimited`.
pub fn damp(
    recommended: i32,
    current: i32,
    bounds: Bounds,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    history: &mut History,
    now: Timestamp,
) -> (i32, Option<(&'static str, &'static str)>) {
    history.forget(now);
    let (up, down) = (up_rules(behavior), down_rules(behavior));
    history.recommendations.push((now, recommended));
    let within = |rules: &HPAScalingRules| {
        let since = sub_seconds(now, rules.stabilization_window_seconds.unwrap_or(0).into());
        history
            .recommendations
            .iter()
            .filter(move |(at, _)| *at >= since)
            .map(|(_, size)| *size)
    };
    // Stabilize: scale up at most to the lowest and down at most to the highest recent
    // recommendation.
    let least = within(&up).min().unwrap_or(recommended);
    let most = within(&down).max().unwrap_or(recommended);
    let mut size = current;
    size = size.max(least);
    size = size.min(most);
    let limit =
        |rules: &HPAScalingRules, growing: bool| limit(rules, growing, current, history, now);
    if size > current {
        let rate = limit(&up, true).max(current);
        if size > bounds.max.min(rate) {
            let why = if rate < bounds.max {
                (
                    "ScaleUpLimit",
                    "the desired replica count is increasing faster than the maximum scale rate",
                )
            } else {
                (
                    "TooManyReplicas",
                    "the desired replica count is more than the maximum replica count",
                )
            };
            return (bounds.max.min(rate), Some(why));
        }
    } else if size < current {
        let rate = limit(&down, false).min(current);
        if size < bounds.min.max(rate) {
            let why = if rate > bounds.min {
                (
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                )
            } else {
                (
                    "TooFewReplicas",
                    "the desired replica count is less than the minimum replica count",
                )
            };
            return (bounds.min.max(rate), Some(why));
        }
    }
    // Not `clamp`, which panics if the bounds contradict each other.
    (size.min(bounds.max).max(bounds.min), None)
}

fn limit(
    rules: &HPAScalingRules,
    growing: bool,
    current: i32,
    history: &History,
    now: Timestamp,
) -> i32 {
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let sizes = rules.policies.iter().flatten().map(|policy| {
        let (up, down) = history.changed(policy.period_seconds, now);
        let start = current.saturating_sub(up).saturating_add(down);
        match (policy.type_.as_str(), growing) {
            ("Pods", true) => start.saturating_add(policy.value),
            ("Pods", false) => start.saturating_sub(policy.value),
            (_, true) => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            (_, false) => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    let boldest = (select == "Max") == growing;
    let found = if boldest { sizes.max() } else { sizes.min() };
    found.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn sampled(values: &[(&str, i64)]) -> BTreeMap<String, Sample> {
        let sample = |milli| Sample {
            milli,
            at: at(9000),
            window: 30,
        };
        values
            .iter()
            .map(|(name, milli)| ((*name).to_owned(), sample(*milli)))
            .collect()
    }

    fn running(names: &[&str]) -> Vec<Arc<Pod>> {
        let make = |name: &&str| {
            let mut pod = pod(name, "n", "Running", Some(100));
            pod.status.as_mut().unwrap().start_time = Some(Time(at(50)));
            Arc::new(pod)
        };
        names.iter().map(make).collect()
    }

    fn requests(names: &[&str]) -> BTreeMap<String, i64> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), 1000))
            .collect()
    }

    fn proposed(names: &[&str], values: &[(&str, i64)], target: Target) -> i32 {
        let mut samples = sampled(values);
        let groups = group(&running(names), &mut samples, true, at(9010));
        let current = names.len() as i32;
        propose(
            current,
            &groups,
            &samples,
            &requests(names),
            target,
            (TOLERANCE, TOLERANCE),
        )
        .unwrap()
        .replicas
    }

    #[test]
    fn ratios() {
        let half = Target::Utilization(50);
        assert_eq!(proposed(&["a", "b"], &[("a", 1000), ("b", 1000)], half), 4);
        assert_eq!(proposed(&["a", "b"], &[("a", 520), ("b", 500)], half), 2);
        assert_eq!(
            proposed(
                &["a", "b", "c", "d"],
                &[("a", 100), ("b", 100), ("c", 100), ("d", 100)],
                half
            ),
            1
        );
        assert_eq!(
            proposed(&["a", "b"], &[("a", 300), ("b", 300)], Target::Average(100)),
            6
        );
    }

    #[test]
    fn missing_pods_damp() {
        let half = Target::Utilization(50);
        assert_eq!(proposed(&["a", "b"], &[("a", 1000)], half), 2); // b counts as idle
        assert_eq!(proposed(&["a", "b"], &[("a", 100)], half), 2); // b counts as busy
    }

    #[test]
    fn young_pods_do_not_count() {
        let mut young = Pod::clone(&running(&["a"])[0]);
        young.status.as_mut().unwrap().start_time = Some(Time(at(8990)));
        young.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time =
            Some(Time(at(8995)));
        let mut samples = sampled(&[("a", 1000)]);
        let groups = group(&[Arc::new(young)], &mut samples, true, at(9010));
        assert_eq!((groups.ready, groups.unready.len()), (0, 1));
    }

    #[test]
    fn growth_is_limited_and_shrinking_waits() {
        let bounds = Bounds { min: 1, max: 100 };
        let mut history = History::default();
        let (size, why) = damp(50, 3, bounds, None, &mut history, at(1000));
        assert_eq!((size, why.unwrap().0), (7, "ScaleUpLimit")); // by at most four
        history.note(4, at(1000));
        assert_eq!(damp(50, 7, bounds, None, &mut history, at(1005)).0, 7);
        assert_eq!(damp(50, 7, bounds, None, &mut history, at(1020)).0, 14);
        assert_eq!(damp(2, 14, bounds, None, &mut history, at(1100)).0, 14); // 50 is in the window
        assert_eq!(damp(2, 14, bounds, None, &mut history, at(1500)).0, 2);
        let (size, why) = damp(500, 90, bounds, None, &mut history, at(3000));
        assert_eq!((size, why.unwrap().0), (100, "TooManyReplicas"));
    }

    #[test]
    fn any_numbers_can_be_decided_with() {
        use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec;
        let rules = serde_json::json!({"stabilizationWindowSeconds": 1, "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 1},
            {"type": "Percent", "value": 1, "periodSeconds": 1},
        ]});
        let object = serde_json::json!({
            "minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
            "behavior": {"scaleUp": rules, "scaleDown": rules},
        });
        crate::common::extremes::each(&object, |spec: &HorizontalPodAutoscalerSpec| {
            let mut history = History::default();
            for change in [i32::MIN, i32::MAX, i32::MIN] {
                history.note(change, at(1));
            }
            let bounds = Bounds {
                min: spec.min_replicas.unwrap(),
                max: spec.max_replicas,
            };
            for (recommended, current) in [(i32::MAX, i32::MIN), (i32::MIN, i32::MAX), (2, 1)] {
                let behavior = spec.behavior.as_ref();
                damp(recommended, current, bounds, behavior, &mut history, at(2));
            }
        });
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
                Target::Utilization(i32::MAX),
                Target::Average(1),
                Target::Average(i64::MAX),
            ] {
                let samples = sampled(&[("a", a), ("b", b)]);
                let requests = [("a".to_owned(), b), ("b".to_owned(), a)].into();
                let groups = Groups {
                    ready: 2,
                    unready: vec!["c".into()],
                    missing: vec!["b".into()],
                };
                // Only the absence of panics matters.
                let _ = propose(
                    1,
                    &groups,
                    &samples,
                    &requests,
                    target,
                    (TOLERANCE, TOLERANCE),
                );
            }
        }
    }
}
