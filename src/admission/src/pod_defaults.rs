//! Small plugins that set defaults of pods and nodes: TaintNodesByCondition,
//! DefaultTolerationSeconds and PodTopologyLabels.

use rkube_api::{Object, meta};
use serde_json::json;

use crate::types::{Operation, Request};
use rkube_auth::{ObjectReader, tree};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Seconds that a pod stays bound to a node that is not ready or not reachable.
const TOLERATION_SECONDS: i64 = 300;

/// TaintNodesByCondition: taints new nodes as not ready. The node lifecycle controller removes
/// the taint.
pub(super) fn taint_new_node(request: &mut Request<'_>) {
    if request.operation != Operation::Create || !request.is_whole("", "nodes") {
        return;
    }
    let Some(node) = request.object.as_deref_mut() else {
        return;
    };
    let is_there = |taint: &Object| {
        tree::text(taint, &["key"]) == NOT_READY && tree::text(taint, &["effect"]) == "NoSchedule"
    };
    if !tree::items(node, &["spec", "taints"]).iter().any(is_there) {
        tree::make_array(node, &["spec", "taints"])
            .push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

/// DefaultTolerationSeconds: lets pods tolerate nodes that are not ready or not reachable for
/// five minutes, unless they have tolerations for these taints.
pub(super) fn default_tolerations(request: &mut Request<'_>) {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !request.is_whole("", "pods") {
        return;
    }
    let Some(pod) = request.object.as_deref_mut() else {
        return;
    };
    for key in [NOT_READY, UNREACHABLE] {
        let tolerates = |toleration: &Object| {
            let field = |name| tree::text(toleration, &[name]);
            (field("key") == key || field("key").is_empty())
                && matches!(field("effect"), "NoExecute" | "")
        };
        if !tree::items(pod, &["spec", "tolerations"])
            .iter()
            .any(tolerates)
        {
            tree::make_array(pod, &["spec", "tolerations"]).push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

/// PodTopologyLabels: copies the zone and region labels of the node to a pod that is bound
/// to it or created on it.
pub(super) fn copy_topology_labels(reader: &dyn ObjectReader, request: &mut Request<'_>) {
    const LABELS: [&str; 2] = [
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
    ];
    if request.operation != Operation::Create || !request.is("", "pods") {
        return;
    }
    let subresource = request.subresource;
    let Some(object) = request.object.as_deref_mut() else {
        return;
    };
    let node = match subresource {
        "" => tree::text(object, &["spec", "nodeName"]),
        "binding" if matches!(tree::text(object, &["target", "kind"]), "Node" | "") => {
            tree::text(object, &["target", "name"])
        }
        _ => return,
    };
    let Some(node) = (!node.is_empty())
        .then(|| reader.get("", "nodes", "", node))
        .flatten()
    else {
        return;
    };
    for key in LABELS {
        if let Some(value) = meta::label(&node, key) {
            meta::set_label(object, key, value);
        }
    }
}
