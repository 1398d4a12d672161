//! Validation of containers, init containers and ephemeral containers.

use std::collections::BTreeSet;

use rkube_component_helpers::resource::is_sidecar_object as is_sidecar;
use serde_json::{Value, json};

use super::container_env::{env, env_from};
use super::container_probes::lifecycle_and_probes;
pub(crate) use super::container_probes::port;
use super::container_security::security_context;
use super::container_types::{Allowances, Container, Volumes};
use super::requirements;
use super::volume_sources::descending_path;
use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{at, flag, has, int, list, text};

/// The properties of a pod that the validation of its containers needs.
#[derive(Clone, Copy)]
struct OfPod<'p> {
    spec: &'p Value,
    volumes: &'p Volumes<'p>,
    allowed: Allowances,
}

/// Validates all containers of a pod spec.
pub(super) fn all(
    errors: &mut Errors,
    spec: &Value,
    volumes: &Volumes<'_>,
    allowed: Allowances,
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
    let (regular, init) = (place("containers"), place("initContainers"));
    let pod = OfPod {
        spec,
        volumes,
        allowed,
    };
    if regular.is_empty() {
        errors.required(child(path, "containers"), "");
    }
    let mut names = BTreeSet::new();
    for c in &regular {
        container(errors, c, pod);
        let name = text(c.value, "name");
        if !names.insert(name) {
            errors.duplicate(child(&c.path, "name"), name);
        }
        lifecycle_and_probes(errors, c, spec);
        restart_policy(errors, c);
    }
    let mut ports = BTreeSet::new();
    for c in &regular {
        host_ports(errors, c.value, &c.path, &mut ports);
    }
    for c in &init {
        container(errors, c, pod);
        if has(c.value, "restartPolicy") || !list(c.value, "restartPolicyRules").is_empty() {
            restart_policy(errors, c);
        }
        let name = text(c.value, "name");
        if names.contains(name) {
            errors.duplicate(child(&c.path, "name"), name);
        } else if !name.is_empty() {
            names.insert(name);
        }
        // As upstream, the field is always that of the first one.
        let first = index(&child(path, "initContainers"), 0);
        host_ports(errors, c.value, &first, &mut BTreeSet::new());
        init_container(errors, c, pod);
    }
    let targets: BTreeSet<&str> = regular
        .iter()
        .chain(&init)
        .map(|c| text(c.value, "name"))
        .collect();
    let mut names = targets.clone();
    for c in &place("ephemeralContainers") {
        container(errors, c, pod);
        image_is_trimmed(errors, c.value, &c.path);
        let name = text(c.value, "name");
        if !names.insert(name) {
            errors.duplicate(child(&c.path, "name"), name);
        }
        let target = text(c.value, "targetContainerName");
        if !target.is_empty() && !targets.contains(target) {
            errors.not_found(child(&c.path, "targetContainerName"), target);
        }
        ephemeral_container(errors, c);
    }
}

/// Validates that the image of a container of a pod has no white space around it.
pub(super) fn image_is_trimmed(errors: &mut Errors, container: &Value, path: &str) {
    let image = text(container, "image");
    if image.trim().len() != image.len() {
        errors.invalid(
            child(path, "image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
}

/// Validates that the host ports of a container are in use by none of those seen.
fn host_ports(errors: &mut Errors, container: &Value, path: &str, seen: &mut BTreeSet<String>) {
    for (i, port) in list(container, "ports").iter().enumerate() {
        let Some(number) = int(port, "hostPort").filter(|n| *n != 0) else {
            continue;
        };
        let (protocol, ip) = (text(port, "protocol"), text(port, "hostIP"));
        let key = format!("{protocol}/{ip}/{number}");
        if !seen.insert(key.clone()) {
            errors.duplicate(child(&index(&child(path, "ports"), i), "hostPort"), key);
        }
    }
}

/// Validates what only init containers have or must not have.
fn init_container(errors: &mut Errors, c: &Container<'_>, pod: OfPod<'_>) {
    let sidecar = is_sidecar(c.value);
    if sidecar {
        lifecycle_and_probes(errors, c, pod.spec);
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
    for (i, policy) in list(c.value, "resizePolicy").iter().enumerate() {
        let restart = text(policy, "restartPolicy");
        if restart == "RestartContainer" && !pod.allowed.restarting_init {
            errors.invalid(
                child(&index(&child(&c.path, "resizePolicy"), i), "restartPolicy"),
                restart,
                "must not be set to 'RestartContainer' for non-sidecar initContainers",
            );
        }
    }
}

/// Validates that an ephemeral container has no fields that it must not have.
fn ephemeral_container(errors: &mut Errors, c: &Container<'_>) {
    const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
    for key in [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ] {
        // Defaulting sets resources without fields.
        let set = match key {
            "resources" => *at(c.value, key) != json!({}) && has(c.value, key),
            _ => has(c.value, key),
        };
        if set {
            errors.forbidden(child(&c.path, key), FORBIDDEN);
        }
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

/// Validates the restart policy of a container and its rules.
fn restart_policy(errors: &mut Errors, c: &Container<'_>) {
    const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
    const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
    let rules = list(c.value, "restartPolicyRules");
    let field = child(&c.path, "restartPolicy");
    let policy = text(c.value, "restartPolicy");
    if !has(c.value, "restartPolicy") {
        if rules.is_empty() {
            return;
        }
        errors.required(
            field,
            "must specify restartPolicy when restart rules are used",
        );
    } else if !POLICIES.contains(&policy) {
        errors.not_supported(field, policy, &POLICIES);
    }
    let field = child(&c.path, "restartPolicyRules");
    if rules.len() > 20 {
        errors.too_many(field.clone(), rules.len(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        let field = index(&field, i);
        let action = text(rule, "action");
        if !ACTIONS.contains(&action) {
            errors.not_supported(child(&field, "action"), action, &ACTIONS);
        }
        let codes = at(rule, "exitCodes");
        let field = child(&field, "exitCodes");
        if codes.is_null() {
            errors.required(field, "must be specified");
            continue;
        }
        let operator = text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.not_supported(child(&field, "operator"), operator, &["In", "NotIn"]);
        }
        let values = list(codes, "values").len();
        if values > 255 {
            errors.too_many(child(&field, "values"), values, 255);
        }
    }
}

/// Validates what all kinds of containers have in common.
fn container(errors: &mut Errors, c: &Container<'_>, pod: OfPod<'_>) {
    let (value, spec) = (c.value, pod.spec);
    let f = |key: &str| child(&c.path, key);
    let name = text(value, "name");
    if name.is_empty() {
        errors.required(f("name"), "");
    } else {
        errors.invalid_each(&f("name"), name, names::dns1123_label(name));
    }
    if text(value, "image").is_empty() {
        errors.required(f("image"), "");
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
    env(errors, list(value, "env"), &f("env"));
    env_from(errors, list(value, "envFrom"), &f("envFrom"));
    mounts(errors, value, pod.volumes, &c.path);
    pull_policy(errors, text(value, "imagePullPolicy"), f("imagePullPolicy"));
    let (resources, field) = (at(value, "resources"), f("resources"));
    let rules = requirements::Rules::of_containers(pod.allowed.parts_of_huge_pages);
    rules.check(errors, resources, &field);
    requirements::claims(errors, resources, spec, &field);
    resize_policy(errors, value, spec, &f("resizePolicy"));
    security_context(
        errors,
        at(value, "securityContext"),
        spec,
        &f("securityContext"),
    );
}

/// Validates when an image is pulled.
pub(super) fn pull_policy(errors: &mut Errors, policy: &str, field: String) {
    let known = ["Always", "IfNotPresent", "Never"];
    if policy.is_empty() {
        errors.required(field, "");
    } else if !known.contains(&policy) {
        errors.not_supported(field, policy, &known);
    }
}

fn resize_policy(errors: &mut Errors, value: &Value, spec: &Value, path: &str) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list(value, "resizePolicy").iter().enumerate() {
        let resource = text(policy, "resourceName");
        if !seen.insert(resource) {
            errors.duplicate(index(path, i), resource);
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
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
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
    let devices = list(value, "volumeDevices").iter();
    let device_names: BTreeSet<&str> = devices.clone().map(|d| text(d, "name")).collect();
    let device_paths: BTreeSet<&str> = devices.map(|d| text(d, "devicePath")).collect();
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
        if device_names.contains(name) {
            errors.invalid(
                child(&field, "name"),
                name,
                "must not already exist in volumeDevices",
            );
        }
        if device_paths.contains(point) {
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
        descending_path(errors, sub, &child(list_field, key));
    }
}

/// Validates mount propagation and `recursiveReadOnly` of a mount. As upstream, the errors have
/// the list's field.
fn mount_options(errors: &mut Errors, container: &Value, mount: &Value, field: &str) {
    let propagation = text(mount, "mountPropagation");
    if has(mount, "mountPropagation") {
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
    if has(mount, "recursiveReadOnly") {
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
            if has(mount, "mountPropagation") && propagation != "None" {
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
    let mounts = list(value, "volumeMounts").iter();
    let mount_names: BTreeSet<&str> = mounts.clone().map(|m| text(m, "name")).collect();
    let mount_paths: BTreeSet<&str> = mounts.map(|m| text(m, "mountPath")).collect();
    let mut device_names = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for (i, device) in list(value, "volumeDevices").iter().enumerate() {
        let field = index(&child(path, "volumeDevices"), i);
        let (name, place) = (text(device, "name"), text(device, "devicePath"));
        let (field_of_name, field_of_path) = (child(&field, "name"), child(&field, "devicePath"));
        if name.is_empty() {
            errors.required(field_of_name.clone(), "");
        }
        if !name.is_empty() && !device_names.insert(name) {
            errors.invalid(field_of_name.clone(), name, "must be unique");
        }
        if !volumes.names.contains(name) {
            errors.not_found(field_of_name.clone(), name);
        } else if !volumes.claims.contains(name) {
            errors.invalid(
                field_of_name.clone(),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            );
        }
        if place.is_empty() {
            errors.required(field_of_path.clone(), "");
        }
        if paths.contains(place) {
            errors.invalid(field_of_path.clone(), place, "must be unique");
        }
        if names::has_backsteps(place) {
            errors.invalid(
                field_of_path.clone(),
                place,
                "can not contain backsteps ('..')",
            );
        } else {
            paths.insert(place);
        }
        if mount_names.contains(name) {
            errors.invalid(
                field_of_name,
                name,
                "must not already exist in volumeMounts",
            );
        }
        if mount_paths.contains(place) {
            errors.invalid(
                field_of_path,
                place,
                "must not already exist as a path in volumeMounts",
            );
        }
    }
}
