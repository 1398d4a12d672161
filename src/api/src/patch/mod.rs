//! The three kinds of patch that are not server-side apply.

mod json;
mod strategic;

use serde_json::{Map, Value};

use crate::Object;
use crate::status::{Details, Status};

pub use json::{MAX_OPERATIONS, json_patch};
pub use strategic::strategic_merge;

/// 422 for a patch that is well-formed and does not fit the object. Upstream
/// keeps the reason from the client.
fn rejected() -> Status {
    Status::new(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    )
    .with_details(Details::default())
}

/// RFC 7386. A patch that is no object is refused.
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

#[cfg(test)]
mod tests;
