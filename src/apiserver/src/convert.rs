//! Version conversion of built-in kinds that are served in several versions but stored in one.
//!
//! The versions of most kinds have the same schema, so that conversion only changes `apiVersion`.
//! This module holds the exceptions.

use rkube_api::registry::Resource as ResourceInfo;
use rkube_api::status::Status;
use rkube_api::{Object, gvk, meta};
use serde_json::{Map, Value, json};

/// The group and version in which a resource is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageVersion {
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
}

impl StorageVersion {
    /// Returns the storage version of a resource.
    pub fn of(row: &ResourceInfo) -> Self {
        Self {
            group: row.storage_group.to_string(),
            version: row.storage_version.to_string(),
        }
    }
}

/// Converts a stored object to the version of `row`, in place.
pub fn from_storage(object: &mut Object, row: &ResourceInfo) -> Result<(), Status> {
    match (&*row.group, &*row.version, &*row.kind) {
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => hpa_v2_to_v1(object)?,
        ("events.k8s.io", "v1", "Event") => rename(object, &EVENT_FIELDS, true),
        _ => {}
    }
    meta::set_type(object, &row.api_version(), &row.kind);
    Ok(())
}

/// Converts an object of the version of `row` to the storage version, in place.
pub fn to_storage(
    object: &mut Object,
    row: &ResourceInfo,
    storage_version: &StorageVersion,
) -> Result<(), Status> {
    match (&*row.group, &*row.version, &*row.kind) {
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => hpa_v1_to_v2(object)?,
        ("events.k8s.io", "v1", "Event") => rename(object, &EVENT_FIELDS, false),
        _ => {}
    }
    meta::set_type(
        object,
        &gvk::api_version(&storage_version.group, &storage_version.version),
        &row.kind,
    );
    Ok(())
}

/// Fields of an Event that are named differently in the core group and in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(object: &mut Object, fields: &[(&str, &str)], forward: bool) {
    let map = meta::map_mut(object);
    for (ours, theirs) in fields {
        let (from, to) = if forward {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        if let Some(value) = map.remove(*from) {
            map.insert((*to).to_owned(), value);
        }
    }
}

const HPA_METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const HPA_BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const HPA_CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const HPA_CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

/// Converts an autoscaler from v2 to v1. v1 only has a CPU target; other metrics are kept in
/// annotations, as upstream does.
fn hpa_v2_to_v1(object: &mut Object) -> Result<(), Status> {
    let mut annotations = Map::new();
    let mut spec = object["spec"].take();
    if let Some(spec) = spec.as_object_mut() {
        if let Some(Value::Array(metrics)) = spec.remove("metrics") {
            let (cpu, others): (Vec<Value>, Vec<Value>) =
                metrics.into_iter().partition(is_cpu_utilization);
            if let Some(target) = cpu.first() {
                spec.insert(
                    "targetCPUUtilizationPercentage".into(),
                    target["resource"]["target"]["averageUtilization"].clone(),
                );
            }
            if !others.is_empty() {
                annotations.insert(HPA_METRICS.into(), Value::Array(others).to_string().into());
            }
        }
        if let Some(behavior) = spec.remove("behavior") {
            annotations.insert(HPA_BEHAVIOR.into(), behavior.to_string().into());
        }
    }
    object["spec"] = spec;
    let mut status = object["status"].take();
    if let Some(status) = status.as_object_mut() {
        if let Some(Value::Array(metrics)) = status.remove("currentMetrics") {
            let cpu = metrics
                .iter()
                .find(|m| m["type"] == "Resource" && m["resource"]["name"] == "cpu");
            if let Some(current) =
                cpu.and_then(|m| m["resource"]["current"].get("averageUtilization"))
            {
                status.insert("currentCPUUtilizationPercentage".into(), current.clone());
            }
            if !metrics.is_empty() {
                annotations.insert(HPA_CURRENT.into(), Value::Array(metrics).to_string().into());
            }
        }
        if let Some(conditions) = status.remove("conditions") {
            annotations.insert(HPA_CONDITIONS.into(), conditions.to_string().into());
        }
    }
    if !status.is_null() {
        object["status"] = status;
    } else {
        meta::map_mut(object).remove("status");
    }
    for (key, value) in annotations {
        meta::child_map(meta::metadata_mut(object), "annotations").insert(key, value);
    }
    Ok(())
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_i64()
}

fn hpa_v1_to_v2(object: &mut Object) -> Result<(), Status> {
    let mut take = |key: &str| -> Result<Option<Value>, Status> {
        let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else {
            return Ok(None);
        };
        let Some(Value::String(text)) = annotations.remove(key) else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Status::bad_request(format!("annotation {key}: {e}")))
    };
    let (metrics, behavior) = (take(HPA_METRICS)?, take(HPA_BEHAVIOR)?);
    let (conditions, current) = (take(HPA_CONDITIONS)?, take(HPA_CURRENT)?);
    if object["metadata"]["annotations"]
        .as_object()
        .is_some_and(Map::is_empty)
    {
        meta::remove(object, "annotations");
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut all = match metrics {
            Some(Value::Array(all)) => all,
            _ => Vec::new(),
        };
        if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
            all.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}),
            );
        }
        if !all.is_empty() {
            spec.insert("metrics".into(), Value::Array(all));
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    let mut status = object
        .get_mut("status")
        .map(Value::take)
        .unwrap_or_default();
    if let Some(status) = status.as_object_mut() {
        status.remove("currentCPUUtilizationPercentage");
        if let Some(current) = current {
            status.insert("currentMetrics".into(), current);
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
    if status.is_null() {
        meta::map_mut(object).remove("status");
    } else {
        object["status"] = status;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscalers_survive_the_old_version() {
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "behavior": {"x": 1}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                {"type": "Pods", "pods": {}}
            ]},
            "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale"}]},
        });
        let mut object = v2.clone();
        hpa_v2_to_v1(&mut object).unwrap();
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 80);
        assert!(object["spec"].get("metrics").is_none());
        hpa_v1_to_v2(&mut object).unwrap();
        assert_eq!(object, v2);
    }

    #[test]
    fn events_are_renamed_both_ways() {
        let core =
            json!({"involvedObject": {"name": "p"}, "message": "m", "count": 2, "reason": "r"});
        let mut event = core.clone();
        rename(&mut event, &EVENT_FIELDS, true);
        assert_eq!(
            event,
            json!({"regarding": {"name": "p"}, "note": "m", "deprecatedCount": 2, "reason": "r"})
        );
        rename(&mut event, &EVENT_FIELDS, false);
        assert_eq!(event, core);
    }
}
