//! Validation of the security contexts of containers.

use serde_json::Value;

use super::pod_windows;
use super::shown::{Field, Form, show};
use super::volume_sources::descending_path;
use crate::errors::{Errors, child};
use crate::tree::{at, flag, has, int, list, text};

/// Validates a numeric user or group ID.
pub(crate) fn user_id(errors: &mut Errors, id: i64, field: &str) {
    if !(0..=i64::from(i32::MAX)).contains(&id) {
        errors.invalid(field, id, "must be between 0 and 2147483647, inclusive");
    }
}

/// Most characters of the name of an AppArmor profile: the longest path, without its end.
const MAX_PROFILE: usize = 4095;

/// Validates the type of a profile.
fn profile_type(errors: &mut Errors, profile: &Value, what: &str, path: &str) {
    let known = ["Localhost", "RuntimeDefault", "Unconfined"];
    match text(profile, "type") {
        "" => errors.required(
            child(path, "type"),
            format!("type is required when {what} is set"),
        ),
        other if !known.contains(&other) => {
            errors.not_supported(child(path, "type"), other, &known);
        }
        _ => {}
    }
}

/// Validates a seccomp profile.
pub(super) fn seccomp(errors: &mut Errors, profile: &Value, path: &str) {
    if profile.is_null() {
        return;
    }
    profile_type(errors, profile, "seccompProfile", path);
    let field = child(path, "localhostProfile");
    let file = text(profile, "localhostProfile");
    match (text(profile, "type"), has(profile, "localhostProfile")) {
        ("Localhost", false) => {
            errors.required(field, "must be set when seccomp type is Localhost");
        }
        ("Localhost", true) => descending_path(errors, file, &field),
        (_, true) => errors.invalid_shown(
            field,
            &show(profile, PROFILE),
            "can only be set when seccomp type is Localhost",
        ),
        (_, false) => {}
    }
}

/// Validates an AppArmor profile.
pub(super) fn app_armor(errors: &mut Errors, profile: &Value, path: &str) {
    if profile.is_null() {
        return;
    }
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
    let mount = text(context, "procMount");
    if has(context, "procMount") && !matches!(mount, "Default" | "Unmasked") {
        errors.not_supported(child(path, "procMount"), mount, &["Default", "Unmasked"]);
    }
    let own_users = has(spec, "hostUsers") && !flag(spec, "hostUsers");
    if mount == "Unmasked" && !own_users {
        errors.invalid(
            child(path, "procMount"),
            mount,
            "`hostUsers` must be false to use `Unmasked`",
        );
    }
    seccomp(
        errors,
        at(context, "seccompProfile"),
        &child(path, "seccompProfile"),
    );
    escalation(errors, context, path);
    pod_windows::options(
        errors,
        at(context, "windowsOptions"),
        &child(path, "windowsOptions"),
    );
    app_armor(
        errors,
        at(context, "appArmorProfile"),
        &child(path, "appArmorProfile"),
    );
}

/// Validates that a container that must not gain privileges has not all of them.
fn escalation(errors: &mut Errors, context: &Value, path: &str) {
    let gains = flag(context, "allowPrivilegeEscalation");
    if gains || !has(context, "allowPrivilegeEscalation") {
        return;
    }
    if flag(context, "privileged") {
        errors.invalid_shown(
            path,
            &show(context, CONTEXT),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
    let capabilities = list(context, "capabilities.add").iter();
    for _ in capabilities.filter(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
        errors.invalid_shown(
            path,
            &show(context, CONTEXT),
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        );
    }
}

const PROFILE: &[Field] = &[
    Field("type", "Type", Form::Text),
    Field("localhostProfile", "LocalhostProfile", Form::Optional),
];

/// The fields of a container's security context.
const CONTEXT: &[Field] = &[
    Field(
        "capabilities",
        "Capabilities",
        Form::Fields(&[
            Field("add", "Add", Form::Optional),
            Field("drop", "Drop", Form::Optional),
        ]),
    ),
    Field("privileged", "Privileged", Form::Optional),
    Field(
        "seLinuxOptions",
        "SELinuxOptions",
        Form::Fields(&[
            Field("user", "User", Form::Text),
            Field("role", "Role", Form::Text),
            Field("type", "Type", Form::Text),
            Field("level", "Level", Form::Text),
        ]),
    ),
    Field(
        "windowsOptions",
        "WindowsOptions",
        Form::Fields(&[
            Field(
                "gmsaCredentialSpecName",
                "GMSACredentialSpecName",
                Form::Optional,
            ),
            Field("gmsaCredentialSpec", "GMSACredentialSpec", Form::Optional),
            Field("runAsUserName", "RunAsUserName", Form::Optional),
            Field("hostProcess", "HostProcess", Form::Optional),
        ]),
    ),
    Field("runAsUser", "RunAsUser", Form::Optional),
    Field("runAsGroup", "RunAsGroup", Form::Optional),
    Field("runAsNonRoot", "RunAsNonRoot", Form::Optional),
    Field(
        "readOnlyRootFilesystem",
        "ReadOnlyRootFilesystem",
        Form::Optional,
    ),
    Field(
        "allowPrivilegeEscalation",
        "AllowPrivilegeEscalation",
        Form::Optional,
    ),
    Field("procMount", "ProcMount", Form::Optional),
    Field("seccompProfile", "SeccompProfile", Form::Fields(PROFILE)),
    Field("appArmorProfile", "AppArmorProfile", Form::Fields(PROFILE)),
];
