//! Evaluates node health from heartbeats.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Conditions that become unknown when the node's heartbeats stop.
const HEARTBEAT_CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Fraction of unready nodes from which a zone is partially disrupted.
const UNREADY_THRESHOLD: f64 = 0.55;
/// In clusters up to this size, partially disrupted zones have no evictions.
const MAX_SMALL_CLUSTER_NODES: usize = 50;

/// Returns the conditions of a node whose heartbeats have stopped, or `None` if they are already
/// unknown.
pub fn silent(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut changed = false;
    for kind in HEARTBEAT_CONDITIONS {
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == *kind)
        {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: (*kind).into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// The health of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Most nodes are ready.
    Normal,
    /// So many nodes are unready that the cause is probably not the nodes, for example a network
    /// failure.
    Partial,
    /// No node is ready.
    Full,
}

/// Returns the health of a zone with these numbers of ready and unready nodes.
pub fn zone(ready: usize, unready: usize) -> Zone {
    if ready == 0 && unready > 0 {
        Zone::Full
    } else if unready > 2 && unready as f64 / (ready + unready) as f64 >= UNREADY_THRESHOLD {
        Zone::Partial
    } else {
        Zone::Normal
    }
}

/// Returns whether pods may be evicted from unready nodes of a zone.
///
/// No pods are evicted if no zone has a ready node, since the control plane itself is probably
/// disconnected. Small clusters have no evictions from partially disrupted zones.
pub fn evicts(of: Zone, zones: &[Zone], nodes: usize) -> bool {
    if zones.iter().all(|zone| *zone == Zone::Full) {
        return false;
    }
    of != Zone::Partial || nodes > MAX_SMALL_CLUSTER_NODES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::at;

    #[test]
    fn silence_makes_conditions_unknown_once() {
        let mut node = Node::default();
        let conditions = silent(&node, at(5)).unwrap();
        assert_eq!(conditions.len(), 4);
        assert_eq!(
            conditions[0].reason.as_deref(),
            Some("NodeStatusNeverUpdated")
        );
        node.status.get_or_insert_default().conditions = Some(conditions);
        assert_eq!(silent(&node, at(6)), None);
        node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
        let conditions = silent(&node, at(7)).unwrap();
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
    }

    #[test]
    fn zones() {
        assert_eq!(zone(4, 0), Zone::Normal);
        assert_eq!(zone(2, 2), Zone::Normal);
        assert_eq!(zone(1, 3), Zone::Partial);
        assert_eq!(zone(0, 1), Zone::Full);
        assert!(evicts(Zone::Normal, &[Zone::Normal], 4));
        assert!(!evicts(Zone::Partial, &[Zone::Partial], 4));
        assert!(evicts(Zone::Partial, &[Zone::Partial], 60));
        assert!(!evicts(Zone::Full, &[Zone::Full], 4));
        assert!(evicts(Zone::Full, &[Zone::Full, Zone::Normal], 4));
    }
}
