//! TaintToleration: nodes keep pods away that do not bear their taints.

use k8s_openapi::api::core::v1::Toleration;

use super::{Plugin, Rejection};
use crate::model::{NodeInfo, PodInfo};

/// Does the toleration bear the taint?
pub fn tolerates(toleration: &Toleration, key: &str, value: &str, effect: &str) -> bool {
    let set = |field: &Option<String>| field.clone().unwrap_or_default();
    let (own_effect, own_key) = (set(&toleration.effect), set(&toleration.key));
    if !own_effect.is_empty() && own_effect != effect {
        return false;
    }
    if !own_key.is_empty() && own_key != key {
        return false;
    }
    let own_value = toleration.value.as_deref().unwrap_or("");
    let numbers = || Some((value.parse::<i64>().ok()?, own_value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => own_value == value,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(taint, bound)| taint < bound),
        "Gt" => numbers().is_some_and(|(taint, bound)| taint > bound),
        _ => false,
    }
}

/// Does the pod bear every taint of the node that keeps pods away?
pub fn bears_all(pod: &PodInfo, node: &NodeInfo) -> bool {
    node.taints
        .iter()
        .filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"))
        .all(|taint| {
            pod.tolerations.iter().any(|t| {
                tolerates(
                    t,
                    &taint.key,
                    taint.value.as_deref().unwrap_or(""),
                    &taint.effect,
                )
            })
        })
}

/// May the pod go to the node?
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if bears_all(pod, node) {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        Plugin::TaintToleration,
        "node(s) had untolerated taint(s)",
    ))
}

/// How many taints of the node would rather not have the pod.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let soft = "PreferNoSchedule";
    let unborne = node
        .taints
        .iter()
        .filter(|t| t.effect == soft)
        .filter(|taint| {
            !pod.tolerations.iter().any(|t| {
                matches!(
                    t.effect.as_deref(),
                    None | Some("") | Some("PreferNoSchedule")
                ) && tolerates(t, &taint.key, taint.value.as_deref().unwrap_or(""), soft)
            })
        })
        .count();
    i64::try_from(unborne).unwrap_or(i64::MAX)
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
