//! Stabilization windows, scaling policies and bounds of the replica count.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};
use rkube_component_helpers::time::sub_seconds;

/// Default of the stabilization window for scaling down, in seconds (upstream's flag).
const DOWNSCALE_WINDOW: i32 = 300;
/// Without a behavior, the replica count at most doubles at once, or grows to this number.
const GROWTH_MINIMUM: i32 = 4;
/// Retention of the history in seconds: the longest period that scaling rules may have.
const HISTORY_SECONDS: i64 = 3600;

/// A reason and a message of a condition.
pub type Why = (&'static str, &'static str);

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: Why = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const UP_LIMIT: Why = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
const TOO_MANY: Why = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: Why = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);

/// Recent recommendations and scale changes of one autoscaler.
#[derive(Clone, Debug, Default)]
pub struct History {
    is_started: bool,
    recommendations: Vec<(Timestamp, i32)>,
    changes: Vec<(Timestamp, i32)>,
}

impl History {
    /// Records the replica count at which the autoscaler was first seen, as a recommendation.
    pub fn start(&mut self, current: i32, now: Timestamp) {
        if !self.is_started {
            self.is_started = true;
            self.recommendations.push((now, current));
        }
    }

    /// Records that the replica count was changed by `change`.
    pub fn note(&mut self, change: i32, now: Timestamp) {
        self.changes.push((now, change));
    }

    fn forget(&mut self, now: Timestamp) {
        let since = sub_seconds(now, HISTORY_SECONDS);
        self.recommendations.retain(|(at, _)| *at >= since);
        self.changes.retain(|(at, _)| *at >= since);
    }

    /// Returns the recommendations of the last `seconds`.
    fn recent(&self, seconds: i32, now: Timestamp) -> impl Iterator<Item = i32> {
        let since = sub_seconds(now, seconds.into());
        let recent = self.recommendations.iter();
        recent.filter_map(move |(at, size)| (*at > since).then_some(*size))
    }

    /// Returns by how many replicas the target has grown and shrunk in the last `seconds`.
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

/// Bounds of the replica count.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Minimum, inclusive.
    pub min: i32,
    /// Maximum, inclusive.
    pub max: i32,
}

/// A recommendation within its limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limited {
    /// The resulting replica count.
    pub size: i32,
    /// Reason and message of the condition `AbleToScale`.
    pub able: Why,
    /// Whether the condition `ScalingLimited` holds.
    pub is_limited: bool,
    /// Reason and message of the condition `ScalingLimited`.
    pub limit: Why,
}

/// Applies stabilization windows, rate limits and bounds to a recommendation, and records it.
pub fn apply(
    recommended: i32,
    current: i32,
    bounds: Bounds,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    history: &mut History,
    now: Timestamp,
) -> Limited {
    history.forget(now);
    let (stabilized, able, (size, limit)) = match behavior {
        None => {
            let recent = history.recent(DOWNSCALE_WINDOW, now);
            let stabilized = recent.fold(recommended, i32::max);
            let sized = simple_bounds(stabilized, current, bounds);
            (stabilized, DOWN_STABILIZED, sized)
        }
        Some(behavior) => {
            let (up, down) = (up_rules(behavior), down_rules(behavior));
            let stabilized = stabilize(recommended, current, (&up, &down), history, now);
            let able = if recommended >= current {
                UP_STABILIZED
            } else {
                DOWN_STABILIZED
            };
            let sized = bound(stabilized, current, bounds, (&up, &down), history, now);
            (stabilized, able, sized)
        }
    };
    history.recommendations.push((now, recommended));
    Limited {
        size,
        able: if stabilized == recommended {
            READY
        } else {
            able
        },
        is_limited: size != stabilized,
        limit,
    }
}

/// Scales up at most to the lowest and down at most to the highest recent recommendation.
fn stabilize(
    recommended: i32,
    current: i32,
    (up, down): (&HPAScalingRules, &HPAScalingRules),
    history: &History,
    now: Timestamp,
) -> i32 {
    let window = |rules: &HPAScalingRules| rules.stabilization_window_seconds.unwrap_or(0);
    let least = history.recent(window(up), now).fold(recommended, i32::min);
    let most = history
        .recent(window(down), now)
        .fold(recommended, i32::max);
    current.max(least).min(most)
}

/// Limits the replica count of an autoscaler without a behavior.
fn simple_bounds(desired: i32, current: i32, bounds: Bounds) -> (i32, Why) {
    let rate = current.saturating_mul(2).max(GROWTH_MINIMUM);
    let (most, why) = if bounds.max > rate {
        (rate, UP_LIMIT)
    } else {
        (bounds.max, TOO_MANY)
    };
    if desired < bounds.min {
        (bounds.min, TOO_FEW)
    } else if desired > most {
        (most, why)
    } else {
        (desired, WITHIN)
    }
}

/// Limits the replica count by the policies of a behavior.
fn bound(
    desired: i32,
    current: i32,
    bounds: Bounds,
    (up, down): (&HPAScalingRules, &HPAScalingRules),
    history: &History,
    now: Timestamp,
) -> (i32, Why) {
    if desired > current {
        let rate = limit(up, true, current, history, now).max(current);
        let (most, why) = if bounds.max > rate {
            (rate, UP_LIMIT)
        } else {
            (bounds.max, TOO_MANY)
        };
        if desired > most {
            return (most, why);
        }
    } else if desired < current {
        let rate = limit(down, false, current, history, now).min(current);
        let (least, why) = if bounds.min < rate {
            (rate, DOWN_LIMIT)
        } else {
            (bounds.min, TOO_FEW)
        };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy {
        type_: kind.into(),
        value,
        period_seconds: 15,
    }
}

fn up_rules(behavior: &HorizontalPodAutoscalerBehavior) -> HPAScalingRules {
    let mut rules = behavior.scale_up.clone().unwrap_or_default();
    rules.stabilization_window_seconds.get_or_insert(0);
    rules
        .policies
        .get_or_insert_with(|| vec![policy("Pods", 4), policy("Percent", 100)]);
    rules
}

fn down_rules(behavior: &HorizontalPodAutoscalerBehavior) -> HPAScalingRules {
    let mut rules = behavior.scale_down.clone().unwrap_or_default();
    rules
        .stabilization_window_seconds
        .get_or_insert(DOWNSCALE_WINDOW);
    rules
        .policies
        .get_or_insert_with(|| vec![policy("Percent", 100)]);
    rules
}

/// Returns the replica count up to which (or down to which) the rules allow to scale.
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
    let boldest = (select == "Min") != growing;
    let found = if boldest { sizes.max() } else { sizes.min() };
    found.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::at;
    use serde_json::{Value, json};

    /// Rules of upstream's tests: pods and percent with their periods, and the window.
    fn rules(pods: (i32, i32), percent: (i32, i32), window: i32) -> Value {
        let mut policies = Vec::new();
        for (kind, (value, period)) in [("Pods", pods), ("Percent", percent)] {
            if value != 0 {
                policies.push(json!({"type": kind, "value": value, "periodSeconds": period}));
            }
        }
        json!({"stabilizationWindowSeconds": window, "selectPolicy": "Max", "policies": policies})
    }

    fn behavior(up: &Value, down: &Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(json!({"scaleUp": up, "scaleDown": down})).unwrap()
    }

    const NOW: i64 = 100_000;

    /// Spreads changes over the last `period` seconds, each in the middle of its part.
    fn spread(history: &mut History, changes: &[i32], period: i64) {
        let part = period as f64 / changes.len() as f64;
        for (index, change) in changes.iter().enumerate() {
            let ago = (period as f64 - part * (index as f64 + 0.5)) as i64;
            history.note(*change, at(NOW - ago));
        }
    }

    /// Cases of upstream's `TestScalingWithRules`: changes of the last 120 s; value and period of the
    /// policies Pods and Percent; minimum, maximum, current and recommended replicas; the window for
    /// scaling down; the resulting size and reason.
    const POLICIES: &str = "
        -        |    0   0 |     1  60 |   1 2000    3 1000   0 |   4 ScaleUpLimit
        -        |  100  60 |   100  60 |   1 1000   10  500   0 | 110 ScaleUpLimit
        -        |    2  60 |   100  60 |   1 1000   10  500   0 |  20 ScaleUpLimit
        -        |  100  60 |     0   0 |   1 1000   10   50   0 |  50 DesiredWithinRange
        -        |   30  60 |     0   0 |   1 1000   10   50   0 |  40 ScaleUpLimit
        -        |    0   0 |   200  60 |   1 1000   10   50   0 |  30 ScaleUpLimit
        1,5,9    |  300  60 |     0   0 |   1  200  100  500   0 | 200 TooManyReplicas
        1,5,9    |    0   0 | 10000  60 |   1  200  100  500   0 | 200 TooManyReplicas
        1,5,9    |    5 120 |     0   0 |   1 1000  100  500   0 | 100 ScaleUpLimit
        1,5,9    |  150 120 |     0   0 |   1 1000  100  500   0 | 235 ScaleUpLimit
        1,5,9    |    0   0 |   200 120 |   1 1000  100  500   0 | 255 ScaleUpLimit
        4,-2     |    0   0 |   300 300 |   1 1000    6   24   0 |  16 ScaleUpLimit
        8,12,9   | 1000  60 |     0   0 |   1 1000  100  200   0 | 200 DesiredWithinRange
        -        |  100  60 |     0   0 |   3    8    5    7   0 |   7 DesiredWithinRange
        -        |   20  60 |     0   0 |   3 2000 1000    3   0 | 980 ScaleDownLimit
        -        |   20  60 |     1  60 |   1 1000  100    2 300 |  80 ScaleDownLimit
        -        |    2  60 |     1  60 |   1 1000  100    2 300 |  98 ScaleDownLimit
        -        |  100  60 |     0   0 |   1 1000   10    0 300 |   1 TooFewReplicas
        -        |    0   0 |   100  60 |   5 1000   10    2 300 |   5 TooFewReplicas
        -        |    5  60 |     0   0 |   1 1000   10    2 300 |   5 ScaleDownLimit
        -        |    0   0 |    50  60 |   1 1000   10    5 300 |   5 DesiredWithinRange
        -1,-5,-9 |    0   0 |   100  15 |   1 1000   10    5 300 |   5 DesiredWithinRange
        -1,-5,-9 |  115 120 |     0   0 |   1 1000  100    0 300 |   1 TooFewReplicas
        -1,-5,-9 |  130 120 |     0   0 |   5 1000  100    0 300 |   5 TooFewReplicas
        -1,-5,-9 |    0   0 |   100 120 |   5 1000  100    2 300 |   5 TooFewReplicas
        -1,-5,-9 |    5 120 |     0   0 |   1 1000  100    2 300 | 100 ScaleDownLimit
        -2,-4,-6 |    0   0 |    50 120 |   1 1000  100    0 300 |  56 ScaleDownLimit
        2,-4     |    0   0 |    50 180 |   1 1000   10    1   0 |   6 ScaleDownLimit
        -10,-20  |    0   0 |    10 120 |   1 1000  100    0 300 | 100 ScaleDownLimit
        -10,-20  |    0   0 |  1000 120 |   1 1000   10    5 300 |   5 DesiredWithinRange
        -        |    0   0 |   100  15 |   2    8    3    1 300 |   2 TooFewReplicas
    ";

    fn numbers(text: &str) -> Vec<i32> {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        words.filter_map(|word| word.parse().ok()).collect()
    }

    #[test]
    fn policies_as_upstream() {
        for line in POLICIES.lines().filter(|line| line.contains('|')) {
            let parts: Vec<&str> = line.split('|').collect();
            let (pods, percent) = (numbers(parts[1]), numbers(parts[2]));
            let [min, max, current, recommended, window] = numbers(parts[3])[..] else {
                panic!("{line}");
            };
            let own = rules((pods[0], pods[1]), (percent[0], percent[1]), window);
            let none = json!({});
            let behavior = match recommended > current {
                true => behavior(&own, &none),
                false => behavior(&none, &own),
            };
            let mut history = History::default();
            spread(&mut history, &numbers(parts[0]), 120);
            let bounds = Bounds { min, max };
            let behavior = Some(&behavior);
            let found = apply(
                recommended,
                current,
                bounds,
                behavior,
                &mut history,
                at(NOW),
            );
            let shown = format!("{} {}", found.size, found.limit.0);
            assert_eq!(shown, parts[4].trim(), "{line}");
            assert_eq!(found.is_limited, found.size != recommended);
        }
    }

    #[test]
    fn selected_policies_as_upstream() {
        let of = |select: &str, current, growing| {
            let rules = json!({"selectPolicy": select, "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60},
                {"type": "Percent", "value": 50, "periodSeconds": 60},
            ]});
            let rules: HPAScalingRules = serde_json::from_value(rules).unwrap();
            limit(&rules, growing, current, &History::default(), at(NOW))
        };
        assert_eq!((of("Min", 1, true), of("Max", 1, true)), (2, 3));
        assert_eq!((of("Min", 5, false), of("Max", 5, false)), (3, 2));
        assert_eq!(of("Disabled", 5, false), 5);
    }

    /// Upstream's `TestConvertDesiredReplicasWithRules`.
    #[test]
    fn bounds_without_behavior_as_upstream() {
        for (current, desired, min, max, wanted) in [
            (5, 7, 3, 8, (7, "DesiredWithinRange")),
            (3, 1, 2, 8, (2, "TooFewReplicas")),
            (1, 0, 0, 10, (0, "DesiredWithinRange")),
            (20, 1000, 1, 10, (10, "TooManyReplicas")),
            (3, 1000, 1, 2000, (6, "ScaleUpLimit")),
            (1, 1000, 1, 2000, (4, "ScaleUpLimit")),
        ] {
            let (size, why) = simple_bounds(desired, current, Bounds { min, max });
            assert_eq!((size, why.0), wanted);
        }
    }

    /// Upstream's `TestNormalizeDesiredReplicas`: minutes ago and recommendation.
    #[test]
    fn shrinking_waits_without_behavior_as_upstream() {
        type Case = (&'static [(i64, i32)], i32, i32);
        let cases: [Case; 5] = [
            (&[], 5, 5),
            (&[(2, 4), (1, 5)], 3, 5),
            (&[(2, 1), (1, 2)], 3, 3),
            (&[(10, 10), (9, 9)], 3, 3),
            (&[(10, 10), (1, 4), (2, 5), (9, 9)], 3, 5),
        ];
        let bounds = Bounds { min: 1, max: 1000 };
        for (recommendations, recommended, wanted) in cases {
            let mut history = History::default();
            for (minutes, size) in recommendations {
                history
                    .recommendations
                    .push((at(NOW - minutes * 60), *size));
            }
            let found = apply(recommended, 5, bounds, None, &mut history, at(NOW));
            assert_eq!(found.size, wanted, "{recommendations:?}");
            let stabilized = found.able.0 == "ScaleDownStabilized";
            assert_eq!(stabilized, wanted != recommended);
        }
        // The size at which the autoscaler began counts as a recommendation.
        let mut history = History::default();
        history.start(4, at(NOW));
        let found = apply(2, 4, bounds, None, &mut history, at(NOW + 15));
        assert_eq!((found.size, found.able.0), (4, "ScaleDownStabilized"));
        history.start(9, at(NOW + 20));
        let found = apply(2, 4, bounds, None, &mut history, at(NOW + 301));
        assert_eq!((found.size, found.able.0), (2, "ReadyForNewScale"));
    }

    #[test]
    fn both_windows_stabilize() {
        let rules = json!({"stabilizationWindowSeconds": 60});
        let behavior = behavior(&rules, &rules);
        let bounds = Bounds { min: 1, max: 100 };
        let mut history = History::default();
        let mut next = |recommended, current, second| {
            let found = apply(
                recommended,
                current,
                bounds,
                Some(&behavior),
                &mut history,
                at(second),
            );
            (found.size, found.able.0)
        };
        assert_eq!(next(5, 5, NOW), (5, "ReadyForNewScale"));
        assert_eq!(next(8, 5, NOW + 15), (5, "ScaleUpStabilized"));
        assert_eq!(next(3, 5, NOW + 30), (5, "ScaleDownStabilized"));
        assert_eq!(next(7, 5, NOW + 80), (5, "ScaleUpStabilized"));
        assert_eq!(next(7, 5, NOW + 95), (7, "ReadyForNewScale"));
    }

    #[test]
    fn any_numbers_can_be_decided_with() {
        use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec;
        let rules = json!({"stabilizationWindowSeconds": 1, "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 1},
            {"type": "Percent", "value": 1, "periodSeconds": 1},
        ]});
        let object = json!({
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
                for behavior in [spec.behavior.as_ref(), None] {
                    apply(recommended, current, bounds, behavior, &mut history, at(2));
                }
            }
        });
    }
}
