//! Validation, evaluation and formatting of `LabelSelector` objects.

use rkube_api::selector::LabelSelector;
use serde_json::{Map, Value};

use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{entries, list, map, text};

/// Validates a `LabelSelector`.
pub(crate) fn validate(errors: &mut Errors, selector: &Value, path: &str) {
    validate_with(errors, selector, true, path);
}

/// Validates a `LabelSelector`; the values of expressions only if `check_values` is true.
pub(crate) fn validate_with(errors: &mut Errors, selector: &Value, check_values: bool, path: &str) {
    crate::metadata::label_map(
        errors,
        crate::tree::at(selector, "matchLabels"),
        &child(path, "matchLabels"),
    );
    for (i, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        let field = index(&child(path, "matchExpressions"), i);
        let key = text(requirement, "key");
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errors.required(
                        child(&field, "values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.forbidden(
                        child(&field, "values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            other => errors.invalid(
                child(&field, "operator"),
                other,
                "not a valid selector operator",
            ),
        }
        errors.invalid_each(&child(&field, "key"), key, names::qualified_name(key));
        for (j, value) in values.iter().enumerate().filter(|_| check_values) {
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(
                &index(&child(&field, "values"), j),
                value,
                names::label_value(value),
            );
        }
    }
}

/// Returns the JSON text of a `LabelSelector` as upstream's messages show it.
pub(crate) fn show_selector(selector: &Value) -> String {
    if selector.is_null() {
        return "null".to_owned();
    }
    let fields: Vec<String> = ["matchLabels", "matchExpressions"]
        .iter()
        .map(|key| (key, crate::tree::at(selector, key)))
        .filter(|(_, value)| !crate::tree::is_empty(value))
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// Returns whether a selector has no requirements and therefore selects everything.
pub(crate) fn is_empty(selector: &Value) -> bool {
    entries(selector, "matchLabels").next().is_none()
        && list(selector, "matchExpressions").is_empty()
}

/// Returns whether a `LabelSelector` can be evaluated.
pub(crate) fn is_sound(selector: &Value) -> bool {
    LabelSelector::from_value(selector).is_ok()
}

/// Returns whether a `LabelSelector` matches labels; false if it is malformed.
pub(crate) fn matches(selector: &Value, labels: Option<&Map<String, Value>>) -> bool {
    LabelSelector::from_value(selector).is_ok_and(|s| s.matches(labels))
}

/// Returns whether labels contain all pairs of a map selector.
pub(crate) fn map_matches(selector: &Value, labels: Option<&Map<String, Value>>) -> bool {
    selector
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// Formats a `LabelSelector` for a table: `a=b,c in (d,e),!f`; `<none>` if empty, `<error>` if
/// malformed.
pub fn format(selector: &Value) -> String {
    if selector.is_null() || is_empty(selector) {
        return "<none>".to_owned();
    }
    match LabelSelector::from_value(selector) {
        Ok(parsed) => parsed.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Formats the map of labels at a path for a table; `<none>` if empty.
pub fn format_labels(value: &Value, path: &str) -> String {
    let pairs: Vec<String> = map(value, path)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}
