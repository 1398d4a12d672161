//! Validation of the sysctls of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::tree::{flag, list, text};

/// Returns whether a name is a sysctl: lower-case segments separated by `.` or `/`.
fn is_sysctl(name: &str) -> bool {
    let step = |s: &str| {
        let b = s.as_bytes();
        let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        b.first().is_some_and(edge)
            && b.last().is_some_and(edge)
            && b.iter().all(|b| edge(b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(step)
}

/// Returns why a sysctl is not for this pod: it belongs to a namespace that the pod shares with
/// its node.
fn of_host(spec: &Value, name: &str) -> Option<&'static str> {
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shm",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
    ];
    // If the first separator is a slash, slashes separate, and dots belong to names.
    let slashed = name
        .find(['.', '/'])
        .is_some_and(|i| name[i..].starts_with('/'));
    let dotted: String = match slashed {
        true => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        false => name.to_owned(),
    };
    let dotted = dotted.split('*').next().unwrap_or_default();
    let in_ipc = IPC.contains(&dotted) || dotted.starts_with("fs.mqueue.");
    if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
        Some("may not be specified when 'hostNetwork' is true")
    } else if flag(spec, "hostIPC") && in_ipc {
        Some("may not be specified when 'hostIPC' is true")
    } else {
        None
    }
}

/// Returns whether a pod has sysctls of a namespace that it shares with its node.
pub(super) fn has_of_host(spec: &Value) -> bool {
    list(spec, "securityContext.sysctls")
        .iter()
        .any(|sysctl| of_host(spec, text(sysctl, "name")).is_some())
}

/// Validates the sysctls of a pod; `host` permits those of its node.
pub(super) fn validate(errors: &mut Errors, spec: &Value, host: bool, path: &str) {
    let mut seen = BTreeSet::new();
    let sysctls = list(spec, "securityContext.sysctls");
    for (i, sysctl) in sysctls.iter().enumerate() {
        let field = child(&index(path, i), "name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.required(field.clone(), "");
        } else if !is_sysctl(name) {
            errors.invalid(
                field.clone(),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if seen.contains(name) {
            errors.duplicate(field.clone(), name);
        }
        seen.insert(name);
        if let Some(why) = of_host(spec, name).filter(|_| !host) {
            errors.invalid(field, name, why);
        }
    }
}
