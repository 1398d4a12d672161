//! Validation of the security contexts of containers.

use serde_json::Value;

use crate::errors::{Errors, child};
use crate::names;
use crate::tree::{at, flag, has, int, list, text};

/// Validates a numeric user or group ID.
pub(crate) fn user_id(errors: &mut Errors, id: i64, field: &str) {
    if !(0..=i64::from(i32::MAX)).contains(&id) {
        errors.invalid(field, id, "must be between 0 and 2147483647, inclusive");
    }
}

/// Most characters of the name of an AppArmor profile: the longest path, without its end.
const MAX_PROFILE: usize = 4095;

/// Validates the seccomp and AppArmor profiles of a security context.
pub(crate) fn profiles(errors: &mut Errors, context: &Value, path: &str) {
    let profile = at(context, "seccompProfile");
    if !profile.is_null() {
        seccomp(errors, profile, &child(path, "seccompProfile"));
    }
    let profile = at(context, "appArmorProfile");
    if !profile.is_null() {
        app_armor(errors, profile, &child(path, "appArmorProfile"));
    }
}

fn profile_type(errors: &mut Errors, profile: &Value, what: &str, path: &str) {
    match text(profile, "type") {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(
            child(path, "type"),
            format!("type is required when {what} is set"),
        ),
        other => errors.not_supported(
            child(path, "type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}

fn seccomp(errors: &mut Errors, profile: &Value, path: &str) {
    profile_type(errors, profile, "seccompProfile", path);
    let field = child(path, "localhostProfile");
    let file = text(profile, "localhostProfile");
    match (text(profile, "type"), has(profile, "localhostProfile")) {
        ("Localhost", false) => {
            errors.required(field, "must be set when seccomp type is Localhost");
        }
        ("Localhost", true) => {
            if names::is_absolute(file) {
                errors.invalid(field.clone(), file, "must be a relative path");
            }
            if names::has_backsteps(file) {
                errors.invalid(field, file, "must not contain '..'");
            }
        }
        (_, true) => errors.invalid(
            field,
            file,
            "can only be set when seccomp type is Localhost",
        ),
        (_, false) => {}
    }
}

fn app_armor(errors: &mut Errors, profile: &Value, path: &str) {
    profile_type(errors, profile, "appArmorProfile", path);
    let field = child(path, "localhostProfile");
    let name = text(profile, "localhostProfile");
    match text(profile, "type") {
        "Localhost" => {
            if name.trim() != name {
                errors.invalid(field.clone(), name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(field.clone(), "must be set when AppArmor type is Localhost");
            }
            if name.len() > MAX_PROFILE {
                errors.too_long(field, MAX_PROFILE);
            }
        }
        "RuntimeDefault" | "Unconfined" if has(profile, "localhostProfile") => errors.invalid(
            field,
            name,
            "can only be set when AppArmor type is Localhost",
        ),
        _ => {}
    }
}

/// Validates the security context of a container.
pub(super) fn security_context(errors: &mut Errors, context: &Value, spec: &Value, path: &str) {
    if context.is_null() {
        return;
    }
    for key in ["runAsUser", "runAsGroup"] {
        if let Some(id) = int(context, key) {
            user_id(errors, id, &child(path, key));
        }
    }
    match text(context, "procMount") {
        "" | "Default" => {}
        "Unmasked" => {
            if !has(spec, "hostUsers") || flag(spec, "hostUsers") {
                errors.invalid(
                    child(path, "procMount"),
                    "Unmasked",
                    "`hostUsers` must be false to use `Unmasked`",
                );
            }
        }
        other => errors.not_supported(child(path, "procMount"), other, &["Default", "Unmasked"]),
    }
    profiles(errors, context, path);
    if has(context, "allowPrivilegeEscalation") && !flag(context, "allowPrivilegeEscalation") {
        if flag(context, "privileged") {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let adds_admin = list(context, "capabilities.add")
            .iter()
            .any(|c| c.as_str() == Some("CAP_SYS_ADMIN"));
        if adds_admin {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}
