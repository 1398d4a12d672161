//! Validation of the common conditions in a status (upstream: `metav1validation.ValidateConditions`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{at, has, int, text};

const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
/// Longest reason, in bytes.
const MAX_REASON: usize = 1 << 10;
/// Longest message, in bytes.
const MAX_MESSAGE: usize = 32 << 10;

/// Validates the conditions of a list: distinct types, known statuses, times and reasons.
pub(crate) fn validate(errors: &mut Errors, conditions: &[Value], field: &str) {
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let field = index(field, i);
        let kind = text(condition, "type");
        if !seen.insert(kind) {
            errors.duplicate(child(&field, "type"), kind);
        }
        validate_one(errors, condition, &field);
    }
}

fn validate_one(errors: &mut Errors, condition: &Value, field: &str) {
    let kind = text(condition, "type");
    errors.invalid_each(&child(field, "type"), kind, names::qualified_name(kind));
    let status = text(condition, "status");
    if !STATUSES.contains(&status) {
        errors.not_supported(child(field, "status"), status, &STATUSES);
    }
    if let Some(generation) = int(condition, "observedGeneration")
        && generation < 0
    {
        errors.invalid(
            child(field, "observedGeneration"),
            generation,
            "must be greater than or equal to zero",
        );
    }
    if !has(condition, "lastTransitionTime") {
        errors.required(child(field, "lastTransitionTime"), "");
    }
    let reason = text(condition, "reason");
    let at_reason = child(field, "reason");
    if reason.is_empty() {
        errors.required(at_reason, "");
    } else {
        if !is_reason(reason) {
            let why = names::regex_error(
                "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                &[
                    "my_name",
                    "MY_NAME",
                    "MyName",
                    "ReasonA,ReasonB",
                    "ReasonA:ReasonB",
                ],
            );
            errors.invalid(at_reason.clone(), reason, why);
        }
        if reason.len() > MAX_REASON {
            errors.too_long(at_reason, MAX_REASON);
        }
    }
    if text(condition, "message").len() > MAX_MESSAGE {
        errors.too_long(child(field, "message"), MAX_MESSAGE);
    }
}

fn is_reason(reason: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(word)
        && reason.chars().all(|c| word(c) || c == ',' || c == ':')
}

/// Returns whether a list at a path has a condition of a type with status `True`.
pub(crate) fn is_true(obj: &Value, path: &str, kind: &str) -> bool {
    at(obj, path)
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| text(c, "type") == kind && text(c, "status") == "True")
}
