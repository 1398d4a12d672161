//! JSON merge patch.

use serde_json::{Map, Value};

use crate::Object;
use crate::status::Status;

/// Applies a JSON merge patch (RFC 7386).
///
/// # Errors
/// 400 when the patch is not an object.
pub fn merge_patch(object: &Object, patch: &Object) -> Result<Object, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("Invalid JSON Patch"));
    }
    let mut out = object.clone();
    merge_into(&mut out, patch);
    Ok(out)
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_into(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}
