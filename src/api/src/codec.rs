//! Encodes objects as JSON and YAML.

use serde_json::Value;

use crate::Object;

/// Encodes an object as YAML, with keys sorted.
pub fn to_yaml(object: &Object) -> String {
    // A JSON tree has only keys and numbers that YAML can express.
    serde_yaml::to_string(object).unwrap_or_default()
}

/// Encodes an object as compact JSON.
pub fn to_json(object: &Object) -> Vec<u8> {
    object.to_string().into_bytes()
}

/// Encodes an object as JSON indented by two, as `?pretty` requests.
pub fn to_json_pretty(object: &Object) -> Vec<u8> {
    // Serialising a tree into memory cannot fail.
    serde_json::to_vec_pretty(object).unwrap_or_default()
}

/// Removes nulls in maps, recursively; no wire format contains them.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}
