//! NodeUnschedulable: rejects cordoned nodes, unless the pod tolerates the `unschedulable` taint.

use rkube_component_helpers::tolerations::tolerates;

use super::types::{Plugin, Rejection};
use crate::model::{NodeInfo, PodInfo};

const TAINT: &str = "node.kubernetes.io/unschedulable";

/// Rejects the node if it is cordoned and the pod does not tolerate that.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let bears = || {
        pod.tolerations
            .iter()
            .any(|t| tolerates(t, TAINT, "", "NoSchedule"))
    };
    if node.unschedulable && !bears() {
        return Err(Rejection::unresolvable(
            Plugin::NodeUnschedulable,
            "node(s) were unschedulable",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn cordoned() {
        let n = node_with("n", json!({}), json!({"unschedulable": true}));
        assert!(filter(&pod("p", json!({})), &n).unwrap_err().unresolvable);
        let bearing = pod(
            "p",
            json!({"tolerations": [{"key": TAINT, "operator": "Exists"}]}),
        );
        assert!(filter(&bearing, &n).is_ok());
    }
}
