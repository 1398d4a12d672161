//! Custom resources' schemas in version 2.

use serde_json::{Map, Value};

/// Returns whether `map` has `key` with the value true.
pub(super) fn truth(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Reduces a custom resource's schema to what version 2 can express. Clients would
/// reject valid objects for an approximation of the rest.
pub(super) fn simplify(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for key in ["oneOf", "anyOf", "allOf", "not"] {
        map.remove(key);
    }
    // Version 2 has no null: a nullable field is not required and may be anything.
    let nullable: Vec<String> = match map.get("properties") {
        Some(Value::Object(properties)) => properties
            .iter()
            .filter(|(_, p)| p["nullable"] == true)
            .map(|(name, _)| name.clone())
            .collect(),
        _ => Vec::new(),
    };
    if map
        .get("additionalProperties")
        .is_some_and(|p| p["nullable"] == true)
    {
        map.remove("required");
    } else if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|r| !nullable.iter().any(|n| r == n));
        if required.is_empty() {
            map.remove("required");
        }
    }
    if map.remove("nullable").is_some_and(|n| n == true) {
        for key in ["type", "items", "properties"] {
            map.remove(key);
        }
    }
    if truth(map, "x-kubernetes-preserve-unknown-fields") {
        map.remove("items");
        map.remove("properties");
        if map.get("type").is_some_and(|t| t == "object") {
            map.remove("type");
        }
    }
    // A list without items has no type either.
    if !map.contains_key("items") && map.get("type").is_some_and(|t| t == "array") {
        map.remove("type");
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            simplify(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
}
