//! Validation of what the failures of pods mean for their job.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{at, has, list, text};

/// Most rules of a policy.
const MAX_RULES: usize = 20;
/// Most exit codes of a rule.
const MAX_EXIT_CODES: usize = 255;
/// Most patterns of conditions of a rule.
const MAX_PATTERNS: usize = 20;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// Validates the policy of a job's spec.
pub(super) fn validate(errors: &mut Errors, spec: &Value, path: &str) {
    let rules = list(spec, "podFailurePolicy.rules");
    let base = child(path, "rules");
    if rules.len() > MAX_RULES {
        errors.too_many(base.clone(), rules.len(), MAX_RULES);
    }
    for (i, item) in rules.iter().enumerate() {
        rule(errors, item, spec, &index(&base, i));
    }
}

/// Validates that a text is one of a few, and not missing.
fn one_of(errors: &mut Errors, value: &str, known: &[&str], field: String) {
    if value.is_empty() {
        let all: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        errors.required(field, format!("valid values: [{}]", all.join(" ")));
    } else if !known.contains(&value) {
        errors.not_supported(field, value, known);
    }
}

fn rule(errors: &mut Errors, rule: &Value, spec: &Value, field: &str) {
    let action = text(rule, "action");
    let path = child(field, "action");
    if action == "FailIndex" {
        if !has(spec, "backoffLimitPerIndex") {
            errors.invalid(path, action, "requires the backoffLimitPerIndex to be set");
        }
    } else {
        one_of(errors, action, &ACTIONS, path);
    }
    let codes = at(rule, "onExitCodes");
    if !codes.is_null() {
        exit_codes(errors, codes, spec, &child(field, "onExitCodes"));
    }
    let patterns = list(rule, "onPodConditions");
    let path = child(field, "onPodConditions");
    if patterns.len() > MAX_PATTERNS {
        errors.too_many(path.clone(), patterns.len(), MAX_PATTERNS);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let field = index(&path, i);
        let kind = text(pattern, "type");
        errors.invalid_each(&child(&field, "type"), kind, names::qualified_name(kind));
        one_of(
            errors,
            text(pattern, "status"),
            &STATUSES,
            child(&field, "status"),
        );
    }
    match (codes.is_null(), patterns.is_empty()) {
        (false, false) => errors.invalid_omitted(
            field,
            "specifying both OnExitCodes and OnPodConditions is not supported",
        ),
        (true, true) => errors.invalid_omitted(
            field,
            "specifying one of OnExitCodes and OnPodConditions is required",
        ),
        _ => {}
    }
}

fn exit_codes(errors: &mut Errors, codes: &Value, spec: &Value, field: &str) {
    let operator = text(codes, "operator");
    one_of(errors, operator, &OPERATORS, child(field, "operator"));
    let name = text(codes, "containerName");
    let named = |key: &str| {
        let containers = list(at(spec, "template.spec"), key);
        containers
            .iter()
            .any(|container| text(container, "name") == name)
    };
    if has(codes, "containerName") && !named("containers") && !named("initContainers") {
        errors.invalid(
            child(field, "containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let path = child(field, "values");
    let values = list(codes, "values");
    if values.is_empty() {
        let why = "at least one value is required";
        errors.invalid(path.clone(), at(codes, "values").clone(), why);
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(path.clone(), values.len(), MAX_EXIT_CODES);
    }
    let numbers: Vec<i64> = values.iter().map(|v| v.as_i64().unwrap_or(0)).collect();
    let mut seen = BTreeSet::new();
    for (i, number) in numbers.iter().enumerate() {
        if operator == "In" && *number == 0 {
            errors.invalid(index(&path, i), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(number) {
            errors.duplicate(index(&path, i), *number);
        }
    }
    if !numbers.is_sorted() {
        errors.invalid(path, values.to_vec(), "must be ordered");
    }
}
