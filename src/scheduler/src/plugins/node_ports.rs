//! NodePorts: each host port of a node can be used by only one pod.

use super::types::{Plugin, Rejection};
use crate::model::{NodeInfo, PodInfo};

/// Rejects the node if one of the pod's host ports is in use.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if pod.host_ports.is_empty() {
        return Ok(());
    }
    let taken = node
        .pods
        .iter()
        .flat_map(|p| &p.host_ports)
        .any(|used| pod.host_ports.iter().any(|wanted| wanted.conflicts(used)));
    if taken {
        return Err(Rejection::new(
            Plugin::NodePorts,
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn taken_ports() {
        let with = |name: &str, port: i32| {
            pod(
                name,
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port}]}]}),
            )
        };
        let mut n = node("n");
        n.add(Arc::new(with("a", 80)));
        assert!(filter(&with("b", 80), &n).is_err());
        assert!(filter(&with("b", 81), &n).is_ok());
    }
}
