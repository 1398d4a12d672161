//! Validation of affinity and topology spread constraints.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::tree::{at, has, int, list, text};
use crate::{names, selectors};

/// Validates the affinity of a pod.
pub(super) fn affinity(errors: &mut Errors, affinity: &Value, path: &str) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = at(affinity, "nodeAffinity");
    let field = child(path, "nodeAffinity");
    if has(node, REQUIRED) {
        node_selector(errors, at(node, REQUIRED), &child(&field, REQUIRED));
    }
    for (i, term) in list(node, PREFERRED).iter().enumerate() {
        let field = index(&child(&field, PREFERRED), i);
        weight(errors, term, &child(&field, "weight"));
        // As upstream, values that are no labels' values are no error of a preference.
        let preference = child(&field, "preference");
        node_selector_term(errors, at(term, "preference"), false, &preference);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at(affinity, kind);
        let field = child(path, kind);
        for (i, term) in list(pods, REQUIRED).iter().enumerate() {
            pod_affinity_term(errors, term, &index(&child(&field, REQUIRED), i));
        }
        for (i, term) in list(pods, PREFERRED).iter().enumerate() {
            let field = index(&child(&field, PREFERRED), i);
            weight(errors, term, &child(&field, "weight"));
            pod_affinity_term(
                errors,
                at(term, "podAffinityTerm"),
                &child(&field, "podAffinityTerm"),
            );
        }
    }
}

fn weight(errors: &mut Errors, term: &Value, field: &str) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(field, weight, "must be in the range 1-100");
    }
}

fn pod_affinity_term(errors: &mut Errors, term: &Value, path: &str) {
    for key in ["labelSelector", "namespaceSelector"] {
        if has(term, key) {
            selectors::validate(errors, at(term, key), &child(path, key));
        }
    }
    for namespace in list(term, "namespaces") {
        let namespace = namespace.as_str().unwrap_or_default();
        errors.invalid_each(
            &child(path, "namespace"),
            namespace,
            names::dns1123_label(namespace),
        );
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(child(path, "topologyKey"), "can not be empty");
    }
    errors.invalid_each(&child(path, "topologyKey"), key, names::qualified_name(key));
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = list(term, field);
        if !keys.is_empty() && !has(term, "labelSelector") {
            errors.forbidden(
                child(path, field),
                "must not be specified when labelSelector is not set",
            );
        }
        for (i, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            errors.invalid_each(
                &index(&child(path, field), i),
                key,
                names::qualified_name(key),
            );
        }
    }
}

/// Validates a `NodeSelector` of a pod or a volume.
pub(crate) fn node_selector(errors: &mut Errors, selector: &Value, path: &str) {
    let terms = list(selector, "nodeSelectorTerms");
    let field = child(path, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(field, "must have at least one node selector term");
        return;
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(errors, term, true, &index(&field, i));
    }
}

fn node_selector_term(errors: &mut Errors, term: &Value, check_values: bool, path: &str) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        let field = index(&child(path, "matchExpressions"), i);
        let key = text(requirement, "key");
        node_requirement(errors, requirement, &field);
        errors.invalid_each(&child(&field, "key"), key, names::qualified_name(key));
        let values = list(requirement, "values");
        for (j, value) in values.iter().enumerate().filter(|_| check_values) {
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(
                &index(&child(&field, "values"), j),
                value,
                names::label_value(value),
            );
        }
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        let field = index(&child(path, "matchFields"), i);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => errors.required(
                child(&field, "values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            other => errors.invalid(
                child(&field, "operator"),
                other,
                "not a valid selector operator",
            ),
        }
        match text(requirement, "key") {
            "metadata.name" => {
                for (j, value) in values.iter().enumerate() {
                    let value = value.as_str().unwrap_or_default();
                    errors.invalid_each(
                        &index(&child(&field, "values"), j),
                        value,
                        names::dns1123_subdomain(value),
                    );
                }
            }
            other => errors.invalid(
                child(&field, "key"),
                other,
                "not a valid field selector key",
            ),
        }
    }
}

fn node_requirement(errors: &mut Errors, requirement: &Value, path: &str) {
    let values = list(requirement, "values");
    let field = child(path, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(
                    field,
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.forbidden(
                    field,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                errors.required(
                    field,
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                );
            }
        }
        other => errors.invalid(
            child(path, "operator"),
            other,
            "not a valid selector operator",
        ),
    }
}

/// Validates the topology spread constraints of a pod.
pub(super) fn topology_spread(errors: &mut Errors, spec: &Value, path: &str) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (i, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let field = index(path, i);
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(child(&field, "maxSkew"), skew, "must be greater than zero");
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.required(child(&field, "topologyKey"), "can not be empty");
        } else {
            errors.invalid_each(
                &child(&field, "topologyKey"),
                key,
                names::qualified_name(key),
            );
        }
        let action = text(constraint, "whenUnsatisfiable");
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(
                child(&field, "whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        if !seen.insert((key, action)) {
            errors.duplicate(
                format!("{field}.{{topologyKey, whenUnsatisfiable}}"),
                format!("{{{key}, {action}}}"),
            );
        }
        if let Some(domains) = int(constraint, "minDomains") {
            if domains <= 0 {
                errors.invalid(
                    child(&field, "minDomains"),
                    domains,
                    "must be greater than zero",
                );
            }
            if action != "DoNotSchedule" {
                errors.invalid(
                    child(&field, "minDomains"),
                    domains,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                );
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = text(constraint, key);
            if !policy.is_empty() && !matches!(policy, "Honor" | "Ignore") {
                errors.not_supported(child(&field, key), policy, &["Honor", "Ignore"]);
            }
        }
        if has(constraint, "labelSelector") {
            selectors::validate(
                errors,
                at(constraint, "labelSelector"),
                &child(&field, "labelSelector"),
            );
        } else if !list(constraint, "matchLabelKeys").is_empty() {
            errors.forbidden(
                child(&field, "matchLabelKeys"),
                "must not be specified when labelSelector is not set",
            );
        }
    }
}
