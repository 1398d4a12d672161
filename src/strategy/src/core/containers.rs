//! Validation of containers, init containers and ephemeral containers.

use std::collections::{BTreeMap, BTreeSet};

use rkube_component_helpers::resource::is_sidecar_object as is_sidecar;
use serde_json::Value;

use super::container_env::{env, env_from};
use super::container_probes::lifecycle_and_probes;
pub(crate) use super::container_probes::port;
use super::container_security::security_context;
use super::container_types::{Container, Holder, Volumes};
use crate::errors::{Errors, child, index};
use crate::names;
use crate::quantities;
use crate::tree::{at, flag, has, int, list, map, text};

/// Validates all containers of a pod spec, which `holder` has.
pub(crate) fn all(
    errors: &mut Errors,
    spec: &Value,
    volumes: &Volumes<'_>,
    holder: Holder,
    path: &str,
) {
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
    let of_pod = OfPod {
        spec,
        volumes,
        holder,
    };
    let mut names = BTreeSet::new();
    for c in &containers {
        container(errors, c, &of_pod, &mut names);
        lifecycle_and_probes(errors, c, spec);
        restart_rules(errors, c);
        let policy = text(c.value, "restartPolicy");
        if !policy.is_empty() && list(c.value, "restartPolicyRules").is_empty() {
            check_restart_policy(errors, policy, &c.path);
        }
    }
    host_port_conflicts(errors, &containers);
    for c in &init {
        container(errors, c, &of_pod, &mut names);
        init_container(errors, c, spec);
        host_port_conflicts(errors, std::slice::from_ref(c));
    }
    for c in &ephemeral {
        container(errors, c, &of_pod, &mut names);
        let target = text(c.value, "targetContainerName");
        let known = containers
            .iter()
            .chain(&init)
            .any(|o| text(o.value, "name") == target);
        if !target.is_empty() && !known {
            errors.not_found(child(&c.path, "targetContainerName"), target);
        }
        ephemeral_container(errors, c);
    }
}

/// Validates that the host ports of containers are unique, per protocol and host IP.
fn host_port_conflicts(errors: &mut Errors, containers: &[Container<'_>]) {
    let mut seen: BTreeMap<String, ()> = BTreeMap::new();
    for container in containers {
        for (i, port) in list(container.value, "ports").iter().enumerate() {
            let Some(number) = int(port, "hostPort").filter(|n| *n != 0) else {
                continue;
            };
            let key = format!(
                "{}/{}/{number}",
                text(port, "protocol"),
                text(port, "hostIP")
            );
            if seen.insert(key.clone(), ()).is_some() {
                errors.duplicate(
                    child(&index(&child(&container.path, "ports"), i), "hostPort"),
                    key,
                );
            }
        }
    }
}

/// What the validation of a container needs of its pod.
struct OfPod<'p> {
    spec: &'p Value,
    volumes: &'p Volumes<'p>,
    holder: Holder,
}

/// Validates what only init containers have or must not have.
fn init_container(errors: &mut Errors, c: &Container<'_>, spec: &Value) {
    let policy = text(c.value, "restartPolicy");
    if !policy.is_empty() {
        check_restart_policy(errors, policy, &c.path);
    }
    restart_rules(errors, c);
    if is_sidecar(c.value) {
        lifecycle_and_probes(errors, c, spec);
        return;
    }
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

/// Validates that an ephemeral container has no fields that it must not have.
fn ephemeral_container(errors: &mut Errors, c: &Container<'_>) {
    const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
    for key in [
        "ports",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resizePolicy",
    ] {
        if has(c.value, key) {
            errors.forbidden(child(&c.path, key), FORBIDDEN);
        }
    }
    let resources = at(c.value, "resources");
    let wants = ["requests", "limits"]
        .into_iter()
        .any(|key| map(resources, key).is_some_and(|m| !m.is_empty()));
    if wants {
        errors.forbidden(child(&c.path, "resources"), FORBIDDEN);
    }
    if has(c.value, "restartPolicy") {
        errors.forbidden(child(&c.path, "restartPolicy"), FORBIDDEN);
    }
    for (i, mount) in list(c.value, "volumeMounts").iter().enumerate() {
        let field = index(&child(&c.path, "volumeMounts"), i);
        for key in ["subPath", "subPathExpr"] {
            if !text(mount, key).is_empty() {
                errors.forbidden(child(&field, key), FORBIDDEN);
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
    of_pod: &OfPod<'_>,
    seen: &mut BTreeSet<&'a str>,
) {
    let (value, spec) = (c.value, of_pod.spec);
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
        errors.required(f("image"), "");
    } else if of_pod.holder == Holder::Pod && image.trim() != image {
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
            &["File", "FallbackToLogsOnError"],
        ),
    }
    ports(errors, list(value, "ports"), &f("ports"));
    env(errors, list(value, "env"), of_pod.volumes, &f("env"));
    env_from(errors, list(value, "envFrom"), &f("envFrom"));
    mounts(errors, value, of_pod.volumes, &c.path);
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
    super::pod_claims::container_claims(errors, at(value, "resources"), spec, &f("resources"));
    resize_policy(errors, value, spec, &f("resizePolicy"));
    security_context(
        errors,
        at(value, "securityContext"),
        spec,
        &f("securityContext"),
    );
}

fn resize_policy(errors: &mut Errors, value: &Value, spec: &Value, path: &str) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list(value, "resizePolicy").iter().enumerate() {
        let field = index(path, i);
        let resource = text(policy, "resourceName");
        if !seen.insert(resource) {
            errors.duplicate(field, resource);
        }
        // But for repetitions, upstream's errors are those of the list.
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["cpu", "memory"]),
        }
        let restart = text(policy, "restartPolicy");
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["NotRequired", "RestartContainer"]),
        }
        if text(spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            errors.invalid(
                path,
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

/// Validates a protocol: `TCP`, `UDP` or `SCTP`.
pub(crate) fn protocol(errors: &mut Errors, protocol: &str, field: &str) {
    match protocol {
        "TCP" | "UDP" | "SCTP" => {}
        "" => errors.required(field, ""),
        other => errors.not_supported(field, other, &["SCTP", "TCP", "UDP"]),
    }
}

fn mounts(errors: &mut Errors, value: &Value, volumes: &Volumes<'_>, path: &str) {
    let list_field = child(path, "volumeMounts");
    let devices = list(value, "volumeDevices");
    let mut points = BTreeSet::new();
    for (i, mount) in list(value, "volumeMounts").iter().enumerate() {
        let field = index(&list_field, i);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
        }
        if !volumes.names.contains(name) {
            errors.not_found(child(&field, "name"), name);
        }
        let point = text(mount, "mountPath");
        if point.is_empty() {
            errors.required(child(&field, "mountPath"), "");
        }
        if !points.insert(point) {
            errors.invalid(child(&field, "mountPath"), point, "must be unique");
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            errors.invalid(
                child(&field, "name"),
                name,
                "must not already exist in volumeDevices",
            );
        }
        if devices
            .iter()
            .any(|device| text(device, "devicePath") == point)
        {
            errors.invalid(
                child(&field, "mountPath"),
                point,
                "must not already exist as a path in volumeDevices",
            );
        }
        sub_paths(errors, mount, &field, &list_field);
        mount_options(errors, value, mount, &list_field);
    }
    self::devices(errors, value, volumes, path);
}

/// Validates `subPath` and `subPathExpr` of a mount. As upstream, an error of a path has the
/// list's field, not the mount's.
fn sub_paths(errors: &mut Errors, mount: &Value, field: &str, list_field: &str) {
    for key in ["subPath", "subPathExpr"] {
        let sub = text(mount, key);
        if sub.is_empty() {
            continue;
        }
        if key == "subPathExpr" && !text(mount, "subPath").is_empty() {
            errors.invalid(
                child(field, key),
                sub,
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        if names::is_absolute(sub) {
            errors.invalid(child(list_field, key), sub, "must be a relative path");
        }
        if names::has_backsteps(sub) {
            errors.invalid(child(list_field, key), sub, "must not contain '..'");
        }
    }
}

/// Validates mount propagation and `recursiveReadOnly` of a mount. As upstream, the errors have
/// the list's field.
fn mount_options(errors: &mut Errors, container: &Value, mount: &Value, field: &str) {
    let propagation = text(mount, "mountPropagation");
    if !propagation.is_empty() {
        let known = ["Bidirectional", "HostToContainer", "None"];
        if !known.contains(&propagation) {
            errors.not_supported(child(field, "mountPropagation"), propagation, &known);
        }
        if propagation == "Bidirectional" && !flag(container, "securityContext.privileged") {
            errors.forbidden(
                child(field, "mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    let recursive = text(mount, "recursiveReadOnly");
    if !recursive.is_empty() {
        let known = ["Disabled", "Enabled", "IfPossible"];
        if !known.contains(&recursive) {
            errors.not_supported(child(field, "recursiveReadOnly"), recursive, &known);
        } else if recursive != "Disabled" {
            if !flag(mount, "readOnly") {
                errors.forbidden(
                    child(field, "recursiveReadOnly"),
                    "may only be specified when readOnly is true",
                );
            }
            if !matches!(propagation, "" | "None") {
                errors.forbidden(
                    child(field, "recursiveReadOnly"),
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
    }
}

/// Validates `volumeDevices`, whose names and paths must differ from those of mounts.
fn devices(errors: &mut Errors, value: &Value, volumes: &Volumes<'_>, path: &str) {
    let mounts = list(value, "volumeMounts");
    let mut device_names = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for (i, device) in list(value, "volumeDevices").iter().enumerate() {
        let field = index(&child(path, "volumeDevices"), i);
        let (name, place) = (text(device, "name"), text(device, "devicePath"));
        let mut invalid = |key: &str, value: &str, detail: &str| {
            errors.invalid(child(&field, key), value, detail);
        };
        if !name.is_empty() && !device_names.insert(name) {
            invalid("name", name, "must be unique");
        }
        let found = volumes.names.contains(name);
        if found && !volumes.claims.contains(name) {
            invalid(
                "name",
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            );
        }
        if paths.contains(place) {
            invalid("devicePath", place, "must be unique");
        }
        if names::has_backsteps(place) {
            invalid("devicePath", place, "can not contain backsteps ('..')");
        } else {
            paths.insert(place);
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            invalid("name", name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == place) {
            invalid(
                "devicePath",
                place,
                "must not already exist as a path in volumeMounts",
            );
        }
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
        }
        if !found {
            errors.not_found(child(&field, "name"), name);
        }
        if place.is_empty() {
            errors.required(child(&field, "devicePath"), "");
        }
    }
}
