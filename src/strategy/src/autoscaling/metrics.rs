//! Validation of an autoscaler's metrics and scaling behavior (upstream: `validateMetricSpec`,
//! `validateScalingRules`).

use serde_json::Value;

use crate::errors::{Errors, NOT_NEGATIVE, child, index};
use crate::tree::{at, has, int, list, text};
use crate::{names, quantities};

/// Longest period of a scaling policy, in seconds.
const MAX_PERIOD: i64 = 1800;
/// Longest stabilization window, in seconds.
const MAX_STABILIZATION: i64 = 3600;

/// Types of metrics and the fields of their sources, in upstream's order of checks.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// Validates one metric: its type, and that it has exactly the source of that type.
pub(super) fn metric(errors: &mut Errors, metric: &Value, group: Group, field: &str) {
    let kind = text(metric, "type");
    let known = SOURCES.iter().find(|(name, _)| *name == kind);
    let unsupported = |errors: &mut Errors| {
        let mut names = SOURCES.map(|(name, _)| name);
        names.sort_unstable();
        errors.not_supported(child(field, "type"), kind, &names);
    };
    if kind.is_empty() {
        errors.required(child(field, "type"), "must specify a metric source type");
    }
    if known.is_none() {
        unsupported(errors);
    }
    let present: Vec<&str> = SOURCES
        .iter()
        .map(|(_, key)| *key)
        .filter(|key| has(metric, key))
        .collect();
    if let Some(key) = present.first() {
        source(errors, at(metric, key), key, group, &child(field, key));
    }
    match known {
        Some((_, key)) if !present.contains(key) => errors.required(
            child(field, key),
            "must populate information for the given metric source",
        ),
        Some(_) => {}
        None => unsupported(errors),
    }
    if present.len() != 1 {
        for key in present {
            if known.is_none_or(|(_, expected)| *expected != key) {
                errors.forbidden(
                    child(field, key),
                    "must populate the given metric source only",
                );
            }
        }
    }
}

/// Validates a metric's source by its field `key`.
fn source(errors: &mut Errors, source: &Value, key: &str, group: Group, field: &str) {
    let target = child(field, "target");
    let sets = |value: &str| has(source, &format!("target.{value}"));
    match key {
        "object" => {
            reference(
                errors,
                at(source, "describedObject"),
                group,
                &child(field, "describedObject"),
            );
            identifier(errors, source, field);
            metric_target(errors, at(source, "target"), &target);
            if !sets("value") && !sets("averageValue") {
                errors.required(
                    child(&target, "averageValue"),
                    "must set either a target value or averageValue",
                );
            }
        }
        "external" => {
            identifier(errors, source, field);
            metric_target(errors, at(source, "target"), &target);
            match (sets("value"), sets("averageValue")) {
                (false, false) => errors.required(
                    child(&target, "averageValue"),
                    "must set either a target value for metric or a per-pod target",
                ),
                (true, true) => errors.forbidden(
                    child(&target, "value"),
                    "may not set both a target value for metric and a per-pod target",
                ),
                _ => {}
            }
        }
        "pods" => {
            identifier(errors, source, field);
            metric_target(errors, at(source, "target"), &target);
            if !sets("averageValue") {
                errors.required(
                    child(&target, "averageValue"),
                    "must specify a positive target averageValue",
                );
            }
        }
        _ => resource(errors, source, key == "containerResource", field),
    }
}

/// Validates the resource of a pod, or of one of its containers.
fn resource(errors: &mut Errors, source: &Value, of_container: bool, field: &str) {
    let name = text(source, "name");
    if name.is_empty() {
        errors.required(child(field, "name"), "must specify a resource name");
    } else if of_container {
        quantities::validate_container_name(errors, name, &child(field, "name"));
    }
    if of_container {
        let container = text(source, "container");
        let field = child(field, "container");
        if container.is_empty() {
            errors.required(field, "must specify a container");
        } else {
            errors.invalid_each(&field, container, names::dns1123_label(container));
        }
    }
    let target = child(field, "target");
    metric_target(errors, at(source, "target"), &target);
    match (
        has(source, "target.averageUtilization"),
        has(source, "target.averageValue"),
    ) {
        (false, false) => errors.required(
            child(&target, "averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (true, true) => errors.forbidden(
            child(&target, "averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        _ => {}
    }
}

/// Validates the name of a metric. Its selector is not checked, as upstream does not.
fn identifier(errors: &mut Errors, source: &Value, field: &str) {
    let name = text(source, "metric.name");
    let field = format!("{field}.metric.name");
    if name.is_empty() {
        errors.required(field, "must specify a metric name");
    } else {
        errors.invalid_each(&field, name, names::path_segment_name(name));
    }
}

/// Validates the type of a target, and that its values are positive.
fn metric_target(errors: &mut Errors, target: &Value, field: &str) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.required(child(field, "type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(
            child(field, "type"),
            kind,
            "must be either Utilization, Value, or AverageValue",
        );
    }
    for key in ["value", "averageValue"] {
        let quantity = quantities::read(Some(at(target, key)));
        if has(target, key) && quantity.sign() <= 0 {
            errors.invalid(child(field, key), quantity.to_string(), "must be positive");
        }
    }
    if let Some(n) = int(target, "averageUtilization")
        && n < 1
    {
        errors.invalid(
            child(field, "averageUtilization"),
            n,
            "must be greater than 0",
        );
    }
}

/// The rule for the API group in the `apiVersion` of a reference.
#[derive(Clone, Copy)]
pub(super) enum Group {
    Required,
    Optional,
    Anything,
}

impl Group {
    /// Returns what is wrong with a version.
    pub(super) fn problem(self, version: &str) -> Option<String> {
        let empty = version
            .split_once('/')
            .is_none_or(|(group, _)| group.is_empty());
        match self {
            Group::Anything => None,
            _ if version.matches('/').count() > 1 => {
                Some(format!("unexpected GroupVersion string: {version}"))
            }
            Group::Required if empty => Some("apiVersion must specify API group".to_owned()),
            _ => None,
        }
    }
}

/// Validates a reference to an object by kind, name and version.
pub(super) fn reference(errors: &mut Errors, reference: &Value, group: Group, field: &str) {
    kind_and_name(errors, reference, field);
    let version = text(reference, "apiVersion");
    if let Some(why) = group.problem(version) {
        errors.invalid(child(field, "apiVersion"), version, why);
    }
}

fn kind_and_name(errors: &mut Errors, reference: &Value, field: &str) {
    for key in ["kind", "name"] {
        let value = text(reference, key);
        let field = child(field, key);
        if value.is_empty() {
            errors.required(field, "");
        } else {
            errors.invalid_each(&field, value, names::path_segment_name(value));
        }
    }
}

/// Validates the rules for one direction of scaling.
pub(super) fn scaling_rules(errors: &mut Errors, rules: &Value, field: &str) {
    if rules.is_null() {
        return;
    }
    if let Some(seconds) = int(rules, "stabilizationWindowSeconds") {
        let field = child(field, "stabilizationWindowSeconds");
        if seconds < 0 {
            errors.invalid(field, seconds, "must be greater than or equal to zero");
        } else if seconds > MAX_STABILIZATION {
            let why = format!("must be less than or equal to {MAX_STABILIZATION}");
            errors.invalid(field, seconds, why);
        }
    }
    let select = text(rules, "selectPolicy");
    if has(rules, "selectPolicy") && !matches!(select, "Max" | "Min" | "Disabled") {
        errors.not_supported(
            child(field, "selectPolicy"),
            select,
            &["Disabled", "Max", "Min"],
        );
    }
    let policies = child(field, "policies");
    if list(rules, "policies").is_empty() {
        errors.required(policies.clone(), "must specify at least one Policy");
    }
    for (i, policy) in list(rules, "policies").iter().enumerate() {
        scaling_policy(errors, policy, &index(&policies, i));
    }
    let tolerance = quantities::read(Some(at(rules, "tolerance")));
    if tolerance.sign() < 0 {
        errors.invalid(
            child(field, "tolerance"),
            tolerance.to_string(),
            NOT_NEGATIVE,
        );
    }
}

fn scaling_policy(errors: &mut Errors, policy: &Value, field: &str) {
    let kind = text(policy, "type");
    if !matches!(kind, "Pods" | "Percent") {
        errors.not_supported(child(field, "type"), kind, &["Percent", "Pods"]);
    }
    for key in ["value", "periodSeconds"] {
        let number = int(policy, key).unwrap_or(0);
        if number <= 0 {
            errors.invalid(child(field, key), number, "must be greater than zero");
        } else if key == "periodSeconds" && number > MAX_PERIOD {
            let why = format!("must be less than or equal to {MAX_PERIOD}");
            errors.invalid(child(field, key), number, why);
        }
    }
}
