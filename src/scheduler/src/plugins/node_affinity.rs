//! NodeAffinity: node selectors and node affinity.

use super::types::{Plugin, Rejection};
use crate::model::{NodeInfo, PodInfo};

/// Returns whether the node matches the pod's selector and required affinity.
pub fn matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selected = pod
        .node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value));
    selected
        && pod
            .affinity
            .node
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)))
}

/// Rejects a pod on all nodes whose affinity names nodes, but none that fits all requirements of a
/// term.
pub fn check(pod: &PodInfo) -> Result<(), Rejection> {
    match &pod.affinity.named {
        Some(names) if names.is_empty() => Err(Rejection::unresolvable(
            Plugin::NodeAffinity,
            "pod affinity terms conflict",
        )),
        _ => Ok(()),
    }
}

/// Rejects the node if the pod's affinity names other nodes. Such nodes are not tried at all, as the
/// pods of daemon sets name theirs.
pub fn is_named(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    match &pod.affinity.named {
        Some(names) if !names.contains(&node.name) => Err(Rejection::unresolvable(
            Plugin::NodeAffinity,
            "node(s) didn't satisfy plugin(s) [NodeAffinity]",
        )),
        _ => Ok(()),
    }
}

/// Rejects the node if it does not match the pod's selector and required affinity.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if matches(pod, node) {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        Plugin::NodeAffinity,
        "node(s) didn't match Pod's node affinity/selector",
    ))
}

/// Returns the sum of the weights of the preferred terms that the node matches.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    pod.affinity
        .preferred_nodes
        .iter()
        .filter(|w| w.term.matches(&node.name, &node.labels))
        .map(|w| w.weight)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn rules_and_wishes() {
        let ssd = node_with("a", json!({"disk": "ssd"}), json!({}));
        let hdd = node_with("b", json!({"disk": "hdd"}), json!({}));
        let chosen = pod("p", json!({"nodeSelector": {"disk": "ssd"}}));
        assert!(filter(&chosen, &ssd).is_ok());
        assert!(filter(&chosen, &hdd).unwrap_err().unresolvable);
        let term =
            json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]});
        let ruled = pod(
            "p",
            json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}),
        );
        assert!(filter(&ruled, &ssd).is_err());
        assert!(filter(&ruled, &hdd).is_ok());
        let wishing = pod(
            "p",
            json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "preference": term}]}}}),
        );
        assert_eq!((score(&wishing, &ssd), score(&wishing, &hdd)), (0, 7));
    }
}
