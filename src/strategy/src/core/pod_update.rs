//! Validation of pod updates.

use std::collections::{BTreeMap, BTreeSet};

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use super::container_types::Allowances;
use super::{containers, pod_annotations, pod_validation};
use crate::errors::{Errors, child, index, ratcheted};
use crate::quantities;
use crate::tree::{at, has, int, keep, list, list_mut, map, put, remove, same, same_at, text};

/// Upstream's message for changes of immutable fields, but for the difference that follows it.
const FEW_FIELDS: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Path of the required terms of node affinity.
const NODE_TERMS: &str =
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";

/// Validates that the next state of a pod is valid by itself, but for what it may keep.
pub(super) fn valid_by_itself(new: &Object, old: &Object) -> Vec<FieldError> {
    let allowed = Allowances::of(old);
    let errors = pod_validation::pod(new, allowed).0;
    ratcheted(errors, || pod_validation::pod(old, allowed).0)
}

/// Validates that an update leaves annotations as they are which tell what a pod is.
pub(super) fn annotations(errors: &mut Errors, new: &Object, old: &Object) {
    const FIELD: &str = "metadata.annotations";
    let (meta, before) = (at(new, "metadata"), at(old, "metadata"));
    pod_annotations::unchanged(errors, meta, before, FIELD);
    let any_cost = pod_annotations::has_bad_cost(before);
    pod_annotations::validate(errors, meta, at(new, "spec"), any_cost, FIELD);
}

/// Validates an update of the main resource.
pub(super) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(valid_by_itself(new, old));
    annotations(&mut errors, new, old);
    for key in ["containers", "initContainers"] {
        let path = child("spec", key);
        if list(new, &path).len() != list(old, &path).len() {
            errors.forbidden(path, "pod updates may not add or remove containers");
            return errors.0;
        }
        for (i, c) in list(new, &path).iter().enumerate() {
            let field = index(&path, i);
            if text(c, "image").is_empty() {
                errors.required(child(&field, "image"), "");
            }
            containers::image_is_trimmed(&mut errors, c, &field);
        }
    }
    if !deadline(&mut errors, new, old) {
        return errors.0;
    }
    only_added_tolerations(&mut errors, new, old);
    only_removed_gates(&mut errors, new, old);

    // All other fields are immutable.
    let mut normal = new.clone();
    for key in ["containers", "initContainers"] {
        let path = child("spec", key);
        let before: Vec<Value> = list(old, &path).to_vec();
        for (c, old) in list_mut(&mut normal, &path).iter_mut().zip(&before) {
            keep(c, old, "image");
        }
    }
    for path in [
        "spec.activeDeadlineSeconds",
        "spec.tolerations",
        "spec.schedulingGates",
    ] {
        keep(&mut normal, old, path);
    }
    if int(old, "spec.terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(new, "spec.terminationGracePeriodSeconds") == Some(1)
    {
        keep(&mut normal, old, "spec.terminationGracePeriodSeconds");
    }
    if !list(old, "spec.schedulingGates").is_empty() {
        gated(&mut errors, &mut normal, new, old);
    }
    if !same_spec(at(&normal, "spec"), at(old, "spec")) {
        errors.forbidden("spec", FEW_FIELDS);
    }
    errors.0
}

/// Validates that the deadline comes no later than before. Returns whether the validation goes on.
fn deadline(errors: &mut Errors, new: &Object, old: &Object) -> bool {
    const PATH: &str = "spec.activeDeadlineSeconds";
    match (int(new, PATH), int(old, PATH)) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errors.invalid(PATH, now, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(now), Some(before)) if now > before => {
            errors.invalid(PATH, now, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(
                PATH,
                Value::Null,
                "must not update from a positive integer to nil value",
            );
            true
        }
        _ => true,
    }
}

/// Returns whether two specs are equal, comparing quantities by amount.
pub(super) fn same_spec(a: &Value, b: &Value) -> bool {
    if same(a, b) {
        return true;
    }
    let settled = |spec: &Value| {
        let mut spec = spec.clone();
        for key in ["containers", "initContainers"] {
            for c in list_mut(&mut spec, key) {
                settle_amounts(c);
            }
        }
        settle_amounts(&mut spec);
        spec
    };
    same(&settled(a), &settled(b))
}

/// Writes the amounts of a container or pod in one notation.
fn settle_amounts(holder: &mut Value) {
    for path in ["resources.requests", "resources.limits", "overhead"] {
        let Some(amounts) = map(holder, path).cloned() else {
            continue;
        };
        let plain: serde_json::Map<String, Value> = amounts
            .iter()
            .map(|(name, amount)| {
                let amount = quantities::read(Some(amount));
                (name.clone(), json!([amount.value(), amount.milli_value()]))
            })
            .collect();
        put(holder, path, plain);
    }
}

/// Validates that scheduling gates are only removed.
fn only_removed_gates(errors: &mut Errors, new: &Object, old: &Object) {
    const PATH: &str = "spec.schedulingGates";
    let now = list(new, PATH);
    let names = |gates| -> BTreeSet<&str> {
        <[Value]>::iter(gates)
            .map(|gate| text(gate, "name"))
            .collect()
    };
    let before = names(list(old, PATH));
    // Of gates with the same name, the last one counts.
    let last: BTreeMap<&str, usize> = now.iter().map(|gate| text(gate, "name")).zip(0..).collect();
    for (i, gate) in now.iter().enumerate() {
        let name = text(gate, "name");
        if last.get(name) == Some(&i) && !before.contains(name) {
            errors.forbidden(
                child(&index(PATH, i), "name"),
                format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
}

/// Validates the node selector and affinity of a gated pod, which may become more restrictive.
/// Reverts them in `normal`.
fn gated(errors: &mut Errors, normal: &mut Object, new: &Object, old: &Object) {
    let narrower = map(old, "spec.nodeSelector")
        .into_iter()
        .flatten()
        .all(|(k, v)| at(new, "spec.nodeSelector").get(k) == Some(v));
    if !narrower {
        errors.invalid(
            "spec.nodeSelector",
            at(new, "spec.nodeSelector").clone(),
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    keep(normal, old, "spec.nodeSelector");
    if same_at(new, old, "spec.affinity.nodeAffinity") {
        return;
    }
    narrower_terms(errors, new, old);
    let others = has(new, "spec.affinity.podAffinity") || has(new, "spec.affinity.podAntiAffinity");
    if !has(old, "spec.affinity") && !others {
        remove(normal, "spec.affinity");
    } else {
        keep(normal, old, "spec.affinity.nodeAffinity");
    }
}

/// Validates that all node selector terms remain, with requirements added at most.
fn narrower_terms(errors: &mut Errors, new: &Object, old: &Object) {
    let (now, before) = (list(new, NODE_TERMS), list(old, NODE_TERMS));
    if before.is_empty() {
        return;
    }
    if now.len() != before.len() {
        errors.invalid(
            NODE_TERMS,
            at(new, NODE_TERMS).clone(),
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
        return;
    }
    const KINDS: [&str; 2] = ["matchExpressions", "matchFields"];
    for (i, (old, new)) in before.iter().zip(now).enumerate() {
        let none = |term: &Value| KINDS.iter().all(|key| list(term, key).is_empty());
        let added = KINDS.iter().all(|key| {
            let (old, new) = (list(old, key), list(new, key));
            new.len() >= old.len() && new[..old.len()] == *old
        });
        if !added || none(old) && !none(new) {
            errors.invalid(
                index(NODE_TERMS, i),
                new.clone(),
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
}

fn only_added_tolerations(errors: &mut Errors, new: &Object, old: &Object) {
    let now = list(new, "spec.tolerations");
    fn untimed(toleration: &Value) -> [&str; 4] {
        ["key", "operator", "value", "effect"].map(|key| text(toleration, key))
    }
    let kept: BTreeSet<[&str; 4]> = now.iter().map(untimed).collect();
    let gone = list(old, "spec.tolerations")
        .iter()
        .any(|t| !kept.contains(&untimed(t)));
    if gone {
        errors.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
        return;
    }
    pod_validation::tolerations(errors, at(new, "spec"), "spec.tolerations");
}

/// Validates an update through `pods/ephemeralcontainers`.
pub(super) fn validate_ephemeral(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if pod_annotations::is_mirror(at(old, "metadata")) {
        errors.forbidden("", "static pods do not support ephemeral containers");
        return errors.0;
    }
    errors.extend(valid_by_itself(new, old));
    annotations(&mut errors, new, old);
    let path = "spec.ephemeralContainers";
    let now = list(new, path);
    for before in list(old, path) {
        let name = text(before, "name");
        match now.iter().rfind(|c| text(c, "name") == name) {
            None => errors.forbidden(
                path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(c) if !same(c, before) => errors.forbidden(
                path,
                format!("existing ephemeral containers {name:?} may not be changed\n"),
            ),
            Some(_) => {}
        }
    }
    errors.0
}
