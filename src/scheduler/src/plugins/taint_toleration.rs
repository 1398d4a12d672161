//! TaintToleration: a node rejects pods that do not tolerate its taints.

use rkube_component_helpers::tolerations::{any_tolerates, tolerates_taint};

use super::types::{Plugin, Rejection};
use crate::model::{NodeInfo, PodInfo};

/// Returns whether the pod tolerates every `NoSchedule` and `NoExecute` taint of the node.
pub fn tolerates_all(pod: &PodInfo, node: &NodeInfo) -> bool {
    node.taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .all(|taint| any_tolerates(&pod.tolerations, taint))
}

/// Rejects the node if the pod does not tolerate its taints.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if tolerates_all(pod, node) {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        Plugin::TaintToleration,
        "node(s) had untolerated taint(s)",
    ))
}

/// Returns the number of `PreferNoSchedule` taints that the pod does not tolerate.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let untolerated = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule")
        .filter(|taint| {
            !pod.tolerations
                .iter()
                .any(|toleration| tolerates_taint(toleration, taint))
        })
        .count();
    i64::try_from(untolerated).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn taints() {
        let n = node_with(
            "n",
            json!({}),
            json!({"taints": [{"key": "a", "value": "1", "effect": "NoSchedule"}]}),
        );
        let with = |t| pod("p", json!({"tolerations": [t]}));
        assert!(filter(&pod("p", json!({})), &n).is_err());
        assert!(filter(&with(json!({"key": "a", "value": "1"})), &n).is_ok());
        assert!(filter(&with(json!({"key": "a", "value": "2"})), &n).is_err());
        assert!(filter(&with(json!({"operator": "Exists"})), &n).is_ok());
        assert!(
            filter(
                &with(json!({"key": "a", "operator": "Exists", "effect": "NoExecute"})),
                &n
            )
            .is_err()
        );
    }

    #[test]
    fn soft_taints_score() {
        let n = node_with(
            "n",
            json!({}),
            json!({"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}),
        );
        let p = pod("p", json!({}));
        assert!(filter(&p, &n).is_ok());
        assert_eq!(score(&p, &n), 1);
        assert_eq!(
            score(
                &pod("p", json!({"tolerations": [{"operator": "Exists"}]})),
                &n
            ),
            0
        );
    }
}
