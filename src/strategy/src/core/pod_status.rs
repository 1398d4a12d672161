//! Updates of the status of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use super::container_security::user_id;
use crate::errors::{Errors, IMMUTABLE, child, index, ratcheted};
use crate::generic;
use crate::names;
use crate::tree::{at, has, int, keep, list, list_mut, map, put, remove, text};

const STATUSES: [(&str, &str); 3] = [
    ("status.containerStatuses", "spec.containers"),
    ("status.initContainerStatuses", "spec.initContainers"),
    (
        "status.ephemeralContainerStatuses",
        "spec.ephemeralContainers",
    ),
];

/// Completes a new status with what clients leave out.
pub(super) fn prepare(new: &mut Object, old: &Object) {
    generic::prepare_status_update(new, old);
    keep(new, old, "metadata.ownerReferences");
    if text(new, "status.qosClass").is_empty() {
        keep(new, old, "status.qosClass");
    }
    mirror_addresses(new);
    keep_observed_generations(new, old);
    super::pod_drops::from_status(new);
}

/// Brings `podIP` and `podIPs` into agreement; the former is the older one.
fn mirror_addresses(pod: &mut Object) {
    let single = text(pod, "status.podIP").to_owned();
    let first = list(pod, "status.podIPs")
        .first()
        .map(|address| text(address, "ip").to_owned());
    if !single.is_empty() && first.as_ref() != Some(&single) {
        put(pod, "status.podIPs", json!([{"ip": single}]));
    } else if single.is_empty()
        && let Some(first) = first
    {
        put(pod, "status.podIP", first);
    }
}

/// Keeps the observed generations of the status and of conditions that the new status lacks.
fn keep_observed_generations(new: &mut Object, old: &Object) {
    let unset = |value: &Value, path: &str| int(value, path).unwrap_or(0) == 0;
    if unset(new, "status.observedGeneration") {
        keep(new, old, "status.observedGeneration");
    }
    // There may be several conditions of a type.
    let mut before: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for condition in list(old, "status.conditions").iter().rev() {
        let generation = int(condition, "observedGeneration").unwrap_or(0);
        let of_type = before.entry(text(condition, "type")).or_default();
        of_type.push(generation);
    }
    for condition in list_mut(new, "status.conditions") {
        let generation = before
            .get_mut(text(condition, "type"))
            .and_then(Vec::pop)
            .unwrap_or(0);
        if unset(condition, "observedGeneration") {
            if generation == 0 {
                remove(condition, "observedGeneration");
            } else {
                put(condition, "observedGeneration", generation);
            }
        }
    }
}

/// Validates a new status.
pub(super) fn validate(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    super::pod_update::annotations(&mut errors, new, old);
    conditions(&mut errors, new);
    nominated_node(&mut errors, new, old);
    let observed = int(new, "status.observedGeneration").unwrap_or(0);
    if observed < 0 {
        errors.invalid(
            "status.observedGeneration",
            observed,
            "must be a non-negative integer",
        );
    }
    if text(new, "status.qosClass") != text(old, "status.qosClass") {
        errors.invalid("status.qosClass", text(new, "status.qosClass"), IMMUTABLE);
    }
    for (path, of_spec) in STATUSES {
        terminated_stay(&mut errors, new, old, path, of_spec);
    }
    claim_statuses(&mut errors, new);
    extended_claims(&mut errors, new);
    let addresses = |pod: &Object| {
        let mut errors = Errors::new();
        pod_addresses(&mut errors, pod, "status.podIPs");
        host_addresses(&mut errors, pod);
        errors.0
    };
    errors.extend(ratcheted(addresses(new), || addresses(old)));
    for (path, _) in STATUSES {
        users(&mut errors, new, path);
    }
    for (path, of_spec) in STATUSES {
        allocated(&mut errors, new, path, of_spec);
    }
    errors.0
}

/// Returns warnings about the notation of addresses.
pub(super) fn warnings(new: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    for path in ["status.podIPs", "status.hostIPs"] {
        for (i, address) in list(new, path).iter().enumerate() {
            let field = child(&index(path, i), "ip");
            warnings.extend(names::ip_warnings(text(address, "ip"), &field));
        }
    }
    warnings
}

fn conditions(errors: &mut Errors, new: &Object) {
    for (i, condition) in list(new, "status.conditions").iter().enumerate() {
        let field = index("status.conditions", i);
        let observed = int(condition, "observedGeneration").unwrap_or(0);
        if observed < 0 {
            errors.invalid(
                child(&field, "observedGeneration"),
                observed,
                "must be a non-negative integer",
            );
        }
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            errors.invalid_each(&child(&field, "Type"), kind, names::qualified_name(kind));
        }
    }
}

fn nominated_node(errors: &mut Errors, new: &Object, old: &Object) {
    const PATH: &str = "status.nominatedNodeName";
    let node = text(new, PATH);
    if node.is_empty() || node == text(old, PATH) {
        return;
    }
    errors.invalid_each(PATH, node, names::dns1123_subdomain(node));
    if !text(old, "spec.nodeName").is_empty() {
        errors.forbidden(
            PATH,
            "may not be set on pods that are already bound to a node",
        );
    }
}

/// Validates that terminated containers which must not restart stay terminated.
fn terminated_stay(errors: &mut Errors, new: &Object, old: &Object, path: &str, of_spec: &str) {
    let ephemeral = of_spec == "spec.ephemeralContainers";
    let restarts_all = |container: &Value| {
        list(container, "restartPolicyRules")
            .iter()
            .any(|rule| text(rule, "action") == "RestartAllContainers")
    };
    let all = ["spec.initContainers", "spec.containers"];
    if !ephemeral
        && all
            .iter()
            .any(|key| list(old, key).iter().any(restarts_all))
    {
        return;
    }
    for (i, before) in list(old, path).iter().enumerate() {
        let name = text(before, "name");
        let code = int(before, "state.terminated.exitCode").unwrap_or(0);
        if !has(before, "state.terminated") {
            continue;
        }
        let restarts = !ephemeral
            && list(old, of_spec)
                .iter()
                .find(|container| text(container, "name") == name)
                .is_some_and(|container| may_restart(container, old, code));
        let runs = list(new, path)
            .iter()
            .any(|status| text(status, "name") == name && !has(status, "state.terminated"));
        if runs && !restarts {
            errors.forbidden(
                child(&index(path, i), "state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

/// Returns whether a container that ended with the given code starts again.
fn may_restart(container: &Value, pod: &Object, code: i64) -> bool {
    let by_policy = |policy: &str| match policy {
        "OnFailure" => Some(code != 0),
        "Never" => Some(false),
        "Always" => Some(true),
        _ => None,
    };
    if has(container, "restartPolicy") {
        let rule = list(container, "restartPolicyRules").iter().find(|rule| {
            let listed = list(rule, "exitCodes.values")
                .iter()
                .any(|value| value.as_i64() == Some(code));
            match text(rule, "exitCodes.operator") {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        });
        if rule.is_some_and(|rule| text(rule, "action") == "Restart") {
            return true;
        }
    }
    by_policy(text(container, "restartPolicy"))
        .or_else(|| by_policy(text(pod, "spec.restartPolicy")))
        .unwrap_or(true)
}

fn claim_statuses(errors: &mut Errors, new: &Object) {
    const PATH: &str = "status.resourceClaimStatuses";
    let mut seen = BTreeSet::new();
    for (i, status) in list(new, PATH).iter().enumerate() {
        let field = index(PATH, i);
        let name = text(status, "name");
        let known = list(new, "spec.resourceClaims")
            .iter()
            .any(|claim| text(claim, "name") == name);
        if !known {
            errors.invalid(
                child(&field, "name"),
                name,
                "must match the name of an entry in `spec.resourceClaims`",
            );
        }
        if !seen.insert(name) {
            errors.duplicate(child(&field, "name"), name);
        }
        if has(status, "resourceClaimName") {
            let claim = text(status, "resourceClaimName");
            let field = child(&field, "resourceClaimName");
            errors.invalid_each(&field, claim, names::dns1123_subdomain(claim));
        }
    }
}

fn extended_claims(errors: &mut Errors, new: &Object) {
    const PATH: &str = "status.extendedResourceClaimStatus";
    let status = at(new, PATH);
    if status.is_null() {
        return;
    }
    let mappings = list(status, "requestMappings");
    let path = child(PATH, "requestMappings");
    if mappings.is_empty() {
        errors.required(path.clone(), "at least one request mapping is required");
    }
    let mut seen = BTreeSet::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let field = index(&path, i);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|key| text(mapping, key));
        let found = ["spec.containers", "spec.initContainers"]
            .iter()
            .flat_map(|key| list(new, key))
            .find(|c| text(c, "name") == container);
        match found {
            None => errors.invalid(
                child(&field, "containerName"),
                container,
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            ),
            Some(c) if at(c, "resources.requests").get(resource).is_none() => errors.invalid(
                child(&field, "resourceName"),
                resource,
                "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests",
            ),
            Some(_) => {}
        }
        let of_request = child(PATH, "requestName");
        errors.invalid_each(&of_request, request, names::dns1123_label(request));
        if !seen.insert((container, resource, request)) {
            errors.duplicate(child(&field, "containerName"), container);
            errors.duplicate(child(&field, "resourceName"), resource);
            errors.duplicate(child(&field, "requestName"), request);
        }
    }
    let field = child(PATH, "resourceClaimName");
    match text(status, "resourceClaimName") {
        "" => errors.required(field, ""),
        name => errors.invalid_each(&field, name, names::dns1123_subdomain(name)),
    }
}

/// Validates addresses, of which there may be one of each family.
fn pod_addresses(errors: &mut Errors, pod: &Object, path: &str) {
    let all = list(pod, path);
    for (i, address) in all.iter().enumerate() {
        let ip = text(address, "ip");
        errors.invalid_each(&index(path, i), ip, names::ip(ip));
    }
    let mut families: Vec<Option<bool>> = all
        .iter()
        .map(|address| names::parse_ip(text(address, "ip")).map(|ip: IpAddr| ip.is_ipv4()))
        .collect();
    families.sort_unstable();
    families.dedup();
    if all.len() > 1 && (families.len() != 2 || all.len() > 2 || families.contains(&None)) {
        let shown: Vec<Value> = all
            .iter()
            .map(|address| json!({"IP": text(address, "ip")}))
            .collect();
        errors.invalid(
            path,
            shown,
            "may specify no more than one IP for each IP family",
        );
    }
}

fn host_addresses(errors: &mut Errors, pod: &Object) {
    const PATH: &str = "status.hostIPs";
    if let Some(first) = list(pod, PATH).first() {
        let ip = text(first, "ip");
        if ip != text(pod, "status.hostIP") {
            errors.invalid(
                child(&index(PATH, 0), "ip"),
                ip,
                "must be equal to `hostIP`",
            );
        }
        pod_addresses(errors, pod, PATH);
    }
}

fn users(errors: &mut Errors, new: &Object, path: &str) {
    let windows = text(new, "spec.os.name") == "windows";
    for (i, status) in list(new, path).iter().enumerate() {
        let user = at(status, "user.linux");
        let field = format!("{}.user.linux", index(path, i));
        if user.is_null() {
            continue;
        }
        if windows {
            errors.forbidden(field, "cannot be set for a windows pod");
            continue;
        }
        for key in ["uid", "gid"] {
            user_id(errors, int(user, key).unwrap_or(0), &child(&field, key));
        }
        for (j, group) in list(user, "supplementalGroups").iter().enumerate() {
            let field = index(&child(&field, "supplementalGroups"), j);
            user_id(errors, group.as_i64().unwrap_or(-1), &field);
        }
    }
}

/// Validates the health of the devices of containers.
fn allocated(errors: &mut Errors, new: &Object, path: &str, of_spec: &str) {
    for (i, status) in list(new, path).iter().enumerate() {
        let field = child(&index(path, i), "allocatedResourcesStatus");
        let resources = list(status, "allocatedResourcesStatus");
        if of_spec == "spec.ephemeralContainers" {
            if !resources.is_empty() {
                errors.forbidden(field, "must not be specified in container status");
            }
            continue;
        }
        let container = list(new, of_spec)
            .iter()
            .find(|container| text(container, "name") == text(status, "name"));
        for (j, resource) in resources.iter().enumerate() {
            let field = index(&field, j);
            let name = text(resource, "name");
            if let Some(why) = container.and_then(|c| is_not_of(c, name)) {
                errors.invalid(child(&field, "name"), name, why);
            }
            devices(errors, resource, &child(&field, "resources"));
        }
    }
}

/// Returns why a container cannot have a resource or claim: it does not ask for it.
fn is_not_of(container: &Value, name: &str) -> Option<&'static str> {
    if !name.starts_with("claim:") {
        let requests = map(container, "resources.requests");
        let asked = requests.is_some_and(|requests| requests.contains_key(name));
        return (!asked).then_some("must match one of the container's resource requests");
    }
    let asked = list(container, "resources.claims").iter().any(|claim| {
        let request = text(claim, "request");
        let of_claim = format!("claim:{}", text(claim, "name"));
        match request {
            "" => of_claim == name,
            request => format!("{of_claim}/{request}") == name,
        }
    });
    (!asked).then_some("must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty")
}

fn devices(errors: &mut Errors, resource: &Value, path: &str) {
    const MAX_MESSAGE: usize = 1024;
    const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
    let mut seen = BTreeSet::new();
    for (i, device) in list(resource, "resources").iter().enumerate() {
        let field = index(path, i);
        let health = text(device, "health");
        if !HEALTH.contains(&health) {
            errors.not_supported(child(&field, "health"), health, &HEALTH);
        }
        let message = text(device, "message");
        if has(device, "message") && message.is_empty() {
            errors.required(child(&field, "message"), "must be non-empty if specified");
        } else if message.len() > MAX_MESSAGE {
            errors.too_long(child(&field, "message"), MAX_MESSAGE);
        }
        let id = text(device, "resourceID");
        if !seen.insert(id) {
            errors.duplicate(child(&field, "resourceID"), id);
        }
    }
}
