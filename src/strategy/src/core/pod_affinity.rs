//! Validation of affinity and topology spread constraints.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container_types::Allowances;
use crate::errors::{Errors, child, index};
use crate::tree::{at, entries, has, int, list, text};
use crate::{names, selectors};

/// Validates the affinity of a pod.
pub(super) fn affinity(errors: &mut Errors, affinity: &Value, allowed: Allowances, path: &str) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = at(affinity, "nodeAffinity");
    let field = child(path, "nodeAffinity");
    if has(node, REQUIRED) {
        let values = !allowed.node_affinity_values;
        let field = child(&field, REQUIRED);
        node_selector_with(errors, at(node, REQUIRED), values, &field);
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
            pod_affinity_term(errors, term, allowed, &index(&child(&field, REQUIRED), i));
        }
        for (i, term) in list(pods, PREFERRED).iter().enumerate() {
            let field = index(&child(&field, PREFERRED), i);
            weight(errors, term, &child(&field, "weight"));
            pod_affinity_term(
                errors,
                at(term, "podAffinityTerm"),
                allowed,
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

fn pod_affinity_term(errors: &mut Errors, term: &Value, allowed: Allowances, path: &str) {
    for key in ["labelSelector", "namespaceSelector"] {
        let values = !allowed.affinity_selectors;
        selectors::validate_with(errors, at(term, key), values, &child(path, key));
    }
    for namespace in list(term, "namespaces") {
        let namespace = namespace.as_str().unwrap_or_default();
        errors.invalid_each(
            &child(path, "namespace"),
            namespace,
            names::dns1123_label(namespace),
        );
    }
    label_keys(errors, term, path);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(child(path, "topologyKey"), "can not be empty");
    }
    errors.invalid_each(&child(path, "topologyKey"), key, names::qualified_name(key));
}

/// Validates `matchLabelKeys` and `mismatchLabelKeys` of a term or constraint, whose selector has
/// their expressions already.
fn label_keys(errors: &mut Errors, term: &Value, path: &str) {
    let keys = |key: &str| -> Vec<&str> {
        let keys = list(term, key).iter();
        keys.map(|key| key.as_str().unwrap_or_default()).collect()
    };
    let (same, other) = (keys("matchLabelKeys"), keys("mismatchLabelKeys"));
    for (field, keys) in [("matchLabelKeys", &same), ("mismatchLabelKeys", &other)] {
        let field = child(path, field);
        if keys.is_empty() {
            continue;
        }
        if !has(term, "labelSelector") {
            errors.forbidden(field, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            errors.invalid_each(&index(&field, i), key, names::qualified_name(key));
        }
    }
    let mut selected: BTreeSet<&str> = entries(term, "labelSelector.matchLabels")
        .map(|(key, _)| key.as_str())
        .collect();
    for expression in list(term, "labelSelector.matchExpressions") {
        let key = text(expression, "key");
        // The expression of a key is the second one then. The field is upstream's.
        if let Some(i) = same.iter().rposition(|k| *k == key)
            && selected.contains(key)
        {
            errors.invalid(
                index(path, i),
                key,
                "exists in both matchLabelKeys and labelSelector",
            );
        }
        selected.insert(key);
    }
    for (i, key) in same
        .iter()
        .enumerate()
        .filter(|(_, key)| other.contains(key))
    {
        errors.invalid(
            index(&child(path, "matchLabelKeys"), i),
            *key,
            "exists in both matchLabelKeys and mismatchLabelKeys",
        );
    }
}

/// Returns whether a topology spread constraint has keys that a new one must not have.
pub(super) fn has_bad_spread_keys(spec: &Value) -> bool {
    let mut errors = Errors::new();
    for constraint in list(spec, "topologySpreadConstraints") {
        label_keys(&mut errors, constraint, "");
    }
    !errors.0.is_empty()
}

/// Validates `matchLabelKeys` of a constraint as before their expressions were put into the
/// selector.
fn old_spread_keys(errors: &mut Errors, constraint: &Value, field: &str) {
    let keys = list(constraint, "matchLabelKeys");
    if !keys.is_empty() && !has(constraint, "labelSelector") {
        errors.forbidden(field, "must not be specified when labelSelector is not set");
    }
    let selector = at(constraint, "labelSelector");
    for (i, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        errors.invalid_each(&index(field, i), key, names::qualified_name(key));
        let expressions = list(selector, "matchExpressions");
        if at(selector, "matchLabels").get(key).is_some()
            || expressions.iter().any(|e| text(e, "key") == key)
        {
            errors.invalid(
                index(field, i),
                key,
                "exists in both matchLabelKeys and labelSelector",
            );
        }
    }
}

/// Validates a `NodeSelector` of a pod or a volume, and its values if `check_values` is true.
pub(crate) fn node_selector_with(
    errors: &mut Errors,
    selector: &Value,
    check_values: bool,
    path: &str,
) {
    let terms = list(selector, "nodeSelectorTerms");
    let field = child(path, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(field, "must have at least one node selector term");
        return;
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(errors, term, check_values, &index(&field, i));
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
pub(super) fn topology_spread(errors: &mut Errors, spec: &Value, allowed: Allowances, path: &str) {
    let constraints = list(spec, "topologySpreadConstraints");
    for (i, constraint) in constraints.iter().enumerate() {
        let field = index(path, i);
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(child(&field, "maxSkew"), skew, "must be greater than zero");
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.required(child(&field, "topologyKey"), "can not be empty");
        }
        let action = text(constraint, "whenUnsatisfiable");
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(
                child(&field, "whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        // Of two, the error is about the former.
        let again = constraints[i + 1..].iter().any(|other| {
            text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action
        });
        if again {
            errors.duplicate(
                format!("{field}.{{topologyKey, whenUnsatisfiable}}"),
                format!("{{{key}, {action}}}"),
            );
        }
        min_domains(errors, constraint, action, &child(&field, "minDomains"));
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = text(constraint, key);
            if has(constraint, key) && !matches!(policy, "Honor" | "Ignore") {
                errors.not_supported(child(&field, key), policy, &["Honor", "Ignore"]);
            }
        }
        if allowed.spread_keys {
            old_spread_keys(errors, constraint, &child(&field, "matchLabelKeys"));
        } else {
            label_keys(errors, constraint, &field);
        }
        if !allowed.spread_selectors {
            let selector = at(constraint, "labelSelector");
            selectors::validate(errors, selector, &child(&field, "labelSelector"));
        }
    }
}

fn min_domains(errors: &mut Errors, constraint: &Value, action: &str, field: &str) {
    let Some(domains) = int(constraint, "minDomains") else {
        return;
    };
    if domains <= 0 {
        errors.invalid(field, domains, "must be greater than zero");
    }
    if action != "DoNotSchedule" {
        errors.invalid(
            field,
            domains,
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
        );
    }
}
