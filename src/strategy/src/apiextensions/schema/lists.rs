//! Merging of lists and maps: their types, and the keys of their items.

use serde_json::Value;

use super::property;
use crate::errors::{Errors, child};
use crate::tree::{at, flag, has, list, text};

/// Checks that the type is `wanted` where the keyword needs it. Returns whether it is.
fn needs_type(errors: &mut Errors, schema: &Value, path: &str, wanted: &str, key: &str) -> bool {
    let kind = text(schema, "type");
    let detail = format!("must be {wanted} if {key} is specified");
    if kind.is_empty() {
        errors.required(child(path, "type"), detail);
    } else if kind != wanted {
        errors.invalid(child(path, "type"), kind, detail);
    }
    kind == wanted
}

/// Checks the type of a map.
pub(super) fn map_type(errors: &mut Errors, schema: &Value, path: &str) {
    let key = "x-kubernetes-map-type";
    let Some(kind) = at(schema, key).as_str() else {
        return;
    };
    needs_type(errors, schema, path, "object", key);
    if !matches!(kind, "atomic" | "granular") {
        errors.not_supported_text(child(path, key), kind, &["atomic", "granular"]);
    }
}

/// Checks the type of a list, its items and their keys.
pub(super) fn list_type(errors: &mut Errors, schema: &Value, path: &str) {
    let key = "x-kubernetes-list-type";
    let kind = at(schema, key).as_str();
    let items = at(schema, "items");
    let keys = at(schema, "x-kubernetes-list-map-keys");
    if let Some(kind) = kind {
        let fits = needs_type(errors, schema, path, "array", key);
        if fits && kind == "set" {
            set_items(errors, items, &child(path, "items"));
        }
        if !matches!(kind, "atomic" | "set" | "map") {
            errors.not_supported_text(child(path, key), kind, &["atomic", "set", "map"]);
        }
        if matches!(kind, "set" | "map") && flag(items, "nullable") {
            errors.forbidden(
                format!("{path}.items.nullable"),
                format!("cannot be nullable when {key} is {kind}"),
            );
        }
    }
    if keys.as_array().is_some_and(|keys| !keys.is_empty()) && kind != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind {
            None => errors.required(child(path, key), detail),
            Some(kind) => errors.invalid(child(path, key), kind, detail),
        }
    }
    if kind == Some("map") {
        list_map(errors, items, keys, path);
    }
}

fn set_items(errors: &mut Errors, items: &Value, path: &str) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (key, default) = match text(items, "type") {
        "array" => ("x-kubernetes-list-type", "atomic"),
        "object" => ("x-kubernetes-map-type", "granular"),
        _ => return,
    };
    if at(items, key).as_str().unwrap_or(default) != "atomic" {
        errors.invalid(
            child(path, key),
            at(items, "x-kubernetes-list-type").clone(),
            detail,
        );
    }
}

fn list_map(errors: &mut Errors, items: &Value, keys: &Value, path: &str) {
    let at_keys = child(path, "x-kubernetes-list-map-keys");
    let at_items = child(path, "items");
    let names: Vec<&str> = keys
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        errors.required(
            &at_keys,
            "must not be empty if x-kubernetes-list-type is map",
        );
    }
    match items {
        Value::Null => errors.required(
            &at_items,
            "must have a schema if x-kubernetes-list-type is map",
        ),
        Value::Object(_) => {}
        other => errors.invalid(
            &at_items,
            other.clone(),
            "must only have a single schema if x-kubernetes-list-type is map",
        ),
    }
    if !items.is_object() {
        return;
    }
    let kind = text(items, "type");
    let is_object = kind == "object";
    if !is_object {
        errors.invalid(
            child(&at_items, "type"),
            kind,
            "must be object if parent array's x-kubernetes-list-type is map",
        );
    }
    for (i, name) in names.iter().enumerate() {
        let declared = at(items, "properties").get(*name);
        if is_object {
            if names[..i].contains(name) {
                errors.invalid(&at_keys, keys.clone(), "must not contain duplicate entries");
            }
            if declared.is_none() {
                errors.invalid(
                    &at_keys,
                    keys.clone(),
                    "entries must all be names of item properties",
                );
            }
        }
        let Some(declared) = declared else { continue };
        let place = property(&at_items, name);
        if is_object && matches!(text(declared, "type"), "array" | "object") {
            errors.invalid(
                child(&place, "type"),
                kind,
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            );
        }
        let required = list(items, "required").iter().any(|r| r == name);
        if !required && !has(declared, "default") {
            errors.required(
                child(&place, "default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if flag(declared, "nullable") {
            errors.forbidden(
                child(&place, "nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            );
        }
    }
}
