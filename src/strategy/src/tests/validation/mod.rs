//! Valid and invalid objects, with the errors that upstream's validation
//! reports for them.
//!
//! A case is a JSON merge patch (RFC 7386) for a valid object, whose defaults
//! are set, and the expected errors as `Kind field`, separated by commas. As in
//! upstream's tests, defaulting does not run again after the patch.

mod admission;
mod apps;
mod autoscaling;
mod batch;
mod cluster;
mod config;
mod flowcontrol;
mod jobs;
mod metadata;
mod network;
mod pod_containers;
mod pod_states;
mod pod_volumes;
mod pods;
mod ratcheting;
mod services;
mod slices;
mod storage;
mod volumes;

use serde_json::{Map, Value, json};

use crate::{Context, strategy_for};
use rkube_api::status::FieldError;

/// A merge patch, and the expected errors of the patched object.
type Case<'a> = (&'a str, &'a str);

/// Merges a patch into a value (RFC 7386).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    for (key, patch) in fields {
        if patch.is_null() {
            value.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut value[key.as_str()], patch);
        }
    }
}

pub(crate) fn patched(object: &Value, patch: &str) -> Value {
    let mut object = object.clone();
    let patch: Value = serde_json::from_str(patch).unwrap_or_else(|e| panic!("{patch}: {e}"));
    merge(&mut object, &patch);
    object
}

/// Formats errors in the notation of cases.
pub(super) fn summary(errors: &[FieldError]) -> String {
    let errors: Vec<String> = errors
        .iter()
        .map(|e| format!("{:?} {}", e.kind, e.field))
        .collect();
    errors.join(", ")
}

/// Returns an object with defaults, ready for validation.
pub(crate) fn prepared(group: &str, kind: &str, mut object: Value) -> Value {
    let strategy = strategy_for(group, kind);
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("x");
    }
    strategy.default(&mut object);
    let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "user");
    strategy.prepare_create(&ctx, &mut object);
    object
}

#[track_caller]
pub(super) fn report(differences: &[String]) {
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// Asserts the errors of creating objects.
#[track_caller]
fn assert_create(group: &str, kind: &str, object: Value, cases: &[Case<'_>]) {
    let strategy = strategy_for(group, kind);
    let base = prepared(group, kind, object);
    let valid = strategy.validate_create(&base);
    assert!(valid.is_empty(), "the base of {kind}: {}", summary(&valid));
    let mut differences = Vec::new();
    for (patch, want) in cases {
        let errors = strategy.validate_create(&patched(&base, patch));
        let got = summary(&errors);
        if got != *want {
            differences.push(format!("{patch}\n   got: {got}\n  want: {want}"));
        }
    }
    report(&differences);
}

/// Asserts the errors of updating objects.
#[track_caller]
fn assert_update(group: &str, kind: &str, object: Value, cases: &[Case<'_>]) {
    let strategy = strategy_for(group, kind);
    let base = prepared(group, kind, object);
    let mut differences = Vec::new();
    for (patch, want) in cases {
        let errors = strategy.validate_update(&patched(&base, patch), &base);
        let got = summary(&errors);
        if got != *want {
            differences.push(format!("{patch}\n   got: {got}\n  want: {want}"));
        }
    }
    report(&differences);
}

/// Asserts the errors of creating objects that contain a patched item. `wrap` makes a patch of
/// the object from the item. `@` in the expected errors stands for the item's path.
#[track_caller]
fn assert_item(
    (group, kind): (&str, &str),
    object: Value,
    (item, path): (Value, &str),
    wrap: fn(Value) -> Value,
    cases: &[Case<'_>],
) {
    let cases: Vec<(String, String)> = cases
        .iter()
        .map(|(patch, want)| {
            let patch = wrap(patched(&item, patch)).to_string();
            (patch, want.replace('@', path))
        })
        .collect();
    let cases: Vec<Case<'_>> = cases
        .iter()
        .map(|(patch, want)| (patch.as_str(), want.as_str()))
        .collect();
    assert_create(group, kind, object, &cases);
}
