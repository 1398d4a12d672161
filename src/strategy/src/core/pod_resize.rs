//! Changes of the resources of running pods, through `pods/resize`.

use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_component_helpers::qos;
use rkube_component_helpers::resource::is_sidecar_object;
use serde_json::{Map, Value};

use super::pod_annotations;
use super::pod_update::{same_spec, valid_by_itself};
use crate::errors::{Errors, child, index};
use crate::quantities;
use crate::tree::{at, has, keep, list, list_mut, map, put, remove, same_at, text};

/// The lists of containers that have resources.
const LISTS: [&str; 2] = ["spec.containers", "spec.initContainers"];

/// Returns the old pod with the resources of the new one. Where containers come, go or change
/// their places, returns what the validation refuses.
pub(super) fn prepare(new: &Object, old: &Object) -> Object {
    let count = |pod: &Object| LISTS.map(|path| list(pod, path).len());
    if count(new) != count(old) {
        return new.clone();
    }
    let mut next = old.clone();
    for path in ["metadata.managedFields", "metadata.resourceVersion"] {
        keep(&mut next, new, path);
    }
    keep(&mut next, new, "spec.resources");
    for path in LISTS {
        let wanted = list(new, path);
        let same_names = wanted
            .iter()
            .zip(list(old, path))
            .all(|(new, old)| text(new, "name") == text(old, "name"));
        if !same_names {
            keep(&mut next, new, path);
            continue;
        }
        for (container, wanted) in list_mut(&mut next, path).iter_mut().zip(wanted) {
            keep(container, wanted, "resources");
            keep(container, wanted, "resizePolicy");
        }
    }
    next
}

/// Validates the new resources.
pub(super) fn validate(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let refusal = if pod_annotations::is_mirror(at(old, "metadata")) {
        Some("static pods cannot be resized")
    } else if text(old, "spec.os.name") == "windows" {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(refusal) = refusal {
        errors.forbidden("", refusal);
        return errors.0;
    }
    errors.extend(valid_by_itself(new, old));
    let class = match text(old, "status.qosClass") {
        "" => qos::object_class(at(old, "spec")).as_str(),
        class => class,
    };
    if qos::object_class(at(new, "spec")).as_str() != class {
        errors.invalid(
            "spec",
            text(new, "status.qosClass"),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    if !is_supported(old) {
        errors.forbidden("spec", "Pod running on node without support for resize");
    }
    let mut settled = at(new, "spec").clone();
    of_pod(&mut errors, &mut settled, new, old);
    if !same_order(&mut errors, new, old) {
        return errors.0;
    }
    for path in ["spec.initContainers", "spec.containers"] {
        for (i, (now, before)) in list(new, path).iter().zip(list(old, path)).enumerate() {
            let field = child(&index(path, i), "resources");
            for side in ["requests", "limits"] {
                let key = child("resources", side);
                if is_removed(at(now, &key), at(before, &key)) {
                    let detail = format!("resource {side} cannot be removed");
                    errors.forbidden(child(&field, side), detail);
                }
            }
        }
    }
    containers(&mut errors, &mut settled, old);
    if errors.0.is_empty() && !same_spec(&settled, at(old, "spec")) {
        errors.forbidden("spec", "only cpu and memory resources are mutable");
    }
    errors.0
}

/// Returns whether the node of a pod resizes it, as far as its running containers tell.
fn is_supported(pod: &Object) -> bool {
    list(pod, "status.containerStatuses")
        .iter()
        .find(|status| has(status, "state.running"))
        .is_none_or(|status| has(status, "resources"))
}

/// Validates that containers keep their names and places. Returns whether they do.
fn same_order(errors: &mut Errors, new: &Object, old: &Object) -> bool {
    let mut fine = true;
    for path in LISTS {
        let what = path.trim_start_matches("spec.");
        let (now, before) = (list(new, path), list(old, path));
        if now.len() != before.len() {
            fine = false;
            let detail = format!("{what} may not be added or removed on resize");
            errors.forbidden(path, detail);
            continue;
        }
        for (i, (now, before)) in now.iter().zip(before).enumerate() {
            if text(now, "name") != text(before, "name") {
                fine = false;
                errors.forbidden(
                    child(&index(path, i), "name"),
                    format!("{what} may not be renamed or reordered on resize"),
                );
            }
        }
    }
    fine
}

/// Returns whether a list of resources lacks one of the old list.
fn is_removed(new: &Value, old: &Value) -> bool {
    old.as_object()
        .into_iter()
        .flatten()
        .any(|(name, _)| new.get(name).is_none())
}

/// Returns a list of resources with CPU and memory of the old one.
fn with_old_compute(new: &Value, old: &Value) -> Map<String, Value> {
    let mut amounts = new.as_object().cloned().unwrap_or_default();
    for name in ["cpu", "memory"] {
        match old.get(name) {
            Some(amount) => amounts.insert(name.to_owned(), amount.clone()),
            None => amounts.remove(name),
        };
    }
    amounts
}

/// Validates the change of the pod's resources as a whole. Reverts permitted changes in `settled`.
fn of_pod(errors: &mut Errors, settled: &mut Value, new: &Object, old: &Object) {
    const PATH: &str = "spec.resources";
    let sides = ["requests", "limits"];
    let is_set = |pod: &Object| {
        sides
            .iter()
            .any(|side| map(pod, &child(PATH, side)).is_some_and(|amounts| !amounts.is_empty()))
    };
    if !is_set(old) && !is_set(new) {
        return;
    }
    if has(old, PATH) && !has(new, PATH) {
        errors.forbidden(PATH, "pod-level resources cannot be removed");
        return;
    }
    for side in sides {
        let path = child(PATH, side);
        if is_removed(at(new, &path), at(old, &path)) {
            let detail = format!("pod-level resource {side} cannot be removed");
            errors.forbidden(path.clone(), detail);
        }
        let amounts = with_old_compute(at(new, &path), at(old, &path));
        put(settled, &child("resources", side), amounts);
    }
    let nothing = sides
        .iter()
        .all(|side| map(settled, &child("resources", side)).is_none_or(Map::is_empty));
    if !has(old, PATH) && nothing && list(settled, "resources.claims").is_empty() {
        remove(settled, "resources");
    }
    let mutable = sides.iter().all(|side| {
        let (now, before) = (child("resources", side), child(PATH, side));
        quantities::same_list(at(settled, &now), at(old, &before))
    });
    let claims = crate::tree::same(
        at(settled, "resources.claims"),
        at(old, "spec.resources.claims"),
    );
    if !mutable || !claims || has(settled, "resources") != has(old, PATH) {
        errors.forbidden(
            "spec",
            "only cpu and memory resources are mutable at pod-level",
        );
    }
}

/// Validates that of the containers' resources only CPU and memory change. Reverts these changes
/// in `settled`.
fn containers(errors: &mut Errors, settled: &mut Value, old: &Object) {
    for path in LISTS {
        let key = path.trim_start_matches("spec.");
        let before = list(old, path);
        for (i, container) in list_mut(settled, key).iter_mut().enumerate() {
            let old = &before[i];
            let changed =
                !same_at(container, old, "resources") || !same_at(container, old, "resizePolicy");
            for side in ["resources.requests", "resources.limits"] {
                let amounts = with_old_compute(at(container, side), at(old, side));
                put(container, side, amounts);
            }
            // As upstream, a container with claims cannot be resized.
            remove(container, "resources.claims");
            let others = ["resources.requests", "resources.limits"]
                .iter()
                .any(|side| !quantities::same_list(at(container, side), at(old, side)))
                || !same_at(container, old, "resources.claims")
                || !same_at(container, old, "resizePolicy");
            if key == "containers" {
                if others {
                    errors.forbidden("spec", "only cpu and memory resources are mutable");
                }
                continue;
            }
            let field = index(path, i);
            if others {
                errors.forbidden(
                    field.clone(),
                    "only cpu and memory resources for init or sidecar containers are mutable",
                );
            }
            if !changed || is_sidecar_object(container) {
                continue;
            }
            let policies = list(container, "resizePolicy").iter();
            for _ in policies.filter(|p| text(p, "restartPolicy") == "RestartContainer") {
                errors.forbidden(
                    field.clone(),
                    "non-sidecar init containers with a resize policy of RestartContainer cannot be resized",
                );
            }
        }
    }
}
