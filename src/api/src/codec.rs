//! Objects as bytes other than JSON.

use serde_json::Value;

use crate::Object;

/// An object as YAML, keys sorted.
pub fn to_yaml(object: &Object) -> String {
    // A tree of JSON has no key and no number that YAML could not write.
    serde_yaml::to_string(object).unwrap_or_default()
}

/// An object as compact JSON.
pub fn to_json(object: &Object) -> Vec<u8> {
    object.to_string().into_bytes()
}

/// An object as JSON for people: indented by two, as `?pretty` asks.
pub fn to_json_pretty(object: &Object) -> Vec<u8> {
    // Serialising a tree into memory cannot fail.
    serde_json::to_vec_pretty(object).unwrap_or_default()
}

/// The object without what no wire format writes: nulls in maps, recursively.
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
