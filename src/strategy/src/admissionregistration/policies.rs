//! Validation of admission policies and their bindings, except their expressions: the API server
//! compiles those.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use super::{one_of, rules};
use crate::errors::{Errors, child, index};
use crate::tree::{at, has, list, text};
use crate::{conditions, names, selectors};

/// Most match conditions of a webhook or policy.
const MAX_CONDITIONS: usize = 64;
/// Most audit annotations of a policy.
const MAX_ANNOTATIONS: usize = 20;
/// Longest expression of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 5 << 10;
/// Operations that mutating policies can change; deletions are not among them.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

fn is_blank(holder: &Value, key: &str) -> bool {
    text(holder, key).trim().is_empty()
}

/// Returns whether a policy or binding mutates. Objects in tests have no kind.
fn mutates(obj: &Object) -> bool {
    text(obj, "kind").starts_with("Mutating") || has(obj, "spec.mutations")
}

/// Validates a policy, except its match conditions.
pub(super) fn policy(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = at(obj, "spec");
    if has(spec, "failurePolicy") {
        one_of(
            &mut errors,
            spec,
            "failurePolicy",
            &["Fail", "Ignore"],
            "spec",
        );
    } else {
        errors.required("spec.failurePolicy", "");
    }
    if has(spec, "paramKind") {
        param_kind(&mut errors, at(spec, "paramKind"));
    }
    let constraints = "spec.matchConstraints";
    if has(obj, constraints) {
        match_resources(&mut errors, at(obj, constraints), constraints);
        if list(obj, "spec.matchConstraints.resourceRules").is_empty() {
            errors.required("spec.matchConstraints.resourceRules", "");
        }
    } else {
        errors.required(constraints, "");
    }
    if mutates(obj) {
        mutable_operations(&mut errors, at(obj, constraints), constraints);
    }
    for (i, variable) in list(spec, "variables").iter().enumerate() {
        variable_of(&mut errors, variable, &index("spec.variables", i));
    }
    if mutates(obj) {
        mutations(&mut errors, spec);
    } else {
        validations(&mut errors, obj);
    }
    errors.0
}

fn param_kind(errors: &mut Errors, kind: &Value) {
    let field = "spec.paramKind.apiVersion";
    let version = text(kind, "apiVersion");
    if version.is_empty() {
        errors.required(field, "");
    } else if version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        errors.invalid(field, version, why);
    } else {
        let (group, name) = version.split_once('/').unwrap_or(("", version));
        let problems = names::dns1123_subdomain(group);
        if !group.is_empty() && !problems.is_empty() {
            errors.invalid(field, group, problems.join(","));
        }
        let problems = names::dns1035_label(name);
        if name.is_empty() {
            errors.invalid(field, version, "version must be specified");
        } else if !problems.is_empty() {
            errors.invalid(field, name, problems.join(","));
        }
    }
    let name = text(kind, "kind");
    let problems = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.required("spec.paramKind.kind", "");
    } else if !problems.is_empty() {
        let why = format!(
            "may have mixed case, but should otherwise match: {}",
            problems.join(",")
        );
        errors.invalid("spec.paramKind.kind", name, why);
    }
}

fn match_resources(errors: &mut Errors, resources: &Value, field: &str) {
    if has(resources, "matchPolicy") {
        let known = ["Equivalent", "Exact"];
        one_of(errors, resources, "matchPolicy", &known, field);
    } else {
        errors.required(child(field, "matchPolicy"), "");
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if has(resources, key) {
            selectors::validate(errors, at(resources, key), &child(field, key));
        } else {
            errors.required(child(field, key), "");
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in list(resources, key).iter().enumerate() {
            let field = index(&child(field, key), i);
            let path = child(&field, "resourceNames");
            let mut seen = BTreeSet::new();
            for (j, name) in list(rule, "resourceNames").iter().enumerate() {
                let name = name.as_str().unwrap_or_default();
                errors.invalid_each(&index(&path, j), name, names::path_segment_name(name));
                if !seen.insert(name) {
                    errors.duplicate(index(&path, j), name);
                }
            }
            rules::validate(errors, rule, &field);
        }
    }
}

fn mutable_operations(errors: &mut Errors, resources: &Value, field: &str) {
    for rule in list(resources, "resourceRules") {
        for operation in list(rule, "operations") {
            let operation = operation.as_str().unwrap_or_default();
            if !MUTABLE.contains(&operation) {
                let field = child(field, "resourceRules.operations");
                errors.not_supported(field, operation, &MUTABLE);
            }
        }
    }
}

/// Validates the match conditions of a policy.
pub(super) fn conditions_of_policy(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    match_conditions(&mut errors, at(obj, "spec"), "spec.matchConditions");
    errors.0
}

/// Validates the match conditions of a webhook or of a policy's spec.
pub(super) fn match_conditions(errors: &mut Errors, holder: &Value, field: &str) {
    let conditions = list(holder, "matchConditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(field, conditions.len(), MAX_CONDITIONS);
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let field = index(field, i);
        if is_blank(condition, "expression") {
            errors.required(child(&field, "expression"), "");
        }
        let name = text(condition, "name");
        let field = child(&field, "name");
        if name.is_empty() {
            errors.required(field, "");
            continue;
        }
        errors.invalid_each(&field, name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(field, name);
        }
    }
}

/// Validates a variable: a CEL identifier and an expression.
fn variable_of(errors: &mut Errors, variable: &Value, field: &str) {
    const RESERVED: &str = " true false null in as break const continue else for function if \
        import let loop package namespace return var void while ";
    let name = text(variable, "name");
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let identifier = name.chars().all(word)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !RESERVED.contains(&format!(" {name} "));
    if is_blank(variable, "name") {
        errors.required(child(field, "name"), "name is not specified");
    } else if !identifier {
        errors.invalid(child(field, "name"), name, "must be a valid CEL identifier");
    }
    if is_blank(variable, "expression") {
        errors.required(child(field, "expression"), "expression is not specified");
    }
}

fn validations(errors: &mut Errors, obj: &Object) {
    let validations = list(obj, "spec.validations");
    let annotations = list(obj, "spec.auditAnnotations");
    if validations.is_empty() && annotations.is_empty() {
        for key in ["spec.validations", "spec.auditAnnotations"] {
            errors.required(
                key,
                "validations or auditAnnotations must contain at least one item",
            );
        }
    }
    for (i, item) in validations.iter().enumerate() {
        validation(errors, item, &index("spec.validations", i));
    }
    let field = "spec.auditAnnotations";
    if annotations.len() > MAX_ANNOTATIONS {
        let why = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errors.invalid(field, annotations.to_vec(), why);
    }
    let mut seen = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let field = index(field, i);
        let key = text(annotation, "key");
        let full = format!("{}/{key}", text(obj, "metadata.name"));
        errors.invalid_each(&child(&field, "key"), &full, names::qualified_name(&full));
        let value = text(annotation, "valueExpression").trim();
        let path = child(&field, "valueExpression");
        if value.is_empty() {
            errors.required(path, "valueExpression is not specified");
        } else if value.len() > MAX_ANNOTATION {
            let why = format!("must not exceed {MAX_ANNOTATION} bytes in length");
            errors.required(path, why);
        }
        if !seen.insert(key) {
            errors.duplicate(child(&field, "key"), key);
        }
    }
}

fn validation(errors: &mut Errors, validation: &Value, field: &str) {
    if is_blank(validation, "expression") {
        errors.required(child(field, "expression"), "expression is not specified");
    }
    for key in ["messageExpression", "message"] {
        let value = text(validation, key);
        let path = child(field, key);
        if !value.is_empty() && value.trim().is_empty() {
            errors.invalid(path, value, "must be non-empty if specified");
        } else if key == "message" && value.trim().contains(['\n', '\r']) {
            errors.invalid(path, value, "must not contain line breaks");
        }
    }
    one_of(
        errors,
        validation,
        "reason",
        &["Forbidden", "Invalid", "RequestEntityTooLarge"],
        field,
    );
}

fn mutations(errors: &mut Errors, spec: &Value) {
    if list(spec, "mutations").is_empty() {
        let why = "mutations must contain at least one item";
        errors.required("spec.mutations", why);
    }
    for (i, mutation) in list(spec, "mutations").iter().enumerate() {
        let field = index("spec.mutations", i);
        let kind = text(mutation, "patchType");
        let (own, other) = match kind {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "" => {
                errors.required(child(&field, "patchType"), "");
                continue;
            }
            _ => {
                let known = ["ApplyConfiguration", "JSONPatch"];
                errors.not_supported(child(&field, "patchType"), kind, &known);
                continue;
            }
        };
        if !has(mutation, own) {
            let why = format!("must be specified when patchType is {kind}");
            errors.required(child(&field, own), why);
        } else if is_blank(at(mutation, own), "expression") {
            errors.required(format!("{field}.{own}.expression"), "");
        }
        if has(mutation, other) {
            let why = format!("must not be specified when patchType is {kind}");
            errors.invalid(child(&field, other), format!("{{{other}}}"), why);
        }
    }
    if text(spec, "reinvocationPolicy").is_empty() {
        errors.required("spec.reinvocationPolicy", "");
    } else {
        let known = ["IfNeeded", "Never"];
        one_of(errors, spec, "reinvocationPolicy", &known, "spec");
    }
}

/// Validates the status of a policy. The paths of its warnings are taken as they are.
pub(super) fn status(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let field = "status.typeChecking.expressionWarnings";
    for (i, warning) in list(obj, field).iter().enumerate() {
        let field = index(field, i);
        if text(warning, "warning").is_empty() {
            errors.required(child(&field, "warning"), "");
        }
        if is_blank(warning, "fieldRef") {
            errors.required(child(&field, "fieldRef"), "");
        }
    }
    let field = "status.conditions";
    conditions::validate(&mut errors, list(obj, field), field);
    errors.0
}

/// Validates a binding.
pub(super) fn binding(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let policy = text(obj, "spec.policyName");
    if policy.is_empty() {
        errors.required("spec.policyName", "");
    } else {
        let problems = names::dns1123_subdomain(policy);
        errors.invalid_each("spec.policyName", policy, problems);
    }
    if has(obj, "spec.paramRef") {
        param_ref(&mut errors, at(obj, "spec.paramRef"));
    }
    let field = "spec.matchResources";
    if has(obj, field) {
        match_resources(&mut errors, at(obj, field), field);
    }
    if mutates(obj) {
        mutable_operations(&mut errors, at(obj, field), field);
    } else {
        actions(&mut errors, obj);
    }
    errors.0
}

fn param_ref(errors: &mut Errors, reference: &Value) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let field = "spec.paramRef";
    let name = text(reference, "name");
    let selects = has(reference, "selector");
    if !name.is_empty() {
        errors.invalid_each(&child(field, "name"), name, names::path_segment_name(name));
        if selects {
            errors.forbidden(child(field, "name"), EXCLUSIVE);
        }
    }
    if selects {
        let path = child(field, "selector");
        selectors::validate(errors, at(reference, "selector"), &path);
        if !name.is_empty() {
            errors.forbidden(path, EXCLUSIVE);
        }
    }
    if name.is_empty() && !selects {
        errors.required(field, "one of name or selector must be specified");
    }
    if text(reference, "parameterNotFoundAction").is_empty() {
        errors.required(child(field, "parameterNotFoundAction"), "");
    } else {
        let known = ["Deny", "Allow"];
        one_of(errors, reference, "parameterNotFoundAction", &known, field);
    }
}

fn actions(errors: &mut Errors, obj: &Object) {
    let field = "spec.validationActions";
    let known = ["Audit", "Deny", "Warn"];
    let mut seen = BTreeSet::new();
    for (i, action) in list(obj, field).iter().enumerate() {
        let action = action.as_str().unwrap_or_default();
        if !known.contains(&action) {
            errors.not_supported(index(field, i), action, &known);
        }
        if !seen.insert(action) {
            errors.duplicate(index(field, i), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errors.invalid(
            field,
            at(obj, field).clone(),
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        );
    }
    if seen.is_empty() {
        errors.required(field, "at least one validation action is required");
    }
}
