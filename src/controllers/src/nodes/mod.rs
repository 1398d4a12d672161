//! Nodes: health, taints, evictions and pod CIDRs.

pub mod eviction;
pub mod health;
pub mod ipam;
pub mod lifecycle;
pub mod taints;
pub mod ttl;

use k8s_openapi::api::core::v1::{Node, ObjectReference};

/// Returns the reference to a node in events. As upstream's, it has no resource version.
fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..Default::default()
    }
}
