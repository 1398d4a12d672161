//! Builds patches for a pod's status.

use super::conditions::{BY_NODE, DISRUPTED, RESIZE, wanted_names};
use crate::kinds::*;

/// Returns the strategic merge patch from `old` to `new`; `None` if nothing changed.
///
/// Conditions of other writers are not touched. The patch carries the pod's UID, so that it fails
/// for a successor of the same name.
pub(crate) fn patch(
    uid: &str,
    old: Option<&PodStatus>,
    new: &PodStatus,
) -> Option<serde_json::Value> {
    use serde_json::{Map, Value, json};
    let object = |s: Option<&PodStatus>| match s.map(serde_json::to_value) {
        Some(Ok(Value::Object(m))) => m,
        _ => Map::new(),
    };
    let (old, mut new) = (object(old), object(Some(new)));
    let mut changes = Map::new();
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        changes.insert(key.clone(), Value::Null);
    }
    if let (Some(Value::Array(mine)), theirs) = (new.remove("conditions"), old.get("conditions")) {
        let theirs = theirs.and_then(Value::as_array);
        let over: Vec<Value> = theirs
            .into_iter()
            .flatten()
            .filter(|o| {
                RESIZE.iter().any(|r| o["type"] == *r)
                    && mine.iter().all(|c| c["type"] != o["type"])
            })
            .map(|o| json!({"$patch": "delete", "type": o["type"]}))
            .collect();
        let changed: Vec<Value> = mine
            .into_iter()
            .filter(|c| {
                let own_disruption = c["type"] == DISRUPTED && c["reason"] == BY_NODE;
                own_disruption || wanted_names().chain(RESIZE).any(|w| c["type"] == w)
            })
            .filter_map(|mut c| {
                let before = theirs
                    .into_iter()
                    .flatten()
                    .find(|o| o["type"] == c["type"]);
                if before == Some(&c) {
                    return None;
                }
                // A field that no longer applies must be set to null.
                if let (Some(before), Value::Object(fields)) =
                    (before.and_then(Value::as_object), &mut c)
                {
                    for key in before.keys() {
                        fields.entry(key.clone()).or_insert(Value::Null);
                    }
                }
                Some(c)
            })
            .chain(over)
            .collect();
        if !changed.is_empty() {
            changes.insert("conditions".into(), Value::Array(changed));
        }
    }
    for (key, value) in new {
        if old.get(&key) == Some(&value) {
            continue;
        }
        if (key == "podIPs" || key == "hostIPs") && old.contains_key(&key) {
            // The list is merged by address: removed entries need a delete directive.
            let mut list = value.as_array().cloned().unwrap_or_default();
            for gone in old[&key].as_array().into_iter().flatten() {
                if !list.contains(gone) {
                    list.push(json!({"$patch": "delete", "ip": gone["ip"]}));
                }
            }
            let list = if key == "hostIPs" {
                value
            } else {
                Value::Array(list)
            };
            changes.insert(key, list);
            continue;
        }
        changes.insert(key, value);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}
