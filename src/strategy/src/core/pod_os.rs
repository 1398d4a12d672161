//! Validation of a pod's operating system.

use serde_json::Value;

use super::container_types::visit;
use crate::errors::{Errors, child};
use crate::tree::{at, flag, has, list, text};

const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";
const NOT_ON_LINUX: &str = "windows options cannot be set for a linux pod";

/// Validates `os`, and that the pod sets no fields of another operating system.
pub(super) fn operating_system(errors: &mut Errors, spec: &Value, path: &str) {
    if !has(spec, "os") {
        return;
    }
    let field = child(path, "os");
    match text(spec, "os.name") {
        "" => errors.required(child(&field, "name"), ""),
        "linux" => linux(errors, spec, path),
        "windows" => windows(errors, spec, path),
        other => errors.not_supported(field, other, &["linux", "windows"]),
    }
}

/// Calls `check` with the security context of every container, and its field.
fn contexts(spec: &Value, path: &str, mut check: impl FnMut(&Value, String)) {
    visit(spec, path, |container, field| {
        let context = at(container, "securityContext");
        if !context.is_null() {
            check(context, child(&field, "securityContext"));
        }
    });
}

fn linux(errors: &mut Errors, spec: &Value, path: &str) {
    if has(spec, "securityContext.windowsOptions") {
        let context = child(path, "securityContext");
        errors.forbidden(child(&context, "windowsOptions"), NOT_ON_LINUX);
    }
    contexts(spec, path, |context, field| {
        if has(context, "windowsOptions") {
            errors.forbidden(child(&field, "windowsOptions"), NOT_ON_LINUX);
        }
    });
}

fn windows(errors: &mut Errors, spec: &Value, path: &str) {
    // In upstream's order.
    for (key, is_flag) in [
        ("securityContext.appArmorProfile", false),
        ("securityContext.seLinuxOptions", false),
        ("hostUsers", false),
        ("hostPID", true),
        ("hostIPC", true),
        ("securityContext.seccompProfile", false),
        ("securityContext.fsGroup", false),
        ("securityContext.fsGroupChangePolicy", false),
        ("securityContext.sysctls", false),
        ("shareProcessNamespace", false),
        ("securityContext.runAsUser", false),
        ("securityContext.runAsGroup", false),
        ("securityContext.supplementalGroups", false),
        ("securityContext.supplementalGroupsPolicy", false),
        ("securityContext.seLinuxChangePolicy", false),
    ] {
        let set = match key {
            "securityContext.sysctls" => !list(spec, key).is_empty(),
            _ if is_flag => flag(spec, key),
            _ => has(spec, key),
        };
        if set {
            errors.forbidden(child(path, key), NOT_ON_WINDOWS);
        }
    }
    contexts(spec, path, |context, field| {
        for key in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            if has(context, key) {
                errors.forbidden(child(&field, key), NOT_ON_WINDOWS);
            }
        }
    });
}
