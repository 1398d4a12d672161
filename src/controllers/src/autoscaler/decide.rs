//! How many replicas: ratios of use, and the rules that damp changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};
use k8s_openapi::api::core::v1::Pod;
use rkube_api::quantity::Quantity;

use crate::common::pods;

/// Ratios this near to 1 change nothing, unless a rule says otherwise.
pub const TOLERANCE: f64 = 0.1;
/// So long after its start a pod's CPU use tells little, in seconds.
const CPU_WARM_UP: i64 = 300;
/// A pod that was unready only this soon after its start is still starting, in seconds.
const FIRST_READY: i64 = 30;

/// One pod's use of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The amount, in thousandths.
    pub milli: i64,
    /// When it was taken.
    pub at: Timestamp,
    /// Over how long, in seconds.
    pub window: i64,
}

/// Pods by what their samples are worth.
#[derive(Debug, Default)]
pub struct Groups {
    /// How many pods are ready and have a sample.
    pub ready: usize,
    /// Pods that do not work yet.
    pub unready: Vec<String>,
    /// Pods without a sample.
    pub missing: Vec<String>,
}

/// Groups pods; samples of those that do not count are taken out.
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
    if start.0 + SignedDuration::from_secs(CPU_WARM_UP) > now {
        is_ready && sample.at >= changed + SignedDuration::from_secs(sample.window)
    } else {
        is_ready || start.0 + SignedDuration::from_secs(FIRST_READY) <= changed
    }
}

/// What is aimed at, for each pod.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// So many per cent of what pods request.
    Utilization(i32),
    /// So many thousandths.
    Average(i64),
}

/// The outcome for one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// Replicas.
    pub replicas: i32,
    /// Average use of each pod, in thousandths.
    pub average: i64,
    /// Use in per cent of requests.
    pub utilization: Option<i32>,
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
            let average = samples.values().sum::<i64>() / samples.len() as i64;
            (target > 0).then(|| (average as f64 / target as f64, average, None))
        }
        Target::Utilization(target) => {
            let known = samples
                .iter()
                .filter_map(|(pod, used)| Some((used, requests.get(pod)?)));
            let (used, requested) = known.fold((0, 0), |(a, b), (used, requested)| {
                (a + used, b + requested)
            });
            if requested == 0 || target <= 0 {
                return None;
            }
            let utilization = (used * 100 / requested) as i32;
            let average = used / samples.len() as i64;
            Some((
                f64::from(utilization) / f64::from(target),
                average,
                Some(utilization),
            ))
        }
    }
}

/// The replicas that a metric of pods asks for. Pods without samples are
/// thought to be such that the change is smaller, never bigger.
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
                i64::from(target.max(100)) * requests.get(pod).copied().unwrap_or(0) / 100
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

/// What was recommended and done lately.
#[derive(Clone, Debug, Default)]
pub struct History {
    recommendations: Vec<(Timestamp, i32)>,
    changes: Vec<(Timestamp, i32)>,
}

/// The longest that any rule looks back, in seconds.
const MEMORY: i64 = 3600;

impl History {
    /// Remembers that the size changed by so many replicas.
    pub fn note(&mut self, change: i32, now: Timestamp) {
        self.changes.push((now, change));
    }

    fn forget(&mut self, now: Timestamp) {
        let since = now - SignedDuration::from_secs(MEMORY);
        self.recommendations.retain(|(at, _)| *at >= since);
        self.changes.retain(|(at, _)| *at >= since);
    }

    fn changed(&self, seconds: i32, now: Timestamp) -> (i32, i32) {
        let since = now - SignedDuration::from_secs(seconds.into());
        let recent = self.changes.iter().filter(|(at, _)| *at > since);
        recent.fold((0, 0), |(up, down), (_, change)| {
            (up + (*change).max(0), down + (-*change).max(0))
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

/// How far a ratio may be above and below 1 without a change.
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

/// Bounds of the size.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At least.
    pub min: i32,
    /// At most.
    pub max: i32,
}

/// Damps a recommendation; gives the size, and why it is not what was
/// recommended, as a condition's reason and message.
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
        let since =
            now - SignedDuration::from_secs(rules.stabilization_window_seconds.unwrap_or(0).into());
        history
            .recommendations
            .iter()
            .filter(move |(at, _)| *at >= since)
            .map(|(_, size)| *size)
    };
    // Up only to the least, down only to the most of what was asked for lately.
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
    (size.clamp(bounds.min, bounds.max), None)
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
        let start = current - up + down;
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
        assert_eq!(proposed(&["a", "b"], &[("a", 1000)], half), 2); // b is thought idle
        assert_eq!(proposed(&["a", "b"], &[("a", 100)], half), 2); // b is thought busy
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
        assert_eq!((size, why.unwrap().0), (7, "ScaleUpLimit")); // four more
        history.note(4, at(1000));
        assert_eq!(damp(50, 7, bounds, None, &mut history, at(1005)).0, 7);
        assert_eq!(damp(50, 7, bounds, None, &mut history, at(1020)).0, 14);
        assert_eq!(damp(2, 14, bounds, None, &mut history, at(1100)).0, 14); // 50 was asked for lately
        assert_eq!(damp(2, 14, bounds, None, &mut history, at(1500)).0, 2);
        let (size, why) = damp(500, 90, bounds, None, &mut history, at(3000));
        assert_eq!((size, why.unwrap().0), (100, "TooManyReplicas"));
    }
}
