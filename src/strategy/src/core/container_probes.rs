//! Validation of probes and lifecycle hooks.

use serde_json::Value;

use super::container_types::Container;
use crate::errors::{Errors, NOT_NEGATIVE, child};
use crate::names;
use crate::tree::{at, int, list, text};

/// Validates the lifecycle hooks and probes of a container.
pub(super) fn lifecycle_and_probes(errors: &mut Errors, c: &Container<'_>, spec: &Value) {
    for key in ["postStart", "preStop"] {
        let hook = at(at(c.value, "lifecycle"), key);
        if !hook.is_null() {
            handler(
                errors,
                hook,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                spec,
                &format!("{}.lifecycle.{key}", c.path),
            );
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = at(c.value, key);
        if probe.is_null() {
            continue;
        }
        let path = child(&c.path, key);
        handler(
            errors,
            probe,
            &["exec", "httpGet", "tcpSocket", "grpc"],
            spec,
            &path,
        );
        for number in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            let n = int(probe, number).unwrap_or(0);
            if n < 0 {
                errors.invalid(child(&path, number), n, NOT_NEGATIVE);
            }
        }
        if let Some(grace) = int(probe, "terminationGracePeriodSeconds") {
            let field = child(&path, "terminationGracePeriodSeconds");
            if grace <= 0 {
                errors.invalid(field.clone(), grace, "must be greater than 0");
            }
            if key == "readinessProbe" {
                errors.invalid(field, grace, "must not be set for readinessProbes");
            }
        }
        if key != "readinessProbe" {
            let threshold = int(probe, "successThreshold").unwrap_or(1);
            if threshold != 1 {
                errors.invalid(child(&path, "successThreshold"), threshold, "must be 1");
            }
        }
    }
}

fn handler(errors: &mut Errors, value: &Value, kinds: &[&str], spec: &Value, path: &str) {
    let mut count = 0;
    for kind in kinds {
        let action = at(value, kind);
        if action.is_null() {
            continue;
        }
        count += 1;
        let field = child(path, kind);
        if count > 1 {
            errors.forbidden(field, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" => {
                if list(action, "command").is_empty() {
                    errors.required(child(&field, "command"), "");
                }
            }
            "httpGet" => {
                if text(action, "path").is_empty() {
                    errors.required(child(&field, "path"), "");
                }
                port(errors, at(action, "port"), &child(&field, "port"));
                let scheme = text(action, "scheme");
                if !matches!(scheme, "HTTP" | "HTTPS") {
                    errors.not_supported(child(&field, "scheme"), scheme, &["HTTP", "HTTPS"]);
                }
                for header in list(action, "httpHeaders") {
                    let name = text(header, "name");
                    errors.invalid_each(
                        &child(&field, "httpHeaders"),
                        name,
                        names::http_header_name(name),
                    );
                }
            }
            "tcpSocket" | "grpc" => port(errors, at(action, "port"), &child(&field, "port")),
            _ => {
                let seconds = int(action, "seconds").unwrap_or(0);
                let grace = int(spec, "terminationGracePeriodSeconds").unwrap_or(0);
                if seconds < 0 || seconds > grace {
                    errors.invalid(
                        field,
                        seconds,
                        format!(
                            "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                        ),
                    );
                }
            }
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

/// Validates a port number or name.
pub(crate) fn port(errors: &mut Errors, port: &Value, field: &str) {
    match port {
        Value::String(name) => errors.invalid_each(field, name, names::port_name(name)),
        number => {
            let n = number.as_i64().unwrap_or(0);
            for message in names::port_number(n) {
                errors.invalid(field, n, message);
            }
        }
    }
}
