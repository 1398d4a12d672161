//! The rules of containers: ordinary, init and ephemeral.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod_defaults::is_sidecar;
use crate::errors::{Errors, NOT_NEGATIVE, child, index};
use crate::names;
use crate::quantities;
use crate::tree::{at, flag, has, int, list, map, text};

/// A container and where it stands.
pub(crate) struct Container<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

/// What the volumes of a pod are called; claims may be devices.
pub(crate) struct Volumes<'a> {
    pub(crate) names: BTreeSet<&'a str>,
    pub(crate) claims: BTreeSet<&'a str>,
}

/// All containers of a pod spec.
pub(crate) fn all(errors: &mut Errors, spec: &Value, volumes: &Volumes<'_>, path: &str) {
    let place = |key: &str| -> Vec<Container<'_>> {
        list(spec, key)
            .iter()
            .enumerate()
            .map(|(i, value)| Container {
                value,
                path: index(&child(path, key), i),
            })
            .collect()
    };
    let containers = place("containers");
    let init = place("initContainers");
    let ephemeral = place("ephemeralContainers");
    if containers.is_empty() {
        errors.required(child(path, "containers"), "");
    }
    let mut names = BTreeSet::new();
    for c in &containers {
        container(errors, c, spec, volumes, &mut names);
        lifecycle_and_probes(errors, c, spec);
        restart_rules(errors, c);
        let policy = text(c.value, "restartPolicy");
        if !policy.is_empty() && list(c.value, "restartPolicyRules").is_empty() {
            check_restart_policy(errors, policy, &c.path);
        }
    }
    super::pod_validation::host_port_conflicts(errors, &containers);
    for c in &init {
        container(errors, c, spec, volumes, &mut names);
        let policy = text(c.value, "restartPolicy");
        if !policy.is_empty() {
            check_restart_policy(errors, policy, &c.path);
        }
        restart_rules(errors, c);
        if is_sidecar(c.value) {
            lifecycle_and_probes(errors, c, spec);
        } else {
            for key in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if has(c.value, key) {
                    errors.forbidden(
                        child(&c.path, key),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
        }
        super::pod_validation::host_port_conflicts(errors, std::slice::from_ref(c));
    }
    for c in &ephemeral {
        let target = text(c.value, "targetContainerName");
        container(errors, c, spec, volumes, &mut names);
        let known = containers
            .iter()
            .chain(&init)
            .any(|o| text(o.value, "name") == target);
        if !target.is_empty() && !known {
            errors.not_found(child(&c.path, "targetContainerName"), target);
        }
        for key in [
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "resizePolicy",
        ] {
            if has(c.value, key) {
                errors.forbidden(
                    child(&c.path, key),
                    "cannot be set for an Ephemeral Container",
                );
            }
        }
        for key in ["requests", "limits"] {
            if map(at(c.value, "resources"), key).is_some_and(|m| !m.is_empty()) {
                errors.forbidden(
                    child(&c.path, "resources"),
                    "cannot be set for an Ephemeral Container",
                );
                break;
            }
        }
        if has(c.value, "restartPolicy") {
            errors.forbidden(
                child(&c.path, "restartPolicy"),
                "cannot be set for an Ephemeral Container",
            );
        }
        for (i, mount) in list(c.value, "volumeMounts").iter().enumerate() {
            let field = index(&child(&c.path, "volumeMounts"), i);
            for key in ["subPath", "subPathExpr"] {
                if !text(mount, key).is_empty() {
                    errors.forbidden(
                        child(&field, key),
                        "cannot be set for an Ephemeral Container",
                    );
                }
            }
        }
    }
}

fn check_restart_policy(errors: &mut Errors, policy: &str, path: &str) {
    let known = ["Always", "OnFailure", "Never"];
    if !known.contains(&policy) {
        errors.not_supported(child(path, "restartPolicy"), policy, &known);
    }
}

fn restart_rules(errors: &mut Errors, c: &Container<'_>) {
    let rules = list(c.value, "restartPolicyRules");
    let field = child(&c.path, "restartPolicyRules");
    if rules.is_empty() {
        return;
    }
    if text(c.value, "restartPolicy").is_empty() {
        errors.required(
            child(&c.path, "restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        );
    }
    if rules.len() > 20 {
        errors.too_long(field.clone(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        let field = index(&field, i);
        let action = text(rule, "action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.not_supported(
                child(&field, "action"),
                action,
                &["Restart", "RestartAllContainers"],
            );
        }
        match at(rule, "exitCodes") {
            Value::Null => errors.required(child(&field, "exitCodes"), "must be specified"),
            codes => {
                let operator = text(codes, "operator");
                if !matches!(operator, "In" | "NotIn") {
                    errors.not_supported(
                        format!("{field}.exitCodes.operator"),
                        operator,
                        &["In", "NotIn"],
                    );
                }
            }
        }
    }
}

fn container<'a>(
    errors: &mut Errors,
    c: &Container<'a>,
    spec: &Value,
    volumes: &Volumes<'_>,
    seen: &mut BTreeSet<&'a str>,
) {
    let value = c.value;
    let f = |key: &str| child(&c.path, key);
    let name = text(value, "name");
    if name.is_empty() {
        errors.required(f("name"), "");
    } else {
        errors.invalid_each(&f("name"), name, names::dns1123_label(name));
        if !seen.insert(name) {
            errors.duplicate(f("name"), name);
        }
    }
    let image = text(value, "image");
    if image.is_empty() {
        // Templates may leave the image to an injecting webhook; pods are
        // checked once more by `require_images`.
        require_image(errors, c);
    } else if image.trim() != image {
        errors.invalid(
            f("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    match text(value, "terminationMessagePolicy") {
        "File" | "FallbackToLogsOnError" => {}
        "" => errors.required(f("terminationMessagePolicy"), ""),
        other => errors.not_supported(
            f("terminationMessagePolicy"),
            other,
            &["FallbackToLogsOnError", "File"],
        ),
    }
    ports(errors, list(value, "ports"), &f("ports"));
    env(errors, list(value, "env"), &f("env"));
    env_from(errors, list(value, "envFrom"), &f("envFrom"));
    mounts(errors, value, volumes, &c.path);
    match text(value, "imagePullPolicy") {
        "Always" | "IfNotPresent" | "Never" => {}
        "" => errors.required(f("imagePullPolicy"), ""),
        other => errors.not_supported(
            f("imagePullPolicy"),
            other,
            &["Always", "IfNotPresent", "Never"],
        ),
    }
    quantities::validate_requirements(errors, at(value, "resources"), &f("resources"));
    claims(errors, value, spec, &f("resources"));
    resize_policy(errors, value, spec, &f("resizePolicy"));
    security_context(
        errors,
        at(value, "securityContext"),
        spec,
        &f("securityContext"),
    );
}

fn require_image(errors: &mut Errors, c: &Container<'_>) {
    errors.required(child(&c.path, "image"), "");
}

fn claims(errors: &mut Errors, value: &Value, spec: &Value, path: &str) {
    for (i, claim) in list(value, "resources.claims").iter().enumerate() {
        let name = text(claim, "name");
        let known = list(spec, "resourceClaims")
            .iter()
            .any(|c| text(c, "name") == name);
        if !name.is_empty() && !known {
            errors.not_found(child(&index(&child(path, "claims"), i), "name"), name);
        }
    }
}

fn resize_policy(errors: &mut Errors, value: &Value, spec: &Value, path: &str) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list(value, "resizePolicy").iter().enumerate() {
        let field = index(path, i);
        let resource = text(policy, "resourceName");
        if !seen.insert(resource) {
            errors.duplicate(field.clone(), resource);
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(child(&field, "resourceName"), ""),
            other => {
                errors.not_supported(child(&field, "resourceName"), other, &["cpu", "memory"]);
            }
        }
        let restart = text(policy, "restartPolicy");
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(child(&field, "restartPolicy"), ""),
            other => errors.not_supported(
                child(&field, "restartPolicy"),
                other,
                &["NotRequired", "RestartContainer"],
            ),
        }
        if text(spec, "restartPolicy") == "Never" && restart == "RestartContainer" {
            errors.invalid(
                field,
                restart,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}

fn ports(errors: &mut Errors, ports: &[Value], path: &str) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let field = index(path, i);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            if problems.is_empty() {
                if !seen.insert(name) {
                    errors.duplicate(child(&field, "name"), name);
                }
            } else {
                errors.invalid_each(&child(&field, "name"), name, problems);
            }
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => errors.required(child(&field, "containerPort"), ""),
            number => {
                for message in names::port_number(number) {
                    errors.invalid(child(&field, "containerPort"), number, message);
                }
            }
        }
        if let Some(number) = int(port, "hostPort").filter(|n| *n != 0) {
            for message in names::port_number(number) {
                errors.invalid(child(&field, "hostPort"), number, message);
            }
        }
        protocol(errors, text(port, "protocol"), &child(&field, "protocol"));
        let ip = text(port, "hostIP");
        if !ip.is_empty() {
            errors.invalid_each(&child(&field, "hostIP"), ip, names::ip(ip));
        }
    }
}

/// `TCP`, `UDP` or `SCTP`.
pub(crate) fn protocol(errors: &mut Errors, protocol: &str, field: &str) {
    match protocol {
        "TCP" | "UDP" | "SCTP" => {}
        "" => errors.required(field, ""),
        other => errors.not_supported(field, other, &["SCTP", "TCP", "UDP"]),
    }
}

fn env(errors: &mut Errors, vars: &[Value], path: &str) {
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

/// A `fieldRef` may name some fields, and one label or annotation.
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

/// A container's resource as an environment variable or file.
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

fn env_from(errors: &mut Errors, sources: &[Value], path: &str) {
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
        if count == 0 {
            errors.invalid(
                field,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            );
        } else if count > 1 {
            errors.invalid(
                field,
                "",
                "may not have more than one field specified at a time",
            );
        }
    }
}

fn mounts(errors: &mut Errors, value: &Value, volumes: &Volumes<'_>, path: &str) {
    let mut points = BTreeSet::new();
    for (i, mount) in list(value, "volumeMounts").iter().enumerate() {
        let field = index(&child(path, "volumeMounts"), i);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
        } else if !volumes.names.contains(name) {
            errors.not_found(child(&field, "name"), name);
        }
        let point = text(mount, "mountPath");
        if point.is_empty() {
            errors.required(child(&field, "mountPath"), "");
        } else if !points.insert(point) {
            errors.invalid(child(&field, "mountPath"), point, "must be unique");
        }
        for key in ["subPath", "subPathExpr"] {
            let sub = text(mount, key);
            if sub.is_empty() {
                continue;
            }
            if names::is_absolute(sub) {
                errors.invalid(child(&field, key), sub, "must be a relative path");
            }
            if names::has_backsteps(sub) {
                errors.invalid(child(&field, key), sub, "must not contain '..'");
            }
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            errors.invalid(
                child(&field, "subPathExpr"),
                text(mount, "subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        let propagation = text(mount, "mountPropagation");
        if !propagation.is_empty() {
            let known = ["Bidirectional", "HostToContainer", "None"];
            if !known.contains(&propagation) {
                errors.not_supported(child(&field, "mountPropagation"), propagation, &known);
            }
            if propagation == "Bidirectional" && !flag(value, "securityContext.privileged") {
                errors.forbidden(
                    child(&field, "mountPropagation"),
                    "Bidirectional mount propagation is available only to privileged containers",
                );
            }
        }
        let recursive = text(mount, "recursiveReadOnly");
        if !recursive.is_empty() {
            let known = ["Disabled", "Enabled", "IfPossible"];
            if !known.contains(&recursive) {
                errors.not_supported(child(&field, "recursiveReadOnly"), recursive, &known);
            } else if recursive != "Disabled" {
                if !flag(mount, "readOnly") {
                    errors.forbidden(
                        child(&field, "recursiveReadOnly"),
                        "may only be specified when readOnly is true",
                    );
                }
                if !matches!(propagation, "" | "None") {
                    errors.forbidden(
                        child(&field, "recursiveReadOnly"),
                        "may only be specified when mountPropagation is None or not specified",
                    );
                }
            }
        }
    }
    let mut devices = BTreeSet::new();
    for (i, device) in list(value, "volumeDevices").iter().enumerate() {
        let field = index(&child(path, "volumeDevices"), i);
        let name = text(device, "name");
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
        } else if !volumes.names.contains(name) {
            errors.not_found(child(&field, "name"), name);
        } else if !volumes.claims.contains(name) {
            errors.invalid(
                child(&field, "name"),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            );
        }
        let at_path = text(device, "devicePath");
        if at_path.is_empty() {
            errors.required(child(&field, "devicePath"), "");
        } else if !devices.insert(at_path) {
            errors.invalid(child(&field, "devicePath"), at_path, "must be unique");
        } else if points.contains(at_path) {
            errors.invalid(
                child(&field, "devicePath"),
                at_path,
                "must not already exist as a path in volumeMounts",
            );
        } else if names::has_backsteps(at_path) {
            errors.invalid(
                child(&field, "devicePath"),
                at_path,
                "must not contain '..'",
            );
        }
    }
}

fn lifecycle_and_probes(errors: &mut Errors, c: &Container<'_>, spec: &Value) {
    for key in ["postStart", "preStop"] {
        let hook = at(at(c.value, "lifecycle"), key);
        if !hook.is_null() {
            handler(
                errors,
                hook,
                &["exec", "httpGet", "sleep", "tcpSocket"],
                spec,
                &format!("{}.lifecycle.{key}", c.path),
            );
        }
    }
    if has(c.value, "lifecycle.stopSignal") && !has(spec, "os.name") {
        errors.forbidden(
            format!("{}.lifecycle.stopSignal", c.path),
            "may not be set for containers with empty `spec.os.name`",
        );
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
            if key == "readinessProbe" {
                errors.invalid(
                    child(&path, "terminationGracePeriodSeconds"),
                    grace,
                    "must not be set for readinessProbes",
                );
            } else if grace <= 0 {
                errors.invalid(
                    child(&path, "terminationGracePeriodSeconds"),
                    grace,
                    "must be greater than 0",
                );
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
            "tcpSocket" => port(errors, at(action, "port"), &child(&field, "port")),
            "grpc" => port(errors, at(action, "port"), &child(&field, "port")),
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

/// A port by number or name.
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

/// A user or group number.
pub(crate) fn user_id(errors: &mut Errors, id: i64, field: &str) {
    if !(0..=i64::from(i32::MAX)).contains(&id) {
        errors.invalid(field, id, "must be between 0 and 2147483647, inclusive");
    }
}

/// Seccomp and AppArmor profiles of a security context.
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

fn security_context(errors: &mut Errors, context: &Value, spec: &Value, path: &str) {
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
