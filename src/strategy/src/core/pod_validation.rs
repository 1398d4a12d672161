//! Validation of pod specs, in pods and in templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::container_types::{Allowances, Holder};
use super::pod_affinity::{affinity, topology_spread};
use super::{container_security, containers, pod_annotations, requirements};
use super::{pod_claims, pod_host, pod_os, pod_sysctls, pod_volumes, pod_windows};
use crate::errors::{Errors, child, index};
use crate::metadata::{annotations, labels};
use crate::names;
use crate::tree::{at, flag, has, int, list, text};

/// Validates a pod template.
pub(crate) fn template(errors: &mut Errors, template: &Value, path: &str) {
    template_with(errors, template, Allowances::default(), path);
}

/// Validates the next state of a pod template.
pub(crate) fn template_with(
    errors: &mut Errors,
    template: &Value,
    allowed: Allowances,
    path: &str,
) {
    let (meta, body) = (at(template, "metadata"), at(template, "spec"));
    // As upstream, these fields are not below `metadata`.
    labels(errors, meta, &child(path, "labels"));
    let field = child(path, "annotations");
    annotations(errors, meta, &field);
    pod_annotations::validate(errors, meta, body, allowed.deletion_cost, &field);
    let of = Of {
        metadata: &Value::Null,
        holder: Holder::Template,
        allowed,
    };
    let field = child(path, "spec");
    pod_spec(errors, body, of, &field);
    pod_annotations::profiles_agree(errors, meta, body, &field);
    if !list(body, "ephemeralContainers").is_empty() {
        errors.forbidden(
            child(&field, "ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// The object that has a pod spec.
#[derive(Clone, Copy)]
struct Of<'a> {
    /// The metadata of the pod; null in a template.
    metadata: &'a Value,
    /// The kind of object that has the spec.
    holder: Holder,
    /// The values that it may keep.
    allowed: Allowances,
}

/// Validates a pod spec in upstream's order, which the messages of several errors show.
fn pod_spec(errors: &mut Errors, spec: &Value, of: Of<'_>, path: &str) {
    let f = |name: &str| child(path, name);
    let allowed = of.allowed;
    if !has(spec, "terminationGracePeriodSeconds") {
        errors.required(f("terminationGracePeriodSeconds"), "");
    }
    let pod = pod_volumes::OfPod {
        name: text(of.metadata, "name"),
        holder: of.holder,
        allowed,
    };
    let volumes = pod_volumes::volumes(errors, list(spec, "volumes"), pod, &f("volumes"));
    let mirror = pod_annotations::is_mirror(of.metadata);
    pod_claims::resource_claims(errors, spec, mirror, &f("resourceClaims"));
    containers::all(errors, spec, &volumes, allowed, path);
    requirements::of_pod(errors, spec, allowed.parts_of_huge_pages, &f("resources"));
    pod_host::host_network(errors, spec, of.holder, path);
    one_of(
        errors,
        text(spec, "restartPolicy"),
        &f("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    one_of(
        errors,
        text(spec, "dnsPolicy"),
        &f("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    crate::metadata::label_map(errors, at(spec, "nodeSelector"), &f("nodeSelector"));
    security_context(errors, spec, allowed, &f("securityContext"));
    affinity(errors, at(spec, "affinity"), allowed, &f("affinity"));
    dns_config(errors, spec, &f("dnsConfig"));
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        let field = child(&index(&f("readinessGates"), i), "conditionType");
        errors.invalid_each(&field, kind, names::qualified_name(kind));
    }
    scheduling_gates(errors, spec, &f("schedulingGates"));
    let field = f("topologySpreadConstraints");
    topology_spread(errors, spec, allowed, &field);
    pod_windows::host_processes(errors, spec, path);
    pod_host::host_users(errors, spec, allowed.devices_of_own_users, path);
    pod_host::host_name(errors, spec, path);
    identity(errors, spec, path);
    tolerations(errors, spec, &f("tolerations"));
    host_aliases(errors, spec, &f("hostAliases"));
    classes(errors, spec, path);
    if has(spec, "overhead") {
        let limits = json!({"limits": at(spec, "overhead")});
        let rules = requirements::Rules::of_containers(allowed.parts_of_huge_pages);
        rules.check(errors, &limits, &f("overhead"));
    }
    pod_os::operating_system(errors, spec, path);
    super::container_env::file_volumes(errors, spec, path);
}

/// Validates the account, the node and the names of a pod, and how long it may run.
fn identity(errors: &mut Errors, spec: &Value, path: &str) {
    let mut named = |key: &str, check: fn(&str) -> Vec<String>| {
        let name = text(spec, key);
        if !name.is_empty() {
            errors.invalid_each(&child(path, key), name, check(name));
        }
    };
    named("serviceAccountName", names::dns1123_subdomain);
    named("nodeName", names::dns1123_subdomain);
    if let Some(deadline) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&deadline)
    {
        errors.invalid(
            child(path, "activeDeadlineSeconds"),
            deadline,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    let mut label = |key: &str| {
        let name = text(spec, key);
        if !name.is_empty() {
            errors.invalid_each(&child(path, key), name, names::dns1123_label(name));
        }
    };
    label("hostname");
    label("subdomain");
}

/// Validates the classes of a pod, and whether it preempts others.
fn classes(errors: &mut Errors, spec: &Value, path: &str) {
    let name = text(spec, "priorityClassName");
    if !name.is_empty() {
        let field = child(path, "priorityClassName");
        errors.invalid_each(&field, name, names::dns1123_subdomain(name));
    }
    if has(spec, "runtimeClassName") {
        let (name, field) = (
            text(spec, "runtimeClassName"),
            child(path, "runtimeClassName"),
        );
        errors.invalid_each(&field, name, names::dns1123_subdomain(name));
    }
    if has(spec, "preemptionPolicy") {
        one_of(
            errors,
            text(spec, "preemptionPolicy"),
            &child(path, "preemptionPolicy"),
            &["PreemptLowerPriority", "Never"],
        );
    }
}

fn host_aliases(errors: &mut Errors, spec: &Value, path: &str) {
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let field = index(path, i);
        let ip = text(alias, "ip");
        errors.invalid_each(&child(&field, "ip"), ip, names::ip(ip));
        for (j, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            errors.invalid_each(
                &index(&child(&field, "hostnames"), j),
                name,
                names::dns1123_subdomain(name),
            );
        }
    }
}

fn one_of(errors: &mut Errors, value: &str, field: &str, known: &[&str]) {
    if value.is_empty() {
        errors.required(field, "");
    } else if !known.contains(&value) {
        errors.not_supported(field, value, known);
    }
}

fn security_context(errors: &mut Errors, spec: &Value, allowed: Allowances, path: &str) {
    let context = at(spec, "securityContext");
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        if let Some(id) = int(context, key) {
            container_security::user_id(errors, id, &child(path, key));
        }
    }
    for (i, id) in list(context, "supplementalGroups").iter().enumerate() {
        container_security::user_id(
            errors,
            id.as_i64().unwrap_or(-1),
            &index(&child(path, "supplementalGroups"), i),
        );
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        errors.invalid(
            child(path, "shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    pod_sysctls::validate(errors, spec, allowed.host_sysctls, &child(path, "sysctls"));
    let known_policy = |errors: &mut Errors, key: &str, known: &[&str]| {
        if has(context, key) && !known.contains(&text(context, key)) {
            errors.not_supported(child(path, key), text(context, key), known);
        }
    };
    known_policy(errors, "fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    container_security::seccomp(
        errors,
        at(context, "seccompProfile"),
        &child(path, "seccompProfile"),
    );
    pod_windows::options(
        errors,
        at(context, "windowsOptions"),
        &child(path, "windowsOptions"),
    );
    container_security::app_armor(
        errors,
        at(context, "appArmorProfile"),
        &child(path, "appArmorProfile"),
    );
    known_policy(errors, "supplementalGroupsPolicy", &["Merge", "Strict"]);
    let policies: &[&str] = match allowed.selinux_policies {
        true => &["MountOption", "Recursive"],
        // Labels are not set by mounting: upstream's `SELinuxMount` is off by default.
        false => &["Recursive"],
    };
    known_policy(errors, "seLinuxChangePolicy", policies);
}

/// Most characters of all DNS search domains together.
const MAX_SEARCH_CHARACTERS: usize = 2048;

fn dns_config(errors: &mut Errors, spec: &Value, path: &str) {
    let config = at(spec, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if list(config, "nameservers").is_empty() {
            errors.required(
                child(path, "nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    let servers = list(config, "nameservers");
    if servers.len() > 3 {
        errors.invalid(
            child(path, "nameservers"),
            at(config, "nameservers").clone(),
            "must not have more than 3 nameservers",
        );
    }
    for (i, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        errors.invalid_each(
            &index(&child(path, "nameservers"), i),
            server,
            names::ip(server),
        );
    }
    let searches = list(config, "searches");
    if searches.len() > 32 {
        errors.invalid(
            child(path, "searches"),
            at(config, "searches").clone(),
            "must not have more than 32 search paths",
        );
    }
    let characters: usize = searches
        .iter()
        .map(|search| search.as_str().unwrap_or_default().len() + 1)
        .sum();
    // A space lies between each two.
    if characters > MAX_SEARCH_CHARACTERS + 1 {
        errors.invalid(
            child(path, "searches"),
            at(config, "searches").clone(),
            format!(
                "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
            ),
        );
    }
    for (i, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        if search == "." {
            continue;
        }
        let name = search.strip_suffix('.').unwrap_or(search);
        errors.invalid_each(
            &index(&child(path, "searches"), i),
            name,
            names::dns1123_subdomain_with_underscore(name),
        );
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(index(&child(path, "options"), i), "must not be empty");
        }
    }
}

fn scheduling_gates(errors: &mut Errors, spec: &Value, path: &str) {
    let mut seen = BTreeSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let field = index(path, i);
        let name = text(gate, "name");
        errors.invalid_each(&field, name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(field, name);
        }
    }
}

/// Validates the tolerations of a pod or a runtime class.
pub(crate) fn tolerations(errors: &mut Errors, spec: &Value, path: &str) {
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        let field = index(path, i);
        let key = text(toleration, "key");
        let value = text(toleration, "value");
        let operator = text(toleration, "operator");
        let effect = text(toleration, "effect");
        if !key.is_empty() {
            errors.invalid_each(&child(&field, "key"), key, names::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            errors.invalid(
                child(&field, "operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(
                child(&field, "effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "" | "Equal" => {
                let problems = names::label_value(value);
                if !problems.is_empty() {
                    errors.invalid(child(&field, "operator"), value, problems.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.invalid(
                        child(&field, "operator"),
                        value,
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            // Comparison of numbers is off by default, though not unknown.
            "Lt" | "Gt" => errors.not_supported(
                child(&field, "operator"),
                operator,
                &["Equal", "Exists", "Lt", "Gt"],
            ),
            other => errors.not_supported(child(&field, "operator"), other, &["Equal", "Exists"]),
        }
        taint_effect(errors, effect, true, &child(&field, "effect"));
    }
}

/// Validates a taint effect: `NoSchedule`, `PreferNoSchedule` or `NoExecute`; also empty if
/// `optional`.
pub(crate) fn taint_effect(errors: &mut Errors, effect: &str, optional: bool, field: &str) {
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if effect.is_empty() {
        if !optional {
            errors.required(field, "");
        }
    } else if !known.contains(&effect) {
        errors.not_supported(field, effect, &known);
    }
}

/// Validates a new pod, except its metadata.
pub(crate) fn new_pod(obj: &Value) -> Errors {
    let mut errors = pod(obj, Allowances::default());
    let (meta, spec) = (at(obj, "metadata"), at(obj, "spec"));
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        errors.forbidden(
            "spec.nodeName",
            "cannot be set until all schedulingGates have been cleared",
        );
    }
    pod_annotations::profiles_agree(&mut errors, meta, spec, "spec");
    errors
}

/// Validates a pod, except its metadata: the spec, and annotations that mean something to it.
pub(crate) fn pod(obj: &Value, allowed: Allowances) -> Errors {
    let mut errors = Errors::new();
    let (meta, spec) = (at(obj, "metadata"), at(obj, "spec"));
    let any_cost = allowed.deletion_cost;
    pod_annotations::validate(&mut errors, meta, spec, any_cost, "metadata.annotations");
    let of = Of {
        metadata: meta,
        holder: Holder::Pod,
        allowed,
    };
    pod_spec(&mut errors, spec, of, "spec");
    tokens_without_account(&mut errors, spec);
    for key in ["containers", "initContainers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            let field = index(&child("spec", key), i);
            containers::image_is_trimmed(&mut errors, container, &field);
        }
    }
    errors
}

/// Validates that a pod without a service account has no volume with a token of one.
fn tokens_without_account(errors: &mut Errors, spec: &Value) {
    if !text(spec, "serviceAccountName").is_empty() {
        return;
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let sources = list(volume, "projected.sources");
        let tokens = sources.iter().enumerate();
        for (j, _) in tokens.filter(|(_, source)| has(source, "serviceAccountToken")) {
            errors.forbidden(
                format!("spec.volumes[{i}].projected.sources[{j}].serviceAccountToken"),
                "must not be specified when serviceAccountName is not set",
            );
        }
    }
}
