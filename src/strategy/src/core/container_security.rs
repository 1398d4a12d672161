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

/// Validates the seccomp and AppArmor profiles of a security context.
pub(crate) fn profiles(errors: &mut Errors, context: &Value, path: &str) {
    for key in ["seccompProfile", "appArmorProfile"] {
        let profile = at(context, key);
        if profile.is_null() {
            continue;
        }
        let field = child(path, key);
        let kind = text(profile, "type");
        match kind {
            "RuntimeDefault" | "Unconfined" => {
                if has(profile, "localhostProfile") {
                    errors.invalid(
                        child(&field, "localhostProfile"),
                        text(profile, "localhostProfile"),
                        "can only be set when type is set to Localhost",
                    );
                }
            }
            "Localhost" => match text(profile, "localhostProfile") {
                "" => errors.required(
                    child(&field, "localhostProfile"),
                    "must be set when type is set to Localhost",
                ),
                file => {
                    if names::is_absolute(file) {
                        errors.invalid(
                            child(&field, "localhostProfile"),
                            file,
                            "must be a relative path",
                        );
                    }
                    if names::has_backsteps(file) {
                        errors.invalid(
                            child(&field, "localhostProfile"),
                            file,
                            "must not contain '..'",
                        );
                    }
                }
            },
            "" => errors.required(
                child(&field, "type"),
                "type is required when seccompProfile is set",
            ),
            other => errors.not_supported(
                child(&field, "type"),
                other,
                &["Localhost", "RuntimeDefault", "Unconfined"],
            ),
        }
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
