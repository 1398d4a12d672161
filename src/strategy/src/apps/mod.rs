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
use crate::errors::{Errors, NOT_NEGATIVE, child};
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
/// that the template is valid. `what` is the kind in messages.
pub(crate) fn selector_and_template(errors: &mut Errors, obj: &Object, what: &str) {
    selector_and_labels(errors, obj, what);
    if has(obj, "spec.template") {
        crate::core::pod_validation::template(errors, at(obj, "spec.template"), "spec.template");
    }
}

/// Validates that the selector is set, valid, not empty and matches the template's labels.
fn selector_and_labels(errors: &mut Errors, obj: &Object, what: &str) {
    let selector = at(obj, "spec.selector");
    let mut sound = false;
    if selector.is_null() {
        errors.required("spec.selector", "");
    } else {
        let before = errors.0.len();
        selectors::validate(errors, selector, "spec.selector");
        sound = errors.0.len() == before;
        if selectors::is_empty(selector) {
            errors.invalid(
                "spec.selector",
                selector.clone(),
                format!("empty selector is invalid for {what}"),
            );
        }
    }
    let template = at(obj, "spec.template");
    if template.is_null() {
        errors.required("spec.template", "");
        return;
    }
    let labels = crate::tree::map(template, "metadata.labels");
    if sound && !selectors::is_empty(selector) && !selectors::matches(selector, labels) {
        errors.invalid(
            "spec.template.metadata.labels",
            at(template, "metadata.labels").clone(),
            "`selector` does not match template `labels`",
        );
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

/// Returns an integer, or the number of a percentage without its sign; 0 if malformed.
pub(crate) fn plain_number(value: &Value) -> i64 {
    match value {
        Value::String(s) => s.trim_end_matches('%').parse().unwrap_or(0),
        number => number.as_i64().unwrap_or(0),
    }
}

/// Validates that a percentage is at most 100 % (upstream: `IsNotMoreThan100Percent`).
pub(crate) fn at_most_all(errors: &mut Errors, value: &Value, field: &str) {
    if let Value::String(s) = value
        && s.ends_with('%')
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

/// Returns the warnings about the pod spec of the template.
pub(crate) fn template_warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    crate::core::pod_warnings::pod_spec(
        at(new, "spec.template.spec"),
        old.map(|o| at(o, "spec.template.spec")),
        "spec.template.spec",
    )
}
