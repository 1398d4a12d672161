//! Webhook configurations and admission policies.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::Strategy;
use crate::errors::{Errors, child, index};
use crate::generic::Rules;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, has, int, list, list_mut, text,
};
use crate::{names, selectors};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "MutatingWebhookConfiguration" => &MUTATING,
        "ValidatingWebhookConfiguration" => &VALIDATING,
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => &POLICY,
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => &BINDING,
        _ => return None,
    })
}

static MUTATING: Rules = Rules {
    default: |obj| webhooks(obj, true),
    validate,
    generation: true,
    unconditional: false,
    ..Rules::PLAIN
};

static VALIDATING: Rules = Rules {
    default: |obj| webhooks(obj, false),
    validate,
    generation: true,
    unconditional: false,
    ..Rules::PLAIN
};

fn webhooks(obj: &mut Object, mutating: bool) {
    for hook in list_mut(obj, "webhooks") {
        default_text(hook, "failurePolicy", "Fail");
        default_text(hook, "matchPolicy", "Equivalent");
        default_value(hook, "namespaceSelector", json!({}));
        default_value(hook, "objectSelector", json!({}));
        default_value(hook, "timeoutSeconds", 10);
        if mutating {
            default_text(hook, "reinvocationPolicy", "Never");
        }
        rules(hook, "rules");
        if let Some(service) = at_mut(hook, "clientConfig.service") {
            default_value(service, "port", 443);
        }
    }
}

fn rules(holder: &mut Value, path: &str) {
    for rule in list_mut(holder, path) {
        default_text(rule, "scope", "*");
    }
}

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut seen = std::collections::BTreeSet::new();
    for (i, hook) in list(obj, "webhooks").iter().enumerate() {
        let field = index("webhooks", i);
        let name = text(hook, "name");
        if name.split('.').count() < 3 {
            errors.invalid(
                child(&field, "name"),
                name,
                "should be a domain with at least three segments separated by dots",
            );
        } else {
            errors.invalid_each(&child(&field, "name"), name, names::dns1123_subdomain(name));
        }
        if !seen.insert(name) {
            errors.duplicate(child(&field, "name"), name);
        }
        webhook(&mut errors, hook, &field);
    }
    errors.0
}

/// Validates a webhook, except its name.
fn webhook(errors: &mut Errors, hook: &Value, field: &str) {
    for (j, rule) in list(hook, "rules").iter().enumerate() {
        rule_of(errors, rule, &index(&child(field, "rules"), j));
    }
    one_of(errors, hook, "failurePolicy", &["Fail", "Ignore"], field);
    one_of(errors, hook, "matchPolicy", &["Equivalent", "Exact"], field);
    match text(hook, "sideEffects") {
        "None" | "NoneOnDryRun" => {}
        "" => errors.required(
            child(field, "sideEffects"),
            "must specify one of None, NoneOnDryRun",
        ),
        other => errors.not_supported(
            child(field, "sideEffects"),
            other,
            &["None", "NoneOnDryRun"],
        ),
    }
    if let Some(seconds) = int(hook, "timeoutSeconds")
        && !(1..=30).contains(&seconds)
    {
        errors.invalid(
            child(field, "timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if has(hook, key) {
            selectors::validate(errors, at(hook, key), &child(field, key));
        }
    }
    client_config(errors, hook, &child(field, "clientConfig"));
    let versions = list(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.required(
            child(field, "admissionReviewVersions"),
            "must specify one of v1, v1beta1",
        );
    } else if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.invalid(
            child(field, "admissionReviewVersions"),
            at(hook, "admissionReviewVersions").clone(),
            "must include at least one of v1, v1beta1",
        );
    }
    let reinvocation = text(hook, "reinvocationPolicy");
    if !matches!(reinvocation, "" | "Never" | "IfNeeded") {
        errors.not_supported(
            child(field, "reinvocationPolicy"),
            reinvocation,
            &["IfNeeded", "Never"],
        );
    }
}

/// Validates the client configuration of a webhook: either a URL or a service.
fn client_config(errors: &mut Errors, hook: &Value, config: &str) {
    match (
        has(hook, "clientConfig.url"),
        has(hook, "clientConfig.service"),
    ) {
        (true, true) | (false, false) => {
            errors.required(config, "exactly one of url or service is required");
        }
        (true, false) => {
            let url = text(hook, "clientConfig.url");
            if !url.starts_with("https://") {
                errors.invalid(
                    child(config, "url"),
                    url,
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]"
                        .to_string(),
                );
            }
        }
        (false, true) => {
            for key in ["name", "namespace"] {
                if text(at(hook, "clientConfig.service"), key).is_empty() {
                    errors.required(
                        format!("{config}.service.{key}"),
                        format!("service {key} is required"),
                    );
                }
            }
        }
    }
}

fn one_of(errors: &mut Errors, hook: &Value, key: &str, known: &[&str], field: &str) {
    let value = text(hook, key);
    if !value.is_empty() && !known.contains(&value) {
        errors.not_supported(child(field, key), value, known);
    }
}

fn rule_of(errors: &mut Errors, rule: &Value, field: &str) {
    for key in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values = list(rule, key);
        if values.is_empty() {
            errors.required(child(field, key), "");
        }
        if values.len() > 1 && values.iter().any(|v| v == "*") && key != "resources" {
            errors.invalid(
                child(field, key),
                at(rule, key).clone(),
                "if '*' is present, must not specify other ".to_owned()
                    + match key {
                        "operations" => "operations",
                        "apiGroups" => "API groups",
                        _ => "API versions",
                    },
            );
        }
    }
    let resources = list(rule, "resources");
    if resources.len() > 1 && resources.iter().any(|r| r == "*/*") {
        errors.invalid(
            child(field, "resources"),
            at(rule, "resources").clone(),
            "if '*/*' is present, must not specify other resources",
        );
    }
    for (i, operation) in list(rule, "operations").iter().enumerate() {
        let operation = operation.as_str().unwrap_or_default();
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        if !known.contains(&operation) {
            errors.not_supported(index(&child(field, "operations"), i), operation, &known);
        }
    }
    let scope = text(rule, "scope");
    if !matches!(scope, "" | "*" | "Cluster" | "Namespaced") {
        errors.not_supported(
            child(field, "scope"),
            scope,
            &["*", "Cluster", "Namespaced"],
        );
    }
}

static POLICY: Rules = Rules {
    default: |obj| {
        let mutating = text(obj, "kind") == "MutatingAdmissionPolicy";
        if let Some(spec) = at_mut(obj, "spec") {
            default_text(spec, "failurePolicy", "Fail");
            if has(spec, "matchConstraints") {
                match_resources(spec, "matchConstraints");
            }
            if mutating {
                default_text(spec, "reinvocationPolicy", "Never");
            }
        }
    },
    validate: |obj| {
        let mut errors = Errors::new();
        if !has(obj, "spec.matchConstraints") {
            errors.required("spec.matchConstraints", "");
        } else if list(obj, "spec.matchConstraints.resourceRules").is_empty() {
            errors.required("spec.matchConstraints.resourceRules", "");
        }
        if text(obj, "kind") == "ValidatingAdmissionPolicy"
            && list(obj, "spec.validations").is_empty()
            && list(obj, "spec.auditAnnotations").is_empty()
        {
            errors.required(
                "spec.validations",
                "validations or auditAnnotations must contain at least one item",
            );
        }
        for (i, validation) in list(obj, "spec.validations").iter().enumerate() {
            if text(validation, "expression").trim().is_empty() {
                errors.required(
                    format!("spec.validations[{i}].expression"),
                    "expression is not specified",
                );
            }
        }
        errors.0
    },
    ..Rules::SPEC_AND_STATUS
};

fn match_resources(holder: &mut Value, key: &str) {
    ensure(holder, key);
    if let Some(resources) = at_mut(holder, key) {
        default_text(resources, "matchPolicy", "Equivalent");
        default_value(resources, "namespaceSelector", json!({}));
        default_value(resources, "objectSelector", json!({}));
        rules(resources, "resourceRules");
        rules(resources, "excludeResourceRules");
    }
}

static BINDING: Rules = Rules {
    default: |obj| {
        if has(obj, "spec.matchResources")
            && let Some(spec) = at_mut(obj, "spec")
        {
            match_resources(spec, "matchResources");
        }
    },
    validate: |obj| {
        let mut errors = Errors::new();
        if text(obj, "spec.policyName").is_empty() {
            errors.required("spec.policyName", "");
        }
        if text(obj, "kind") == "ValidatingAdmissionPolicyBinding"
            && list(obj, "spec.validationActions").is_empty()
        {
            errors.required("spec.validationActions", "");
        }
        let mut seen = std::collections::BTreeSet::new();
        for (i, action) in list(obj, "spec.validationActions").iter().enumerate() {
            let (field, action) = (
                index("spec.validationActions", i),
                action.as_str().unwrap_or_default(),
            );
            let known = ["Audit", "Deny", "Warn"];
            if !known.contains(&action) {
                errors.not_supported(&field, action, &known);
            }
            if !seen.insert(action) {
                errors.duplicate(field, action);
            }
        }
        if seen.contains("Deny") && seen.contains("Warn") {
            errors.invalid(
                "spec.validationActions",
                at(obj, "spec.validationActions").clone(),
                "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            );
        }
        errors.0
    },
    generation: true,
    ..Rules::PLAIN
};
