//! Patches of pods' conditions.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Returns the strategic merge patch of a pod's status that sets a condition. A new one comes last.
pub fn patch(pod: &Pod, condition: Value) -> Value {
    let status = pod.status.as_ref();
    let present = status.and_then(|status| status.conditions.as_deref());
    let mut order: Vec<Value> = present
        .unwrap_or_default()
        .iter()
        .map(|condition| json!({"type": condition.type_}))
        .collect();
    if !order.iter().any(|known| known["type"] == condition["type"]) {
        order.push(json!({"type": condition["type"]}));
    }
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"$setElementOrder/conditions": order, "conditions": [condition]},
    })
}

/// Returns the condition `DisruptionTarget` of a pod, with the current time.
pub fn disruption(pod: &Pod, reason: &str, message: &str, now: jiff::Timestamp) -> Value {
    json!({
        "type": "DisruptionTarget",
        "observedGeneration": pod.metadata.generation,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};

    #[test]
    fn a_new_condition_comes_last() {
        let mut pod = pod("p", "n", "Running", Some(1));
        pod.metadata.generation = Some(3);
        let condition = disruption(&pod, "R", "m", at(0));
        let patch = patch(&pod, condition);
        let order = json!([{"type": "Ready"}, {"type": "DisruptionTarget"}]);
        assert_eq!(patch["status"]["$setElementOrder/conditions"], order);
        assert_eq!(patch["status"]["conditions"][0]["observedGeneration"], 3);
    }
}
