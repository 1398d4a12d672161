//! Validation of container environments and of field references.

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::tree::{at, has, text};
use crate::{names, quantities};

/// Validates the environment variables of a container.
pub(super) fn env(errors: &mut Errors, vars: &[Value], path: &str) {
    for (i, var) in vars.iter().enumerate() {
        let field = index(path, i);
        let name = text(var, "name");
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
        } else {
            errors.invalid_each(&child(&field, "name"), name, names::env_var_name(name));
        }
        if has(var, "valueFrom") {
            value_from(errors, var, &child(&field, "valueFrom"));
        }
    }
}

fn value_from(errors: &mut Errors, var: &Value, path: &str) {
    let from = at(var, "valueFrom");
    let mut sources = 0;
    if let reference @ Value::Object(_) = at(from, "fieldRef") {
        sources += 1;
        field_ref(
            errors,
            reference,
            &[
                "metadata.name",
                "metadata.namespace",
                "metadata.uid",
                "spec.nodeName",
                "spec.serviceAccountName",
                "status.hostIP",
                "status.hostIPs",
                "status.podIP",
                "status.podIPs",
            ],
            &child(path, "fieldRef"),
        );
    }
    if let reference @ Value::Object(_) = at(from, "resourceFieldRef") {
        sources += 1;
        resource_field_ref(errors, reference, false, &child(path, "resourceFieldRef"));
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let reference @ Value::Object(_) = at(from, key) {
            sources += 1;
            let name = text(reference, "name");
            let path = child(path, key);
            if name.is_empty() {
                errors.required(child(&path, "name"), "");
            }
            let data = text(reference, "key");
            if data.is_empty() {
                errors.required(child(&path, "key"), "");
            } else {
                errors.invalid_each(&child(&path, "key"), data, names::config_map_key(data));
            }
        }
    }
    if has(from, "fileKeyRef") {
        sources += 1;
    }
    if sources == 0 {
        errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !text(var, "value").is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        );
    }
}

/// Validates a `fieldRef`: one of the `known` fields, or a single label or annotation.
pub(crate) fn field_ref(errors: &mut Errors, reference: &Value, known: &[&str], path: &str) {
    if text(reference, "apiVersion").is_empty() {
        errors.required(child(path, "apiVersion"), "");
        return;
    }
    let field_path = text(reference, "fieldPath");
    let field = child(path, "fieldPath");
    if field_path.is_empty() {
        errors.required(field, "");
        return;
    }
    let subscript = field_path
        .strip_suffix("']")
        .and_then(|rest| rest.split_once("['"));
    match subscript {
        Some(("metadata.labels" | "metadata.annotations", key)) => {
            errors.invalid_each(
                &field,
                field_path,
                names::qualified_name(&key.to_lowercase()),
            );
        }
        Some((base, _)) => errors.invalid(
            field,
            field_path,
            format!("error converting fieldPath: field label does not support subscript: {base}"),
        ),
        None if known.contains(&field_path) => {}
        None if is_pod_field(field_path) => errors.not_supported(field, field_path, known),
        None => errors.invalid(
            field,
            field_path,
            format!("error converting fieldPath: field label not supported: {field_path}"),
        ),
    }
}

fn is_pod_field(path: &str) -> bool {
    matches!(
        path,
        "metadata.annotations"
            | "metadata.labels"
            | "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.serviceAccountName"
            | "spec.schedulerName"
            | "status.phase"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.podIP"
            | "status.podIPs"
    )
}

/// Validates a `resourceFieldRef` of an environment variable, or of a file if `volume` is true.
pub(crate) fn resource_field_ref(errors: &mut Errors, reference: &Value, volume: bool, path: &str) {
    if volume && text(reference, "containerName").is_empty() {
        errors.required(child(path, "containerName"), "");
    }
    let resource = text(reference, "resource");
    let known = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if resource.is_empty() {
        errors.required(child(path, "resource"), "");
    } else if !known.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.not_supported(child(path, "resource"), resource, &known);
    }
    let divisor = quantities::canonical(reference, "divisor");
    let fine: &[&str] = match resource.split('.').nth(1) {
        Some("cpu") => &["0", "1", "1m"],
        _ => &[
            "0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
        ],
    };
    if !fine.contains(&divisor.as_str()) {
        let detail = if fine.len() == 3 {
            "only divisor's values 1m and 1 are supported with the cpu resource"
        } else {
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
        };
        errors.invalid(child(path, "divisor"), divisor, detail);
    }
}

/// Validates the sources of environment variables (`envFrom`).
pub(super) fn env_from(errors: &mut Errors, sources: &[Value], path: &str) {
    for (i, source) in sources.iter().enumerate() {
        let field = index(path, i);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            errors.invalid_each(
                &child(&field, "prefix"),
                prefix,
                names::env_var_name(prefix),
            );
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            if has(source, key) {
                count += 1;
                if text(at(source, key), "name").is_empty() {
                    errors.required(format!("{field}.{key}.name"), "");
                }
            }
        }
        // As upstream, the error's path is that of the list, not of the entry.
        if count == 0 {
            errors.invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            );
        } else if count > 1 {
            errors.invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            );
        }
    }
}
