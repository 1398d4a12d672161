//! NodeName: a pod with `spec.nodeName` fits only that node.

use super::types::{Plugin, Rejection};
use crate::model::{NodeInfo, PodInfo};

/// Rejects the node if the pod names another one.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if pod.node.is_empty() || pod.node == node.name {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        Plugin::NodeName,
        "node(s) didn't match the requested node name",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn named() {
        let p = pod("p", json!({"nodeName": "a"}));
        assert!(filter(&p, &node("a")).is_ok());
        assert!(filter(&p, &node("b")).is_err());
    }
}
