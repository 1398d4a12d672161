//! Validation of annotations that mean something to pods.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container_types::visit;
use super::volume_sources::descending_path;
use crate::errors::{Errors, child, keyed};
use crate::tree::{at, entries, text};

/// Marks the copy of a static pod in the API.
const MIRROR: &str = "kubernetes.io/config.mirror";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The seccomp profile of a pod; of a container, with its name, it is below the other one.
pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// The AppArmor profile of a container, with its name.
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Returns an annotation.
fn annotation<'a>(metadata: &'a Value, key: &str) -> Option<&'a str> {
    at(metadata, "annotations").get(key).and_then(Value::as_str)
}

/// Returns whether a pod is the copy of a static one.
pub(super) fn is_mirror(metadata: &Value) -> bool {
    annotation(metadata, MIRROR).is_some()
}

/// Returns whether the cost of deleting a pod is no number.
pub(super) fn has_bad_cost(metadata: &Value) -> bool {
    annotation(metadata, COST).is_some_and(|cost| {
        // Plus signs and leading zeros are not for numbers.
        let fine = match cost.as_bytes() {
            [b'0'] | [b'-' | b'1'..=b'9', ..] => cost.parse::<i32>().is_ok(),
            _ => false,
        };
        !fine
    })
}

/// Validates the annotations of a pod or template; `any_cost` permits costs that are no numbers.
pub(super) fn validate(
    errors: &mut Errors,
    metadata: &Value,
    spec: &Value,
    any_cost: bool,
    path: &str,
) {
    if let Some(value) = annotation(metadata, MIRROR)
        && text(spec, "nodeName").is_empty()
    {
        errors.invalid(
            keyed(path, MIRROR),
            value,
            "must set spec.nodeName if mirror pod annotation is set",
        );
    }
    if !any_cost && has_bad_cost(metadata) {
        let cost = annotation(metadata, COST).unwrap_or_default();
        errors.invalid(keyed(path, COST), cost, "must be a 32bit integer");
    }
    if let Some(profile) = annotation(metadata, SECCOMP_POD) {
        seccomp(errors, profile, &child(path, SECCOMP_POD));
    }
    for (key, value) in entries(metadata, "annotations") {
        if key.starts_with(SECCOMP_CONTAINER) {
            seccomp(
                errors,
                value.as_str().unwrap_or_default(),
                &child(path, key),
            );
        }
    }
    let mut names = BTreeSet::new();
    visit(spec, "", |container, _| {
        names.insert(text(container, "name"));
    });
    for (key, value) in entries(metadata, "annotations") {
        if let Some(name) = key.strip_prefix(APP_ARMOR) {
            let field = keyed(path, key);
            if !names.contains(name) {
                errors.invalid(field.clone(), name, "container not found");
            }
            app_armor(errors, value.as_str().unwrap_or_default(), &field);
        }
    }
}

fn seccomp(errors: &mut Errors, profile: &str, field: &str) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        other => match other.strip_prefix("localhost/") {
            Some(place) => descending_path(errors, place, field),
            None => errors.invalid(field, other, "must be a valid seccomp profile"),
        },
    }
}

fn app_armor(errors: &mut Errors, profile: &str, field: &str) {
    let known = matches!(profile, "" | "runtime/default" | "unconfined");
    if !known && !profile.starts_with("localhost/") {
        let detail = format!("invalid AppArmor profile name: {profile:?}");
        errors.invalid(field, profile, detail);
    }
}

/// Returns the AppArmor profile of an annotation, as in a security context.
pub(super) fn profile_of(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(serde_json::json!({"type": "Unconfined"})),
        "runtime/default" => Some(serde_json::json!({"type": "RuntimeDefault"})),
        other => {
            let name = other.strip_prefix("localhost/").filter(|n| !n.is_empty())?;
            Some(serde_json::json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

/// Returns whether the profile of an annotation is none for a security context.
pub(super) fn is_bad(profile: &Value) -> bool {
    let mut errors = Errors::new();
    super::container_security::app_armor(&mut errors, profile, "");
    !errors.0.is_empty()
}

/// Validates that the profiles of new pods and templates are the same in annotations and fields.
pub(super) fn profiles_agree(errors: &mut Errors, metadata: &Value, spec: &Value, path: &str) {
    let agree = |errors: &mut Errors, annotated: &str, profile: &Value, what: &str, field: &str| {
        let wanted = match text(profile, "type") {
            "Unconfined" => annotated == "unconfined",
            "RuntimeDefault" => {
                annotated == "runtime/default" || what == "seccomp" && annotated == "docker/default"
            }
            "Localhost" => annotated.starts_with("localhost/"),
            _ => return,
        };
        let file = annotated.strip_prefix("localhost/");
        if !wanted {
            let detail = format!("{what} type in annotation and field must match");
            errors.forbidden(child(field, "type"), detail);
        } else if text(profile, "type") == "Localhost"
            && at(profile, "localhostProfile").as_str() != file
        {
            let detail = format!("{what} profile in annotation and field must match");
            errors.forbidden(child(field, "localhostProfile"), detail);
        }
    };
    let of_pod = at(spec, "securityContext.seccompProfile");
    if let Some(annotated) = annotation(metadata, SECCOMP_POD) {
        let field = child(path, "securityContext.seccompProfile");
        agree(errors, annotated, of_pod, "seccomp", &field);
    }
    visit(spec, path, |container, field| {
        let key = format!("{SECCOMP_CONTAINER}{}", text(container, "name"));
        let profile = at(container, "securityContext.seccompProfile");
        if let Some(annotated) = annotation(metadata, &key) {
            let field = child(&field, "securityContext.seccompProfile");
            agree(errors, annotated, profile, "seccomp", &field);
        }
    });
    if text(spec, "os.name") == "windows" {
        return;
    }
    visit(spec, path, |container, field| {
        let key = format!("{APP_ARMOR}{}", text(container, "name"));
        let profile = match at(container, "securityContext.appArmorProfile") {
            Value::Null => at(spec, "securityContext.appArmorProfile"),
            own => own,
        };
        if let Some(annotated) = annotation(metadata, &key) {
            let field = child(&field, "securityContext.appArmorProfile");
            agree(errors, annotated, profile, "apparmor", &field);
        }
    });
}

/// Validates that an update leaves annotations as they are which tell what a pod is.
pub(super) fn unchanged(errors: &mut Errors, new: &Value, old: &Value, path: &str) {
    let fixed = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        _ if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, value) in entries(old, "annotations") {
        if let Some(what) = fixed(key)
            && annotation(new, key) != value.as_str()
        {
            let detail = format!("may not remove or update {what}");
            errors.forbidden(keyed(path, key), detail);
        }
    }
    for (key, _) in entries(new, "annotations") {
        if let Some(what) = fixed(key)
            && annotation(old, key).is_none()
        {
            errors.forbidden(keyed(path, key), format!("may not add {what}"));
        }
    }
}
