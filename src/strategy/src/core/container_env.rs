//! Validation of container environments and of field references.

use std::collections::BTreeMap;

use serde_json::Value;

use super::container_types::visit;
use crate::errors::{Errors, child, index};
use crate::tree::{at, has, list, text};
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
            errors.invalid_each(&child(&path, "name"), name, names::dns1123_subdomain(name));
            let data = text(reference, "key");
            if data.is_empty() {
                errors.required(child(&path, "key"), "");
            } else {
                errors.invalid_each(&child(&path, "key"), data, names::config_map_key(data));
            }
        }
    }
    if let reference @ Value::Object(_) = at(from, "fileKeyRef") {
        sources += 1;
        file_key_ref(errors, reference, &child(path, "fileKeyRef"));
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

/// Validates a `fileKeyRef`; [`file_volumes`] validates its volume.
fn file_key_ref(errors: &mut Errors, reference: &Value, path: &str) {
    let field = child(path, "key");
    match text(reference, "key") {
        "" => errors.required(field, ""),
        key => errors.invalid_each(&field, key, names::env_var_name(key)),
    }
    let field = child(path, "volumeName");
    match text(reference, "volumeName") {
        "" => errors.required(field, ""),
        volume => errors.invalid_each(&field, volume, names::dns1123_label(volume)),
    }
    let field = child(path, "path");
    match text(reference, "path") {
        "" => errors.required(field, ""),
        place if names::has_backsteps(place) => {
            errors.invalid(field, place, "must not contain '..'");
        }
        _ => {}
    }
}

/// Validates that the volumes of files of variables are of type `emptyDir`.
pub(super) fn file_volumes(errors: &mut Errors, spec: &Value, path: &str) {
    // Of volumes with the same name, the last one counts.
    let volumes: BTreeMap<&str, &Value> = list(spec, "volumes")
        .iter()
        .map(|volume| (text(volume, "name"), volume))
        .collect();
    visit(spec, path, |container, field| {
        for (i, var) in list(container, "env").iter().enumerate() {
            if !has(var, "valueFrom.fileKeyRef") {
                continue;
            }
            let name = text(var, "valueFrom.fileKeyRef.volumeName");
            let field = index(&child(&field, "env"), i);
            let field = format!("{field}.valueFrom.fileKeyRef.volumeName");
            match volumes.get(name) {
                None => errors.not_found(field, name),
                Some(volume) if !has(volume, "emptyDir") => {
                    errors.invalid(field, name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    });
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
    if text(reference, "apiVersion") != "v1" {
        let version = text(reference, "apiVersion");
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.invalid(field, field_path, detail);
        return;
    }
    // The name that old clients have for it.
    let internal = match field_path {
        "spec.host" => "spec.nodeName",
        path => path,
    };
    let subscript = field_path
        .strip_suffix("']")
        .and_then(|rest| rest.split_once("['"))
        .filter(|(base, _)| !base.is_empty());
    match subscript {
        // As upstream, the error of a key has the reference's field.
        Some(("metadata.labels", key)) => {
            errors.invalid_each(path, key, names::qualified_name(key));
        }
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            errors.invalid_each(path, &key, names::qualified_name(&key));
        }
        Some(_) => errors.invalid(
            field,
            field_path,
            format!(
                "error converting fieldPath: field label does not support subscript: {field_path}"
            ),
        ),
        None if known.contains(&internal) => {}
        None if is_pod_field(internal) => errors.not_supported(field, internal, known),
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
    let resource = text(reference, "resource");
    let known = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let huge_pages = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|prefix| resource.starts_with(prefix));
    if volume && text(reference, "containerName").is_empty() {
        errors.required(child(path, "containerName"), "");
    } else if resource.is_empty() {
        errors.required(child(path, "resource"), "");
    } else if !known.contains(&resource) && !huge_pages {
        errors.not_supported(child(path, "resource"), resource, &known);
    }
    divisor(errors, reference, resource, &child(path, "divisor"));
}

/// Validates the divisor of a `resourceFieldRef`. As upstream, an error shows the resource.
fn divisor(errors: &mut Errors, reference: &Value, resource: &str, field: &str) {
    const UNITS: [&str; 13] = [
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    if quantities::read(Some(at(reference, "divisor"))).is_zero() {
        return;
    }
    let name = ["limits.", "requests."]
        .iter()
        .find_map(|side| resource.strip_prefix(side));
    let (known, what): (&[&str], &str) = match name {
        Some("cpu") => (&["1m", "1"], "cpu"),
        Some("memory") => (&UNITS, "memory"),
        Some("ephemeral-storage") => (&UNITS, "local ephemeral storage"),
        Some(name) if name.starts_with("hugepages-") => (&UNITS, "hugepages"),
        _ => return,
    };
    if known.contains(&quantities::canonical(reference, "divisor").as_str()) {
        return;
    }
    let values = match what {
        "cpu" => "1m and 1".to_owned(),
        _ => UNITS.join(", "),
    };
    errors.invalid(
        field,
        resource,
        format!("only divisor's values {values} are supported with the {what} resource"),
    );
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
                let name = text(at(source, key), "name");
                let field = format!("{field}.{key}.name");
                if name.is_empty() {
                    errors.required(field, "");
                } else {
                    let masked = names::mask_trailing_dash(name);
                    errors.invalid_each(&field, name, names::dns1123_subdomain(&masked));
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
