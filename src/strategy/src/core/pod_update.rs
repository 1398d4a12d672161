//! Validation of pod updates, per subresource.

use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_component_helpers::qos;
use rkube_component_helpers::resource::is_sidecar_object;
use serde_json::{Value, json};

use super::pod_validation;
use crate::errors::{Errors, child, index, ratcheted};
use crate::quantities;
use crate::tree::{at, has, int, keep, list, map, put, remove, same, same_at, text};

/// Upstream's message for changes of immutable fields.
const FEW_FIELDS: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Validates that terminated containers which must not restart stay terminated.
pub(super) fn terminated_stay(errors: &mut Errors, new: &Object, old: &Object, key: &str) {
    let path = child("status", key);
    if may_restart_all(new) {
        return;
    }
    // A container with its own restart policy may restart.
    let own_policy = |name: &str| {
        list(new, "spec.containers")
            .iter()
            .any(|c| text(c, "name") == name && has(c, "restartPolicy"))
    };
    for (i, before) in list(old, &path).iter().enumerate() {
        let name = text(before, "name");
        if !has(before, "state.terminated") || own_policy(name) {
            continue;
        }
        let code = int(before, "state.terminated.exitCode").unwrap_or(0);
        if code != 0 && text(old, "spec.restartPolicy") == "OnFailure" {
            continue;
        }
        let now = list(new, &path).iter().find(|s| text(s, "name") == name);
        if now.is_some_and(|s| !has(s, "state.terminated")) {
            errors.forbidden(
                format!("{}.state", index(&path, i)),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

/// Returns whether an exit of one of the pod's containers may restart all of them.
fn may_restart_all(pod: &Object) -> bool {
    let all = ["spec.containers", "spec.initContainers"];
    all.iter()
        .flat_map(|path| list(pod, path))
        .any(|container| {
            list(container, "restartPolicyRules")
                .iter()
                .any(|rule| text(rule, "action") == "RestartAllContainers")
        })
}

/// Validates an update of the main resource.
pub(super) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    // The new object must be valid by itself.
    let valid = pod_validation::pod(new).0;
    errors.extend(ratcheted(valid, || pod_validation::pod(old).0));
    for key in ["containers", "initContainers"] {
        let path = child("spec", key);
        if list(new, &path).len() != list(old, &path).len() {
            errors.forbidden(path, "pod updates may not add or remove containers");
            return errors.0;
        }
        for (i, c) in list(new, &path).iter().enumerate() {
            if text(c, "image").is_empty() {
                errors.required(child(&index(&path, i), "image"), "");
            }
        }
    }
    match (
        int(new, "spec.activeDeadlineSeconds"),
        int(old, "spec.activeDeadlineSeconds"),
    ) {
        (Some(now), Some(before)) if now > before => errors.invalid(
            "spec.activeDeadlineSeconds",
            now,
            format!("must be less than or equal to previous value of {before}"),
        ),
        (None, Some(_)) => errors.invalid(
            "spec.activeDeadlineSeconds",
            Value::Null,
            "must not update from a positive integer to nil value",
        ),
        _ => {}
    }
    only_added_tolerations(&mut errors, new, old);

    // All other fields are immutable.
    let mut normal = new.clone();
    for key in ["containers", "initContainers"] {
        let path = child("spec", key);
        let before: Vec<Value> = list(old, &path).to_vec();
        for (c, old) in crate::tree::list_mut(&mut normal, &path)
            .iter_mut()
            .zip(&before)
        {
            keep(c, old, "image");
        }
    }
    keep(&mut normal, old, "spec.activeDeadlineSeconds");
    keep(&mut normal, old, "spec.tolerations");
    if int(old, "spec.terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(new, "spec.terminationGracePeriodSeconds") == Some(1)
    {
        keep(&mut normal, old, "spec.terminationGracePeriodSeconds");
    }
    gates(&mut errors, &mut normal, new, old);
    if !same_spec(at(&normal, "spec"), at(old, "spec")) {
        errors.forbidden("spec", FEW_FIELDS);
    }
    errors.0
}

/// Returns whether two specs are equal, comparing quantities by amount.
fn same_spec(a: &Value, b: &Value) -> bool {
    if same(a, b) {
        return true;
    }
    let canonical = |spec: &Value| {
        let mut pod = json!({ "spec": spec });
        for key in ["containers", "initContainers"] {
            for c in crate::tree::list_mut(&mut pod, &child("spec", key)) {
                quantities::normalize(c, "resources.requests");
                quantities::normalize(c, "resources.limits");
            }
        }
        pod
    };
    same(&canonical(a), &canonical(b))
}

/// Validates changes of scheduling gates, which may only be removed. While the pod is gated, its
/// node selector and affinity may become more restrictive. Reverts permitted changes in `normal`.
fn gates(errors: &mut Errors, normal: &mut Object, new: &Object, old: &Object) {
    let before = list(old, "spec.schedulingGates");
    let added: Vec<String> = list(new, "spec.schedulingGates")
        .iter()
        .filter(|g| !before.contains(g))
        .map(|g| text(g, "name").to_owned())
        .collect();
    if !added.is_empty() {
        errors.forbidden(
            "spec.schedulingGates",
            format!(
                "only deletion is allowed, but found new scheduling gates '{}'",
                added.join(", ")
            ),
        );
    }
    keep(normal, old, "spec.schedulingGates");
    if before.is_empty() {
        return;
    }
    let narrower = map(old, "spec.nodeSelector")
        .into_iter()
        .flatten()
        .all(|(k, v)| at(new, "spec.nodeSelector").get(k) == Some(v));
    if narrower {
        keep(normal, old, "spec.nodeSelector");
    } else {
        errors.invalid(
            "spec.nodeSelector",
            at(new, "spec.nodeSelector").clone(),
            "only additions are allowed (no mutations or deletions)",
        );
    }
    if same_at(
        new,
        old,
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    ) || !has(
        old,
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    ) {
        let kept = at(old, "spec.affinity.nodeAffinity").clone();
        if kept.is_null() {
            remove(normal, "spec.affinity.nodeAffinity");
            if at(normal, "spec.affinity")
                .as_object()
                .is_some_and(serde_json::Map::is_empty)
            {
                remove(normal, "spec.affinity");
            }
        } else {
            put(normal, "spec.affinity.nodeAffinity", kept);
        }
    } else {
        narrower_terms(errors, normal, new, old);
    }
}

/// Validates that all node selector terms remain, with requirements added at most.
fn narrower_terms(errors: &mut Errors, normal: &mut Object, new: &Object, old: &Object) {
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (now, before) = (list(new, path), list(old, path));
    let fine = now.len() == before.len()
        && before.iter().zip(now).all(|(old, new)| {
            ["matchExpressions", "matchFields"].iter().all(|key| {
                let (old, new) = (list(old, key), list(new, key));
                new.len() >= old.len() && new[..old.len()] == *old
            })
        });
    if fine {
        keep(normal, old, "spec.affinity.nodeAffinity");
    } else {
        errors.invalid(
            path,
            at(new, path).clone(),
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
    }
}

fn only_added_tolerations(errors: &mut Errors, new: &Object, old: &Object) {
    let now = list(new, "spec.tolerations");
    // `tolerationSeconds` of a NoExecute toleration is mutable.
    let untimed = |t: &Value| {
        let mut t = t.clone();
        if text(&t, "effect") == "NoExecute" {
            remove(&mut t, "tolerationSeconds");
        }
        t
    };
    let gone = list(old, "spec.tolerations")
        .iter()
        .any(|t| !now.iter().any(|n| same(&untimed(n), &untimed(t))));
    if gone {
        errors.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

/// Validates an update through `pods/ephemeralcontainers`.
pub(super) fn validate_ephemeral(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let valid = pod_validation::pod(new).0;
    errors.extend(ratcheted(valid, || pod_validation::pod(old).0));
    let path = "spec.ephemeralContainers";
    let now = list(new, path);
    for (i, before) in list(old, path).iter().enumerate() {
        let name = text(before, "name");
        match now.iter().find(|c| text(c, "name") == name) {
            None => errors.forbidden(
                path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(c) if !same(c, before) => errors.forbidden(
                index(path, i),
                format!("existing ephemeral containers {name:?} may not be changed\n"),
            ),
            Some(_) => {}
        }
    }
    errors.0
}

/// Validates an update through `pods/resize`.
pub(super) fn validate_resize(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let valid = pod_validation::pod(new).0;
    errors.extend(ratcheted(valid, || pod_validation::pod(old).0));
    if qos::object_class(at(new, "spec")) != qos::object_class(at(old, "spec")) {
        errors.invalid(
            "metadata",
            text(new, "metadata.name"),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    if text(old, "spec.os.name") == "windows" {
        errors.forbidden("", "windows pods cannot be resized");
    }
    for (key, what) in [
        ("containers", "spec.containers"),
        ("initContainers", "spec.initContainers"),
    ] {
        let path = child("spec", key);
        for (i, (now, before)) in list(new, &path).iter().zip(list(old, &path)).enumerate() {
            for kind in ["requests", "limits"] {
                resized(&mut errors, now, before, kind, &index(what, i));
            }
            if key == "initContainers"
                && !is_sidecar_object(before)
                && !quantities::same_list(
                    at(now, "resources.requests"),
                    at(before, "resources.requests"),
                )
            {
                errors.forbidden(
                    format!("{}.resources", index(what, i)),
                    "non-sidecar init containers cannot be resized",
                );
            }
        }
    }
    errors.0
}

/// Validates the change of a container's `requests` or `limits`: of CPU and memory only, none
/// of which may vanish.
fn resized(errors: &mut Errors, now: &Value, before: &Value, kind: &str, container: &str) {
    let field = format!("resources.{kind}");
    let names = [before, now]
        .into_iter()
        .flat_map(|value| map(value, &field).into_iter().flatten())
        .map(|(name, _)| name);
    for name in names {
        let (was, is) = (at(before, &field).get(name), at(now, &field).get(name));
        let resizable = matches!(name.as_str(), "cpu" | "memory");
        if resizable && was.is_some() && is.is_none() {
            errors.forbidden(
                child(container, &field),
                format!("resource {kind} cannot be removed"),
            );
        }
        if !resizable && quantities::of(was) != quantities::of(is) {
            errors.forbidden(container, "only cpu and memory resources are mutable");
        }
    }
}
