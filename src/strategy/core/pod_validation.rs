//! The rules of pod specs, alone and in templates.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::containers::{self, Container};
use super::pod_volumes;
use crate::errors::{Errors, NOT_NEGATIVE, child, index, keyed};
use crate::metadata::{annotations, labels};
use crate::tree::{at, flag, has, int, list, map, text};
use crate::{names, quantities, selectors};

/// The rules of `spec.template`-like values.
pub(crate) fn template(errors: &mut Errors, template: &Value, path: &str) {
    let meta = child(path, "metadata");
    labels(errors, at(template, "metadata"), &child(&meta, "labels"));
    annotations(
        errors,
        at(template, "metadata"),
        &child(&meta, "annotations"),
    );
    let spec = child(path, "spec");
    pod_spec(errors, at(template, "spec"), &spec);
    if !list(template, "spec.ephemeralContainers").is_empty() {
        errors.forbidden(
            child(&spec, "ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// The rules of every pod spec.
pub(crate) fn pod_spec(errors: &mut Errors, spec: &Value, path: &str) {
    let f = |name: &str| child(path, name);
    let volumes = pod_volumes::volumes(errors, list(spec, "volumes"), &f("volumes"));
    containers::all(errors, spec, &volumes, path);

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
    security_context(errors, spec, &f("securityContext"), path);
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.required(child(&index(&f("imagePullSecrets"), i), "name"), "");
        }
    }
    affinity(errors, at(spec, "affinity"), &f("affinity"));
    dns_config(errors, spec, &f("dnsConfig"));
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        let field = child(&index(&f("readinessGates"), i), "conditionType");
        errors.invalid_each(&field, kind, names::qualified_name(kind));
    }
    topology_spread(errors, spec, &f("topologySpreadConstraints"));
    scheduling_gates(errors, spec, &f("schedulingGates"));
    let account = text(spec, "serviceAccountName");
    if !account.is_empty() {
        errors.invalid_each(
            &f("serviceAccountName"),
            account,
            names::dns1123_subdomain(account),
        );
    }
    let node = text(spec, "nodeName");
    if !node.is_empty() {
        errors.invalid_each(&f("nodeName"), node, names::dns1123_subdomain(node));
    }
    if let Some(deadline) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&deadline)
    {
        errors.invalid(
            f("activeDeadlineSeconds"),
            deadline,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    for key in ["hostname", "subdomain"] {
        let name = text(spec, key);
        if !name.is_empty() {
            errors.invalid_each(&f(key), name, names::dns1123_label(name));
        }
    }
    tolerations(errors, spec, &f("tolerations"));
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let field = index(&f("hostAliases"), i);
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
    for key in ["priorityClassName", "runtimeClassName"] {
        let name = text(spec, key);
        if !name.is_empty() {
            errors.invalid_each(&f(key), name, names::dns1123_subdomain(name));
        }
    }
    let preemption = text(spec, "preemptionPolicy");
    if !preemption.is_empty() && !matches!(preemption, "PreemptLowerPriority" | "Never") {
        errors.not_supported(
            f("preemptionPolicy"),
            preemption,
            &["PreemptLowerPriority", "Never"],
        );
    }
    if let Some(overhead) = map(spec, "overhead") {
        quantities::validate_list(errors, overhead, &f("overhead"));
    }
    if let Some(grace) = int(spec, "terminationGracePeriodSeconds")
        && grace < 0
    {
        errors.invalid(f("terminationGracePeriodSeconds"), grace, NOT_NEGATIVE);
    }
    if has(spec, "resources") {
        pod_resources(errors, spec, &f("resources"));
    }
    operating_system(errors, spec, &f("os"));
}

fn pod_resources(errors: &mut Errors, spec: &Value, path: &str) {
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
                    &["cpu", "memory", "hugepages-"],
                );
            }
        }
    }
    // What the containers ask for together must fit into what the pod asks for.
    let requests = child(path, "requests");
    for (name, sum) in quantities::container_requests(spec) {
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

fn security_context(errors: &mut Errors, spec: &Value, path: &str, spec_path: &str) {
    let context = at(spec, "securityContext");
    if flag(spec, "hostNetwork") {
        for key in ["containers", "initContainers"] {
            for (i, container) in list(spec, key).iter().enumerate() {
                for (j, port) in list(container, "ports").iter().enumerate() {
                    let number = int(port, "containerPort").unwrap_or(0);
                    if int(port, "hostPort").unwrap_or(0) != number {
                        let ports = child(&index(&child(spec_path, key), i), "ports");
                        errors.invalid(
                            child(&index(&ports, j), "containerPort"),
                            number,
                            "must match `hostPort` when `hostNetwork` is true",
                        );
                    }
                }
            }
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        errors.invalid(
            child(spec_path, "shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if has(spec, "hostUsers") && !flag(spec, "hostUsers") {
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            if flag(spec, key) {
                errors.forbidden(
                    child(spec_path, "hostUsers"),
                    format!("when `hostUsers` is false, `{key}` may not be true"),
                );
            }
        }
    }
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        if let Some(id) = int(context, key) {
            containers::user_id(errors, id, &child(path, key));
        }
    }
    for (i, id) in list(context, "supplementalGroups").iter().enumerate() {
        containers::user_id(
            errors,
            id.as_i64().unwrap_or(-1),
            &index(&child(path, "supplementalGroups"), i),
        );
    }
    let policy = text(context, "supplementalGroupsPolicy");
    if !policy.is_empty() && !matches!(policy, "Merge" | "Strict") {
        errors.not_supported(
            child(path, "supplementalGroupsPolicy"),
            policy,
            &["Merge", "Strict"],
        );
    }
    let change = text(context, "fsGroupChangePolicy");
    if !change.is_empty() && !matches!(change, "OnRootMismatch" | "Always") {
        errors.not_supported(
            child(path, "fsGroupChangePolicy"),
            change,
            &["OnRootMismatch", "Always"],
        );
    }
    sysctls(
        errors,
        list(context, "sysctls"),
        &child(path, "sysctls"),
        spec,
    );
    containers::profiles(errors, context, path);
}

/// `a.b.c` or `a/b/c`, each step lower case.
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

fn dns_config(errors: &mut Errors, spec: &Value, path: &str) {
    let config = at(spec, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" && list(config, "nameservers").is_empty() {
        let field = if config.is_null() {
            path.to_owned()
        } else {
            child(path, "nameservers")
        };
        errors.required(
            field,
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
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
    for (i, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        if search == "." {
            continue;
        }
        // Resolvers take a final dot and underscores.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
        errors.invalid_each(
            &index(&child(path, "searches"), i),
            search,
            names::dns1123_subdomain(name.trim_matches('-')),
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
        let field = child(&index(path, i), "name");
        let name = text(gate, "name");
        errors.invalid_each(&field, name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(index(path, i), name);
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

fn tolerations(errors: &mut Errors, spec: &Value, path: &str) {
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

/// `NoSchedule`, `PreferNoSchedule`, `NoExecute`, or with `optional` nothing.
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

fn affinity(errors: &mut Errors, affinity: &Value, path: &str) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = at(affinity, "nodeAffinity");
    let field = child(path, "nodeAffinity");
    if has(node, REQUIRED) {
        node_selector(errors, at(node, REQUIRED), &child(&field, REQUIRED));
    }
    for (i, term) in list(node, PREFERRED).iter().enumerate() {
        let field = index(&child(&field, PREFERRED), i);
        weight(errors, term, &child(&field, "weight"));
        node_selector_term(errors, at(term, "preference"), &child(&field, "preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at(affinity, kind);
        let field = child(path, kind);
        for (i, term) in list(pods, REQUIRED).iter().enumerate() {
            pod_affinity_term(errors, term, &index(&child(&field, REQUIRED), i));
        }
        for (i, term) in list(pods, PREFERRED).iter().enumerate() {
            let field = index(&child(&field, PREFERRED), i);
            weight(errors, term, &child(&field, "weight"));
            pod_affinity_term(
                errors,
                at(term, "podAffinityTerm"),
                &child(&field, "podAffinityTerm"),
            );
        }
    }
}

fn weight(errors: &mut Errors, term: &Value, field: &str) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(field, weight, "must be in the range 1-100");
    }
}

fn pod_affinity_term(errors: &mut Errors, term: &Value, path: &str) {
    for key in ["labelSelector", "namespaceSelector"] {
        if has(term, key) {
            selectors::validate(errors, at(term, key), &child(path, key));
        }
    }
    for (i, namespace) in list(term, "namespaces").iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or_default();
        errors.invalid_each(
            &index(&child(path, "namespaces"), i),
            namespace,
            names::dns1123_label(namespace),
        );
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(child(path, "topologyKey"), "can not be empty");
    } else {
        errors.invalid_each(&child(path, "topologyKey"), key, names::qualified_name(key));
    }
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = list(term, field);
        if !keys.is_empty() && !has(term, "labelSelector") {
            errors.forbidden(
                child(path, field),
                "must not be specified when labelSelector is not set",
            );
        }
        for (i, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            errors.invalid_each(
                &index(&child(path, field), i),
                key,
                names::qualified_name(key),
            );
        }
    }
}

/// The rules of a `NodeSelector`, here and in volumes.
pub(crate) fn node_selector(errors: &mut Errors, selector: &Value, path: &str) {
    let terms = list(selector, "nodeSelectorTerms");
    let field = child(path, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(field, "must have at least one node selector term");
        return;
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(errors, term, &index(&field, i));
    }
}

fn node_selector_term(errors: &mut Errors, term: &Value, path: &str) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        let field = index(&child(path, "matchExpressions"), i);
        let key = text(requirement, "key");
        node_requirement(errors, requirement, &field);
        errors.invalid_each(&child(&field, "key"), key, names::qualified_name(key));
        for (j, value) in list(requirement, "values").iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(
                &index(&child(&field, "values"), j),
                value,
                names::label_value(value),
            );
        }
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        let field = index(&child(path, "matchFields"), i);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => errors.required(
                child(&field, "values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            other => errors.invalid(
                child(&field, "operator"),
                other,
                "not a valid selector operator",
            ),
        }
        match text(requirement, "key") {
            "metadata.name" => {
                for (j, value) in values.iter().enumerate() {
                    let value = value.as_str().unwrap_or_default();
                    errors.invalid_each(
                        &index(&child(&field, "values"), j),
                        value,
                        names::dns1123_subdomain(value),
                    );
                }
            }
            other => errors.invalid(
                child(&field, "key"),
                other,
                "not a valid field selector key",
            ),
        }
    }
}

fn node_requirement(errors: &mut Errors, requirement: &Value, path: &str) {
    let values = list(requirement, "values");
    let field = child(path, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(
                    field,
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.forbidden(
                    field,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                errors.required(
                    field,
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                );
            }
        }
        other => errors.invalid(
            child(path, "operator"),
            other,
            "not a valid selector operator",
        ),
    }
}

fn topology_spread(errors: &mut Errors, spec: &Value, path: &str) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (i, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let field = index(path, i);
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(child(&field, "maxSkew"), skew, "must be greater than zero");
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.required(child(&field, "topologyKey"), "can not be empty");
        } else {
            errors.invalid_each(
                &child(&field, "topologyKey"),
                key,
                names::qualified_name(key),
            );
        }
        let action = text(constraint, "whenUnsatisfiable");
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(
                child(&field, "whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        if !seen.insert((key, action)) {
            errors.duplicate(
                format!("{field}.{{topologyKey, whenUnsatisfiable}}"),
                format!("{{{key}, {action}}}"),
            );
        }
        if let Some(domains) = int(constraint, "minDomains") {
            if domains <= 0 {
                errors.invalid(
                    child(&field, "minDomains"),
                    domains,
                    "must be greater than zero",
                );
            }
            if action != "DoNotSchedule" {
                errors.invalid(
                    child(&field, "minDomains"),
                    domains,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                );
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = text(constraint, key);
            if !policy.is_empty() && !matches!(policy, "Honor" | "Ignore") {
                errors.not_supported(child(&field, key), policy, &["Honor", "Ignore"]);
            }
        }
        if has(constraint, "labelSelector") {
            selectors::validate(
                errors,
                at(constraint, "labelSelector"),
                &child(&field, "labelSelector"),
            );
        } else if !list(constraint, "matchLabelKeys").is_empty() {
            errors.forbidden(
                child(&field, "matchLabelKeys"),
                "must not be specified when labelSelector is not set",
            );
        }
    }
}

/// What a pod for one operating system may not ask of another.
fn operating_system(errors: &mut Errors, spec: &Value, path: &str) {
    if !has(spec, "os") {
        return;
    }
    let name = text(spec, "os.name");
    if name.is_empty() {
        errors.required(child(path, "name"), "cannot be empty");
    } else if !matches!(name, "linux" | "windows") {
        errors.not_supported(child(path, "name"), name, &["linux", "windows"]);
    }
    if name == "windows" {
        let base = path.strip_suffix(".os").unwrap_or_default();
        for key in ["hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
            if has(spec, key) && (key != "hostPID" && key != "hostIPC" || flag(spec, key)) {
                errors.forbidden(child(base, key), "cannot be set for a windows pod");
            }
        }
        let context = child(base, "securityContext");
        for key in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "fsGroup",
            "fsGroupChangePolicy",
            "sysctls",
            "runAsUser",
            "runAsGroup",
            "supplementalGroups",
            "supplementalGroupsPolicy",
        ] {
            if has(at(spec, "securityContext"), key) {
                errors.forbidden(child(&context, key), "cannot be set for a windows pod");
            }
        }
    } else if name == "linux" && has(spec, "securityContext.windowsOptions") {
        let base = path.strip_suffix(".os").unwrap_or_default();
        errors.forbidden(
            format!("{}.windowsOptions", child(base, "securityContext")),
            "windows options cannot be set for a linux pod",
        );
    }
}

/// What a new pod must be besides its spec: no ephemeral containers, no spec
/// for static pods that reach for the API.
pub(crate) fn pod(obj: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = at(obj, "spec");
    pod_spec(&mut errors, spec, "spec");
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

/// Port names of a pod's containers must be unlike only within a container;
/// host ports must be unlike within the pod.
pub(crate) fn host_port_conflicts(errors: &mut Errors, containers: &[Container<'_>]) {
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
