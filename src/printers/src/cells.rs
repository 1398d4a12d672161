//! Functions that several printers share.

use jiff::Timestamp;
use rkube_api::quantity::Quantity;
use rkube_strategy::Object;
use rkube_strategy::tree::{at, list, text};
use serde_json::Value;

/// Returns the name of the object.
pub(crate) fn name(obj: &Object) -> Value {
    text(obj, "metadata.name").into()
}

/// Returns the object's age.
pub(crate) fn age(obj: &Object, now: Timestamp) -> Value {
    since(text(obj, "metadata.creationTimestamp"), now).into()
}

/// Returns the time since a timestamp, `<unknown>` if it is unset or malformed.
pub(crate) fn since(time: &str, now: Timestamp) -> String {
    match rkube_api::meta::parse_time(time) {
        Some(then) => rkube_api::duration::human(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Returns `value`, or `instead` if it is empty.
pub(crate) fn text_or<'a>(value: &'a str, instead: &'a str) -> &'a str {
    if value.is_empty() { instead } else { value }
}

/// Returns a string value, `<none>` if it is empty.
pub(crate) fn or_none(value: &str) -> Value {
    text_or(value, "<none>").into()
}

/// Converts a scalar to text; `<unset>` for null.
pub(crate) fn or_unset(value: &Value) -> Value {
    match value {
        Value::Null => "<unset>".into(),
        Value::String(s) => s.as_str().into(),
        other => other.to_string().into(),
    }
}

/// Returns the names and the images of the containers of a pod spec.
pub(crate) fn containers(spec: &Value) -> [Value; 2] {
    let join = |key: &str| -> Value {
        let all: Vec<&str> = list(spec, "containers")
            .iter()
            .map(|c| text(c, key))
            .collect();
        all.join(",").into()
    };
    [join("name"), join("image")]
}

/// Joins the first `max` entries and adds the number of the others.
pub(crate) fn join_first(all: &[String], max: usize, none: &str) -> String {
    if all.is_empty() {
        return none.to_owned();
    }
    let shown = all[..all.len().min(max)].join(",");
    if all.len() > max {
        format!("{shown} + {} more...", all.len() - max)
    } else {
        shown
    }
}

/// Abbreviates access modes, in the order `RWO,ROX,RWX,RWOP`.
pub(crate) fn access_modes(modes: &Value) -> String {
    let modes = modes.as_array().map_or(&[][..], Vec::as_slice);
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(mode, _)| modes.iter().any(|m| m == mode))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

/// Returns whether the condition of the given type is true.
pub(crate) fn is_true(obj: &Object, condition: &str) -> bool {
    list(obj, "status.conditions")
        .iter()
        .any(|c| text(c, "type") == condition && text(c, "status") == "True")
}

/// Returns the number of entries of the map or list at a path.
pub(crate) fn count(obj: &Object, path: &str) -> Value {
    match at(obj, path) {
        Value::Object(map) => map.len().into(),
        Value::Array(list) => list.len().into(),
        _ => 0.into(),
    }
}

/// Returns the canonical text of a quantity, `0` if it is malformed.
pub(crate) fn quantity(value: &Value) -> String {
    Quantity::from_value(value)
        .unwrap_or(Quantity::ZERO)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut() {
        let all: Vec<String> = ["a", "b", "c", "d"]
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(join_first(&all, 3, "<none>"), "a,b,c + 1 more...");
        assert_eq!(join_first(&all[..2], 3, "<none>"), "a,b");
        assert_eq!(join_first(&[], 3, "<none>"), "<none>");
    }
}
