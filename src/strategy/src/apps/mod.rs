//! The apps group, and rules shared by all replicated kinds.

mod controller_revision;
mod daemon_set;
mod deployment;
mod replica_set;
mod stateful_set;

use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
use serde_json::{Value, json};

use crate::Strategy;
use crate::errors::{Errors, NOT_NEGATIVE, child, show_fields, shown_pointer, shown_text};
use crate::tree::{at, has, int, put, text};
use crate::{names, selectors};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Deployment" => &deployment::Deployment,
        "ReplicaSet" => &replica_set::ReplicaSet,
        "StatefulSet" => &stateful_set::StatefulSet,
        "DaemonSet" => &daemon_set::DaemonSet,
        "ControllerRevision" => &controller_revision::CONTROLLER_REVISION,
        _ => return None,
    })
}

/// Validates that a template's pods always restart and have no deadline.
pub(crate) fn always_restarted(errors: &mut Errors, template: &Value, path: &str, owner: &str) {
    let policy = text(template, "spec.restartPolicy");
    if policy != "Always" {
        errors.not_supported(format!("{path}.spec.restartPolicy"), policy, &["Always"]);
    }
    if has(template, "spec.activeDeadlineSeconds") {
        errors.forbidden(
            format!("{path}.spec.activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {owner} is not Supported"),
        );
    }
}

/// Validates that the selector is set, valid, not empty and matches the template's labels, and
/// that the template is valid and its pods always restart. `what` is the kind in messages.
pub(crate) fn selector_and_template(errors: &mut Errors, obj: &Object, what: &str) {
    let why = "invalid label selector";
    if selector_and_labels(errors, obj, what, why) {
        let template = at(obj, "spec.template");
        crate::core::pod_validation::template(errors, template, "spec.template");
        always_restarted(errors, template, "spec.template", "ReplicaSet");
    }
}

/// Validates that the selector is set, valid, not empty and matches the template's labels.
/// Returns whether it can be evaluated; if not, `why` says so.
fn selector_and_labels(errors: &mut Errors, obj: &Object, what: &str, why: &str) -> bool {
    let selector = at(obj, "spec.selector");
    if selector.is_null() {
        errors.required("spec.selector", "");
        // As in Go, it selects nothing, no labels either.
        mismatch(errors, obj);
        return true;
    }
    let shown = selectors::show_selector(selector);
    selectors::validate(errors, selector, "spec.selector");
    if selectors::is_empty(selector) {
        let why = format!("empty selector is invalid for {what}");
        errors.invalid_shown("spec.selector", &shown, &why);
    }
    if !selectors::is_sound(selector) {
        errors.invalid_shown("spec.selector", &shown, why);
        return false;
    }
    let labels = crate::tree::map(obj, "spec.template.metadata.labels");
    if !selectors::is_empty(selector) && !selectors::matches(selector, labels) {
        mismatch(errors, obj);
    }
    true
}

fn mismatch(errors: &mut Errors, obj: &Object) {
    errors.invalid(
        "spec.template.metadata.labels",
        at(obj, "spec.template.metadata.labels").clone(),
        "`selector` does not match template `labels`",
    );
}

/// Validates that the selector is unchanged.
fn immutable_selector(errors: &mut Errors, new: &Object, old: &Object) {
    let path = "spec.selector";
    if !crate::tree::same_at(new, old, path) {
        let shown = selectors::show_selector(at(new, path));
        errors.invalid_shown(path, &shown, crate::errors::IMMUTABLE);
    }
}

/// Validates that the count of collisions does not decrease.
fn collision_count(errors: &mut Errors, new: &Object, old: &Object) {
    let path = "status.collisionCount";
    let now = int(new, path);
    if int(old, path).is_some_and(|before| now.is_none_or(|now| now < before)) {
        errors.invalid(path, now.unwrap_or(0), "cannot be decremented");
    }
}

/// Returns the strategy of an update without details, as upstream's messages show it.
fn shown_strategy(strategy: &Value) -> String {
    let rolling = |rolling: &Value| {
        show_fields(&[
            ("MaxUnavailable", shown_number_or(rolling, "maxUnavailable")),
            ("MaxSurge", shown_number_or(rolling, "maxSurge")),
        ])
    };
    show_fields(&[
        ("Type", shown_text(strategy, "type")),
        (
            "RollingUpdate",
            shown_pointer(at(strategy, "rollingUpdate"), rolling),
        ),
    ])
}

/// Returns the JSON text of an integer or string, zero if it is unset.
fn shown_number_or(value: &Value, path: &str) -> String {
    match at(value, path) {
        Value::Null => "0".to_owned(),
        value => value.to_string(),
    }
}

/// Validates that fields below `base` are not negative.
pub(crate) fn not_negative(errors: &mut Errors, obj: &Object, base: &str, keys: &[&str]) {
    for key in keys {
        let path = child(base, key);
        if let Some(n) = int(obj, &path)
            && n < 0
        {
            errors.invalid(path, n, NOT_NEGATIVE);
        }
    }
}

/// Validates that the counts in a status are not negative and do not exceed `replicas`.
pub(crate) fn replica_status(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    not_negative(
        &mut errors,
        obj,
        "status",
        &[
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ],
    );
    let of = |key: &str| int(obj, &child("status", key)).unwrap_or(0);
    for key in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if of(key) > of("replicas") {
            errors.invalid(
                child("status", key),
                of(key),
                "cannot be greater than status.replicas",
            );
        }
    }
    if of("availableReplicas") > of("readyReplicas") {
        errors.invalid(
            "status.availableReplicas",
            of("availableReplicas"),
            "cannot be greater than readyReplicas",
        );
    }
    errors.0
}

/// Validates an integer or percentage that must not be negative (upstream:
/// `ValidatePositiveIntOrPercent`).
pub(crate) fn count_or_percent(errors: &mut Errors, value: &Value, field: &str) {
    match value {
        Value::String(s) => errors.invalid_each(field, s, names::percent(s)),
        number => {
            let n = number.as_i64().unwrap_or(0);
            if n < 0 {
                errors.invalid(field, n, NOT_NEGATIVE);
            }
        }
    }
}

/// Returns an integer, or the number of a percentage without its sign, or the number that a
/// string is; 0 if malformed.
pub(crate) fn plain_number(value: &Value) -> i64 {
    match value {
        Value::String(s) => s.strip_suffix('%').unwrap_or(s).parse().unwrap_or(0),
        number => number.as_i64().unwrap_or(0),
    }
}

/// Validates that a percentage is at most 100 % (upstream: `IsNotMoreThan100Percent`).
pub(crate) fn at_most_all(errors: &mut Errors, value: &Value, field: &str) {
    if let Value::String(s) = value
        && names::percent(s).is_empty()
        && plain_number(value) > 100
    {
        errors.invalid(field, s.as_str(), "must not be greater than 100%");
    }
}

/// Returns the `Scale` of an object; `selector` is the formatted selector of its pods.
pub(crate) fn scale_of(obj: &Object, selector: &str) -> Object {
    let mut metadata = serde_json::Map::new();
    for key in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = at(obj, "metadata").get(key) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    let mut scale = json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {},
        "status": {"replicas": int(obj, "status.replicas").unwrap_or(0)},
    });
    if let Some(n) = int(obj, "spec.replicas").filter(|n| *n != 0) {
        put(&mut scale, "spec.replicas", n);
    }
    if selector != "<none>" && !selector.is_empty() {
        put(&mut scale, "status.selector", selector);
    }
    scale
}

/// Sets `spec.replicas` to that of a `Scale`; the number must not be negative.
pub(crate) fn set_replicas(obj: &mut Object, scale: &Object) -> Result<(), Status> {
    let replicas = int(scale, "spec.replicas").unwrap_or(0);
    if replicas < 0 {
        let mut errors = Errors::new();
        errors.invalid("spec.replicas", replicas, NOT_NEGATIVE);
        return Err(Status::invalid(
            &rkube_api::GroupKind::new("autoscaling", "Scale"),
            text(scale, "metadata.name"),
            errors.0,
        ));
    }
    put(obj, "spec.replicas", replicas);
    Ok(())
}

/// Returns the warnings about an object whose name is part of the names of its pods.
fn named_warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    if old.is_some_and(|old| int(old, "metadata.generation") == int(new, "metadata.generation")) {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    if old.is_none() {
        let used = "Pod names and hostnames";
        warnings.extend(crate::core::pod_warnings::name(new, used));
    }
    warnings.extend(template_warnings(new, old));
    warnings
}

/// Returns the warnings about the pod spec of the template.
pub(crate) fn template_warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    crate::core::pod_warnings::pod_spec(
        at(new, "spec.template.spec"),
        old.map(|o| at(o, "spec.template.spec")),
        "spec.template.spec",
    )
}
