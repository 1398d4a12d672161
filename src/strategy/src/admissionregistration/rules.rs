//! Validation of rules that select requests by operation and resource.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::tree::{has, list, text};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

/// Validates a rule (upstream: `validateRuleWithOperations`).
pub(super) fn validate(errors: &mut Errors, rule: &Value, field: &str) {
    let has_all = |key: &str| list(rule, key).iter().any(|value| value == "*");
    for (key, what) in [
        ("operations", "operations"),
        ("apiGroups", "API groups"),
        ("apiVersions", "API versions"),
    ] {
        let values = list(rule, key);
        let path = child(field, key);
        if values.is_empty() {
            errors.required(path.clone(), "");
        }
        if values.len() > 1 && has_all(key) {
            let why = format!("if '*' is present, must not specify other {what}");
            errors.invalid(path.clone(), values.to_vec(), why);
        }
        for (i, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            if key == "operations" && !OPERATIONS.contains(&value) {
                errors.not_supported(index(&path, i), value, &OPERATIONS);
            } else if key == "apiVersions" && value.is_empty() {
                errors.required(index(&path, i), "");
            }
        }
    }
    resources(errors, list(rule, "resources"), &child(field, "resources"));
    let scope = text(rule, "scope");
    if has(rule, "scope") && !matches!(scope, "*" | "Cluster" | "Namespaced") {
        errors.not_supported(
            child(field, "scope"),
            scope,
            &["*", "Cluster", "Namespaced"],
        );
    }
}

/// Validates resources and subresources, of which none may include another.
fn resources(errors: &mut Errors, resources: &[Value], field: &str) {
    if resources.is_empty() {
        errors.required(field, "");
    }
    // Those with all subresources, and subresources of all.
    let (mut whole, mut everywhere) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for (i, resource) in resources.iter().enumerate() {
        let resource = resource.as_str().unwrap_or_default();
        let path = index(field, i);
        if resource.is_empty() {
            errors.required(path, "");
            continue;
        }
        let Some((name, sub)) = resource.split_once('/') else {
            // As upstream, the last one counts.
            plain = resource != "*";
            continue;
        };
        if whole.contains(name) {
            let why = format!("if '{name}/*' is present, must not specify {resource}");
            errors.invalid(path.clone(), resource, why);
        }
        if everywhere.contains(sub) {
            let why = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.invalid(path, resource, why);
        }
        if sub == "*" {
            whole.insert(name);
        }
        if name == "*" {
            everywhere.insert(sub);
        }
    }
    let has = |name: &str| resources.iter().any(|resource| resource == name);
    if resources.len() > 1 && has("*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        errors.invalid(field, resources.to_vec(), why);
    }
    if has("*") && plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(field, resources.to_vec(), why);
    }
}
