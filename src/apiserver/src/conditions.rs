//! Status conditions of objects.

use rkube_api::meta;
use serde_json::{Value, json};

/// Sets the condition of type `kind` in an object's `status`, creating missing parts.
/// `lastTransitionTime` changes only if the condition's status changes.
pub fn set_condition(status: &mut Value, kind: &str, value: &str, reason: &str, message: &str) {
    if !status.is_object() {
        *status = json!({});
    }
    let conditions = &mut status["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    let at = match conditions.iter().position(|c| c["type"] == kind) {
        Some(at) => at,
        None => {
            conditions.push(json!({"type": kind}));
            conditions.len() - 1
        }
    };
    let condition = &mut conditions[at];
    if condition["status"] != value {
        condition["status"] = value.into();
        condition["lastTransitionTime"] = meta::now_rfc3339().into();
    }
    condition["reason"] = reason.into();
    condition["message"] = message.into();
}

/// Returns the condition of type `kind`, if the object has it.
pub fn find_condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}
