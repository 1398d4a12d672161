//! Rules shared by claims, classes and slices.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{at, has, list, text};

/// Longest name of a pool, in bytes.
const MAX_POOL: usize = 253;
/// Longest identifier of an attribute, in bytes.
const MAX_ID: usize = 32;
/// Longest expression of a selector, in bytes.
const MAX_EXPRESSION: usize = 10 << 10;
/// Most selectors of a request or class.
const MAX_SELECTORS: usize = 32;
/// Longest parameters of a configuration, in bytes.
pub(super) const MAX_PARAMETERS: usize = 10 << 10;
/// Effects of taints.
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Validates the items of a list, or only that there are too many.
pub(super) fn limited(
    errors: &mut Errors,
    values: &Value,
    max: usize,
    field: &str,
    mut item: impl FnMut(&mut Errors, &Value, &str),
) -> bool {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
    if values.len() > max {
        errors.too_many(field, values.len(), max);
        return false;
    }
    for (i, value) in values.iter().enumerate() {
        item(errors, value, &index(field, i));
    }
    true
}

/// Validates a list as [`limited`], and that no two items have the same key.
pub(super) fn distinct<'a>(
    errors: &mut Errors,
    values: &'a Value,
    max: usize,
    field: &str,
    item: impl FnMut(&mut Errors, &Value, &str),
    key: impl Fn(&'a Value) -> &'a str,
) {
    if !limited(errors, values, max, field, item) {
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, value) in values.as_array().into_iter().flatten().enumerate() {
        let key = key(value);
        if !seen.insert(key) {
            errors.duplicate(index(field, i), key);
        }
    }
}

/// Returns the text of an item that is a string.
pub(super) fn as_text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Validates a name that is a DNS label.
pub(super) fn label(errors: &mut Errors, name: &str, field: &str) {
    errors.invalid_each(field, name, names::dns1123_label(name));
}

/// Validates the name of a pool: DNS subdomains, separated by slashes.
pub(super) fn pool(errors: &mut Errors, name: &str, field: &str) {
    if name.is_empty() {
        errors.required(field, "");
        return;
    }
    if name.len() > MAX_POOL {
        errors.too_long(field, MAX_POOL);
    }
    for part in name.split('/') {
        errors.invalid_each(field, part, names::dns1123_subdomain(part));
    }
}

/// Validates the selectors of a request or class, except their expressions.
pub(super) fn selectors(errors: &mut Errors, selectors: &Value, field: &str) {
    limited(
        errors,
        selectors,
        MAX_SELECTORS,
        field,
        |errors, selector, field| {
            if !has(selector, "cel") {
                errors.required(child(field, "cel"), "");
            } else if text(selector, "cel.expression").len() > MAX_EXPRESSION {
                errors.too_long(format!("{field}.cel.expression"), MAX_EXPRESSION);
            }
        },
    );
}

/// Validates the configuration of devices, which is for their driver to understand.
pub(super) fn configuration(errors: &mut Errors, config: &Value, field: &str) {
    let opaque = child(field, "opaque");
    if !has(config, "opaque") {
        errors.required(opaque, "");
        return;
    }
    names::csi_driver(
        errors,
        text(config, "opaque.driver"),
        &child(&opaque, "driver"),
    );
    let parameters = at(config, "opaque.parameters");
    raw(
        errors,
        parameters,
        MAX_PARAMETERS,
        &child(&opaque, "parameters"),
    );
}

/// Validates data that must be a JSON object of limited size.
pub(super) fn raw(errors: &mut Errors, data: &Value, max: usize, field: &str) {
    if data.is_null() {
        errors.required(field, "");
    } else if data.to_string().len() > max {
        errors.too_long(field, max);
    } else if !data.is_object() {
        errors.invalid(field, "<value omitted>", "must be a valid JSON object");
    }
}

/// Validates the name of an attribute or capacity: a C identifier, which may have a domain.
pub(super) fn qualified_name(errors: &mut Errors, name: &str, field: &str) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [id] => identifier(errors, id, field),
        [domain, id] => {
            if domain.is_empty() {
                errors.invalid(field, "", "the domain must not be empty");
            } else {
                names::csi_driver(errors, domain, field);
            }
            if id.is_empty() {
                errors.invalid(field, "", "the name must not be empty");
            } else {
                identifier(errors, id, field);
            }
        }
        // As upstream, more slashes are not looked at.
        _ => {}
    }
}

/// Validates the name of an attribute with its domain.
pub(super) fn fully_qualified_name(errors: &mut Errors, name: &str, field: &str) {
    qualified_name(errors, name, field);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(field, name, why);
    }
}

fn identifier(errors: &mut Errors, id: &str, field: &str) {
    if id.len() > MAX_ID {
        errors.too_long(field, MAX_ID);
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fits = id.starts_with(|c: char| word(c) && !c.is_ascii_digit()) && id.chars().all(word);
    if !fits {
        let why = names::regex_error(
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        );
        errors.invalid(field, id, why);
    }
}

/// Validates a taint of a device.
pub(super) fn taint(errors: &mut Errors, taint: &Value, field: &str) {
    let key = text(taint, "key");
    errors.invalid_each(&child(field, "key"), key, names::qualified_name(key));
    let value = text(taint, "value");
    if !value.is_empty() {
        errors.invalid_each(&child(field, "value"), value, names::label_value(value));
    }
    let effect = text(taint, "effect");
    if effect.is_empty() {
        errors.required(child(field, "effect"), "");
    } else if !EFFECTS.contains(&effect) {
        errors.not_supported(child(field, "effect"), effect, &EFFECTS);
    }
}

/// Validates a toleration of taints of devices.
pub(super) fn toleration(errors: &mut Errors, toleration: &Value, field: &str) {
    let key = text(toleration, "key");
    if !key.is_empty() {
        errors.invalid_each(&child(field, "key"), key, names::qualified_name(key));
    }
    let value = text(toleration, "value");
    let at_value = child(field, "value");
    match text(toleration, "operator") {
        "Exists" => {
            if !value.is_empty() {
                errors.invalid(at_value, value, "must be empty for operator `Exists`");
            }
        }
        "Equal" => errors.invalid_each(&at_value, value, names::label_value(value)),
        "" => errors.required(child(field, "operator"), ""),
        other => errors.not_supported(child(field, "operator"), other, &["Equal", "Exists"]),
    }
    let effect = text(toleration, "effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.not_supported(child(field, "effect"), effect, &EFFECTS);
    }
}

/// Validates the conditions that bind a device, and those that tell that binding failed.
pub(super) fn binding_conditions(errors: &mut Errors, holder: &Value, field: &str) {
    const MAX: usize = 4;
    let keys = ["bindingConditions", "bindingFailureConditions"];
    for key in keys {
        limited(
            errors,
            at(holder, key),
            MAX,
            &child(field, key),
            |errors, value, field| {
                let name = as_text(value);
                errors.invalid_each(field, name, names::qualified_name(name));
            },
        );
    }
    let [bindings, failures] = keys.map(|key| list(holder, key));
    let mut seen = BTreeSet::new();
    for (i, condition) in bindings.iter().map(as_text).enumerate() {
        if !seen.insert(condition) {
            errors.duplicate(index(&child(field, keys[0]), i), condition);
        }
    }
    let mut failing = BTreeSet::new();
    for (i, condition) in failures.iter().map(as_text).enumerate() {
        let field = index(&child(field, keys[1]), i);
        if !failing.insert(condition) {
            errors.duplicate(field.clone(), condition);
        }
        if seen.contains(condition) {
            let why = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(field, condition, why);
        }
    }
    if bindings.is_empty() && !failures.is_empty() {
        errors.invalid(
            child(field, keys[0]),
            at(holder, keys[0]).clone(),
            "bindingConditions are required to use bindingFailureConditions",
        );
    }
    if failures.is_empty() && !bindings.is_empty() {
        errors.invalid(
            child(field, keys[1]),
            at(holder, keys[1]).clone(),
            "bindingFailureConditions are required to use bindingConditions",
        );
    }
}
