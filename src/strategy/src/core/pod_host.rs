//! Validation of what a pod shares with its node, and of its host name.

use serde_json::Value;

use super::container_types::{Holder, visit};
use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{flag, has, int, list, text};

/// Most characters of a host name of Linux.
const MAX_HOST_NAME: usize = 64;

/// Validates that the ports of a pod in the node's network are the node's ports. A template
/// may leave them out, because they have a default in its pods.
pub(super) fn host_network(errors: &mut Errors, spec: &Value, holder: Holder, path: &str) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for (i, container) in list(spec, "containers").iter().enumerate() {
        let ports = child(&index(&child(path, "containers"), i), "ports");
        for (j, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or(0);
            let unset = host == 0 && holder == Holder::Template;
            if !unset && host != int(port, "containerPort").unwrap_or(0) {
                errors.invalid(
                    child(&index(&ports, j), "hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

/// Validates that a pod with its own users shares no other namespace with its node, and has no
/// devices, whose owners cannot be mapped; `devices` permits them.
pub(super) fn host_users(errors: &mut Errors, spec: &Value, devices: bool, path: &str) {
    const WHY: &str = "when `hostUsers` is false";
    if !has(spec, "hostUsers") || flag(spec, "hostUsers") {
        return;
    }
    // The fields' spelling in the errors is upstream's.
    for (key, field) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if flag(spec, key) {
            errors.forbidden(child(path, field), WHY);
        }
    }
    visit(spec, path, |container, field| {
        if !devices && !list(container, "volumeDevices").is_empty() {
            errors.forbidden(child(&field, "volumeDevices"), WHY);
        }
    });
}

/// Validates `hostnameOverride`.
pub(super) fn host_name(errors: &mut Errors, spec: &Value, path: &str) {
    if !has(spec, "hostnameOverride") {
        return;
    }
    let field = child(path, "hostnameOverride");
    let name = text(spec, "hostnameOverride");
    for (key, why) in [
        (
            "setHostnameAsFQDN",
            "may not be specified when setHostnameAsFQDN is true",
        ),
        (
            "hostNetwork",
            "may not be specified when hostNetwork is true",
        ),
    ] {
        if flag(spec, key) {
            errors.forbidden(field.clone(), why);
        }
    }
    if name.len() > MAX_HOST_NAME {
        errors.too_long(field.clone(), MAX_HOST_NAME);
    }
    errors.invalid_each(&field, name, names::dns1123_subdomain(name));
}
