//! Taints derived from node conditions, and toleration of `NoExecute` taints.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rkube_component_helpers::tolerations::tolerates_taint;

/// Taint of a node whose Ready condition is false.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node whose Ready condition is unknown.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition type and status, and the key of the resulting `NoSchedule` taint.
const CONDITIONS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Returns the status of a node's condition, if it exists.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|c| c.type_ == kind)
        .map(|c| c.status.as_str())
}

fn is_managed(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    match taint.effect.as_str() {
        "NoSchedule" => {
            key == UNSCHEDULABLE || CONDITIONS.iter().any(|(_, _, managed)| *managed == key)
        }
        "NoExecute" => key == NOT_READY || key == UNREACHABLE,
        _ => false,
    }
}

/// Returns the taints that the node should have, or `None` if it already has them. `evict` enables
/// the `NoExecute` taints.
pub fn desired(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let present = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = CONDITIONS
        .iter()
        .filter(|(kind, status, _)| condition(node, kind) == Some(status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match condition(node, "Ready") {
        Some("False") if evict => wanted.push((NOT_READY, "NoExecute")),
        Some("Unknown") if evict => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| {
            !is_managed(taint)
                || wanted
                    .iter()
                    .any(|(key, effect)| taint.key == *key && taint.effect == *effect)
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != present).then_some(taints)
}

/// The time that a pod may stay on a node with `NoExecute` taints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TolerationTime {
    /// Without limit.
    Forever,
    /// For this time.
    For(Duration),
    /// Not at all.
    Never,
}

/// Returns how long a pod with these tolerations may stay on a node with these `NoExecute` taints.
pub fn toleration_time(taints: &[Taint], tolerations: &[Toleration]) -> TolerationTime {
    let mut used = Vec::new();
    for taint in taints {
        match tolerations
            .iter()
            .find(|toleration| tolerates_taint(toleration, taint))
        {
            Some(toleration) => used.push(toleration),
            None => return TolerationTime::Never,
        }
    }
    match used
        .iter()
        .filter_map(|toleration| toleration.toleration_seconds)
        .min()
    {
        None => TolerationTime::Forever,
        Some(seconds) if seconds <= 0 => TolerationTime::Never,
        Some(seconds) => TolerationTime::For(Duration::from_secs(seconds.unsigned_abs())),
    }
}

/// Returns the node's `NoExecute` taints.
pub fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints
        .into_iter()
        .flatten()
        .filter(|taint| taint.effect == "NoExecute")
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::at;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus};

    fn node(ready: &str, taints: Vec<Taint>) -> Node {
        Node {
            spec: Some(NodeSpec {
                taints: Some(taints),
                ..Default::default()
            }),
            status: Some(NodeStatus {
                conditions: Some(vec![NodeCondition {
                    type_: "Ready".into(),
                    status: ready.into(),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn taint(key: &str, effect: &str) -> Taint {
        Taint {
            key: key.into(),
            effect: effect.into(),
            ..Default::default()
        }
    }

    #[test]
    fn taints_follow_conditions() {
        let own = taint("example.com/mine", "NoExecute");
        let taints = desired(&node("Unknown", vec![own.clone()]), true, at(1)).unwrap();
        let names: Vec<_> = taints
            .iter()
            .map(|t| (t.key.as_str(), t.effect.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("example.com/mine", "NoExecute"),
                (UNREACHABLE, "NoSchedule"),
                (UNREACHABLE, "NoExecute")
            ]
        );
        assert_eq!(desired(&node("Unknown", taints.clone()), true, at(2)), None);
        assert_eq!(desired(&node("True", taints), true, at(2)), Some(vec![own]));
        let held_back = desired(&node("False", vec![]), false, at(1)).unwrap();
        assert_eq!(held_back.len(), 1);
    }

    #[test]
    fn tolerations() {
        let unreachable = [taint(UNREACHABLE, "NoExecute")];
        let toleration = |key: &str, operator: &str, seconds: Option<i64>| Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            toleration_seconds: seconds,
            ..Default::default()
        };
        assert_eq!(toleration_time(&unreachable, &[]), TolerationTime::Never);
        assert_eq!(
            toleration_time(&unreachable, &[toleration(UNREACHABLE, "Exists", None)]),
            TolerationTime::Forever
        );
        assert_eq!(
            toleration_time(
                &unreachable,
                &[toleration(UNREACHABLE, "Exists", Some(300))]
            ),
            TolerationTime::For(Duration::from_secs(300))
        );
        assert_eq!(
            toleration_time(&unreachable, &[toleration("", "Exists", None)]),
            TolerationTime::Forever
        );
        assert_eq!(
            toleration_time(&unreachable, &[toleration(NOT_READY, "Exists", None)]),
            TolerationTime::Never
        );
        assert_eq!(toleration_time(&[], &[]), TolerationTime::Forever);
    }

    #[test]
    fn any_number_of_seconds_can_be_tolerated() {
        let pod = serde_json::json!({"containers": [], "tolerations": [
            {"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": 1},
            {"key": "a", "operator": "Gt", "value": "9223372036854775807", "tolerationSeconds": 1},
        ]});
        let taints = [taint(UNREACHABLE, "NoExecute"), taint("a", "NoExecute")];
        let queue = crate::queue::Queue::new();
        crate::common::extremes::each(&pod, |spec: &k8s_openapi::api::core::v1::PodSpec| {
            let tolerations = spec.tolerations.as_deref().unwrap();
            for taints in [&taints[..], &taints[..1]] {
                if let TolerationTime::For(wait) = toleration_time(taints, tolerations) {
                    let left = super::super::eviction::deadline(wait, at(1), at(2));
                    queue.add_after("a", left);
                }
            }
        });
    }
}
