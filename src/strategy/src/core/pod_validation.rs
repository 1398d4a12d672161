//! Validation of pod specs, in pods and in templates.

use std::collections::BTreeSet;

use rkube_component_helpers::resource::{self, Side};
use serde_json::Value;

use super::container_types::Holder;
use super::pod_affinity::{affinity, topology_spread};
use super::{container_security, containers};
use super::{pod_claims, pod_host, pod_os, pod_volumes};
use crate::errors::{Errors, child, index, keyed};
use crate::metadata::{annotations, labels};
use crate::tree::{at, flag, has, int, list, map, text};
use crate::{names, quantities};

/// Validates a pod template.
pub(crate) fn template(errors: &mut Errors, template: &Value, path: &str) {
    let meta = child(path, "metadata");
    labels(errors, at(template, "metadata"), &child(&meta, "labels"));
    annotations(
        errors,
        at(template, "metadata"),
        &child(&meta, "annotations"),
    );
    let spec = child(path, "spec");
    pod_spec(errors, at(template, "spec"), Holder::Template, &spec);
    if !list(template, "spec.ephemeralContainers").is_empty() {
        errors.forbidden(
            child(&spec, "ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Validates a pod spec, which `holder` has.
pub(crate) fn pod_spec(errors: &mut Errors, spec: &Value, holder: Holder, path: &str) {
    let f = |name: &str| child(path, name);
    let volumes = pod_volumes::volumes(errors, list(spec, "volumes"), &f("volumes"));
    pod_claims::resource_claims(errors, spec, &f("resourceClaims"));
    containers::all(errors, spec, &volumes, holder, path);
    if has(spec, "resources") {
        pod_resources(errors, spec, &f("resources"));
    }
    pod_host::host_network(errors, spec, holder, path);
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
    security_context(errors, spec, &f("securityContext"));
    affinity(errors, at(spec, "affinity"), &f("affinity"));
    dns_config(errors, spec, &f("dnsConfig"));
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        let field = child(&index(&f("readinessGates"), i), "conditionType");
        errors.invalid_each(&field, kind, names::qualified_name(kind));
    }
    scheduling_gates(errors, spec, &f("schedulingGates"));
    topology_spread(errors, spec, &f("topologySpreadConstraints"));
    pod_host::host_users(errors, spec, path);
    subdomains(errors, spec, &["serviceAccountName", "nodeName"], path);
    if let Some(deadline) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&deadline)
    {
        errors.invalid(
            f("activeDeadlineSeconds"),
            deadline,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    pod_host::host_names(errors, spec, path);
    tolerations(errors, spec, &f("tolerations"));
    host_aliases(errors, spec, &f("hostAliases"));
    subdomains(
        errors,
        spec,
        &["priorityClassName", "runtimeClassName"],
        path,
    );
    if has(spec, "preemptionPolicy") {
        one_of(
            errors,
            text(spec, "preemptionPolicy"),
            &f("preemptionPolicy"),
            &["PreemptLowerPriority", "Never"],
        );
    }
    if let Some(overhead) = map(spec, "overhead") {
        quantities::validate_list(errors, overhead, &f("overhead"));
    }
    pod_os::operating_system(errors, spec, path);
}

/// Validates fields that are empty or DNS subdomains.
fn subdomains(errors: &mut Errors, spec: &Value, keys: &[&str], path: &str) {
    for key in keys {
        let name = text(spec, key);
        if !name.is_empty() {
            errors.invalid_each(&child(path, key), name, names::dns1123_subdomain(name));
        }
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

fn pod_resources(errors: &mut Errors, spec: &Value, path: &str) {
    if has(spec, "resources.claims") {
        errors.forbidden(
            child(path, "claims"),
            "claims cannot be set for Resources at pod-level",
        );
    }
    quantities::validate_requirements(errors, at(spec, "resources"), path);
    for key in ["requests", "limits"] {
        for name in map(at(spec, "resources"), key)
            .into_iter()
            .flatten()
            .map(|(k, _)| k)
        {
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
                errors.not_supported(
                    keyed(&child(path, key), name),
                    name,
                    &["cpu", "hugepages-", "memory"],
                );
            }
        }
    }
    // The aggregate requests of the containers must not exceed those of the pod.
    let requests = child(path, "requests");
    for (name, sum) in resource::aggregate_object_containers(spec, Side::Requests).0 {
        let of_pod = at(spec, "resources.requests").get(&name);
        if of_pod.is_some() && sum > quantities::of(of_pod) {
            errors.invalid(
                keyed(&requests, &name),
                quantities::of(of_pod).to_string(),
                format!("must be greater than or equal to aggregate container requests of {sum}"),
            );
        }
    }
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (name, limit) in map(container, "resources.limits").into_iter().flatten() {
            let of_pod = at(spec, "resources.limits").get(name);
            let limit = quantities::of(Some(limit));
            if of_pod.is_some() && limit > quantities::of(of_pod) {
                let base = path.strip_suffix(".resources").unwrap_or_default();
                errors.invalid(
                    keyed(
                        &format!("{}.resources.limits", index(&child(base, "containers"), i)),
                        name,
                    ),
                    limit.to_string(),
                    format!(
                        "must be less than or equal to pod limits of {}",
                        quantities::of(of_pod)
                    ),
                );
            }
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

fn security_context(errors: &mut Errors, spec: &Value, path: &str) {
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
    sysctls(
        errors,
        list(context, "sysctls"),
        &child(path, "sysctls"),
        spec,
    );
    let mut known_policy = |key: &str, known: &[&str]| {
        if has(context, key) && !known.contains(&text(context, key)) {
            errors.not_supported(child(path, key), text(context, key), known);
        }
    };
    known_policy("fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    known_policy("supplementalGroupsPolicy", &["Merge", "Strict"]);
    known_policy("seLinuxChangePolicy", &["MountOption", "Recursive"]);
    container_security::profiles(errors, context, path);
}

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

fn sysctls(errors: &mut Errors, sysctls: &[Value], path: &str, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let field = child(&index(path, i), "name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.required(field, "");
            continue;
        }
        if !is_sysctl(name) {
            errors.invalid(
                field.clone(),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9]$",
            );
        } else if !seen.insert(name.replace('/', ".")) {
            errors.duplicate(field.clone(), name);
        }
        let dotted = name.replace('/', ".");
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            errors.invalid(
                field.clone(),
                name,
                "may not be specified when 'hostNetwork' is true",
            );
        }
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        if flag(spec, "hostIPC") && ipc.iter().any(|p| dotted.starts_with(p)) {
            errors.invalid(field, name, "may not be specified when 'hostIPC' is true");
        }
    }
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
    if !seen.is_empty() {
        let name = text(spec, "nodeName");
        if !name.is_empty() {
            errors.forbidden(
                child(
                    path.strip_suffix(".schedulingGates").unwrap_or(""),
                    "nodeName",
                ),
                "cannot be set until all schedulingGates have been cleared",
            );
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

/// Validates a pod, except its metadata: the spec, and the node name of mirror pods.
pub(crate) fn pod(obj: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = at(obj, "spec");
    pod_spec(&mut errors, spec, Holder::Pod, "spec");
    tokens_without_account(&mut errors, spec);
    if let Some(node) = map(obj, "metadata.annotations")
        .and_then(|a| a.get("kubernetes.io/config.mirror"))
        .filter(|_| text(spec, "nodeName").is_empty())
    {
        errors.invalid(
            "metadata.annotations[kubernetes.io/config.mirror]",
            node.clone(),
            "must set spec.nodeName if mirror pod annotation is set",
        );
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
