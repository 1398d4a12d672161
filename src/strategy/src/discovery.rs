//! Endpoint slices.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use crate::Strategy;
use crate::core::service::{immutable, non_special_ip};
use crate::errors::{Errors, child, index};
use crate::generic::{Generation, Rules};
use crate::names;
use crate::tree::{at, default_value, has, list, list_mut, same_at, text};

/// Most endpoints of a slice.
const MAX_ENDPOINTS: usize = 1000;
/// Most addresses of an endpoint.
const MAX_ADDRESSES: usize = 100;
/// Most ports of a slice.
const MAX_PORTS: usize = 20_000;
/// Most zones, and most nodes, that an endpoint is meant for.
const MAX_HINTS: usize = 8;
/// Most labels of the deprecated topology.
const MAX_TOPOLOGY: usize = 16;

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "EndpointSlice").then_some(&ENDPOINT_SLICE)
}

static ENDPOINT_SLICE: Rules = Rules {
    default: |obj| {
        for port in list_mut(obj, "ports") {
            default_value(port, "name", "");
            default_value(port, "protocol", "TCP");
        }
    },
    prepare: |_, new, old| drop_topology(new, old),
    validate,
    validate_new: endpoints,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        if !same_at(new, old, "endpoints") {
            errors.extend(endpoints(new));
        }
        immutable(&mut errors, new, old, "addressType");
        errors.0
    },
    warnings,
    generation: Generation::CountedWithLabels,
    create_on_update: false,
    ..Rules::PLAIN
};

/// Drops the labels of the endpoints' nodes, which `v1` only shows. A node that an old endpoint
/// was on by such a label stays known to an endpoint that still says so.
fn drop_topology(new: &mut Object, old: Option<&Object>) {
    const HOST: &str = "kubernetes.io/hostname";
    let host = |endpoint: &Value| {
        let host = at(endpoint, "deprecatedTopology").get(HOST)?.as_str()?;
        (!host.is_empty()).then(|| host.to_owned())
    };
    if old.is_some_and(|old| same_at(new, old, "endpoints")) {
        return;
    }
    let before: BTreeSet<String> = old
        .map(|old| list(old, "endpoints").iter().filter_map(host).collect())
        .unwrap_or_default();
    for endpoint in list_mut(new, "endpoints") {
        if let Some(host) = host(endpoint)
            && before.contains(&host)
            && names::dns1123_subdomain(&host).is_empty()
        {
            default_value(endpoint, "nodeName", host);
        }
        if let Some(endpoint) = endpoint.as_object_mut() {
            endpoint.remove("deprecatedTopology");
        }
    }
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() && text(new, "addressType") == "FQDN" {
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let manager = at(new, "metadata.labels").get("endpointslice.kubernetes.io/managed-by");
    let ours = [
        "endpointslice-controller.k8s.io",
        "endpointslicemirroring-controller.k8s.io",
    ];
    // The controllers bring addresses into their usual form themselves.
    if manager
        .and_then(Value::as_str)
        .is_some_and(|m| ours.contains(&m))
    {
        return warnings;
    }
    for (i, endpoint) in list(new, "endpoints").iter().enumerate() {
        for (j, address) in list(endpoint, "addresses").iter().enumerate() {
            let field = format!("endpoints[{i}].addresses[{j}]");
            let address = address.as_str().unwrap_or_default();
            warnings.extend(names::ip_warnings(address, &field));
        }
    }
    warnings
}

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    match text(obj, "addressType") {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => errors.required("addressType", ""),
        other => errors.not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
    }
    ports(&mut errors, obj);
    errors.0
}

/// Validates the endpoints. An update does it only if it changes them: they may have addresses
/// in a notation that was valid before it became strict.
fn endpoints(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let endpoints = list(obj, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
        return errors.0;
    }
    let kind = text(obj, "addressType");
    for (i, item) in endpoints.iter().enumerate() {
        endpoint(&mut errors, item, kind, &index("endpoints", i));
    }
    errors.0
}

fn endpoint(errors: &mut Errors, endpoint: &Value, kind: &str, field: &str) {
    let addresses = list(endpoint, "addresses");
    let path = child(field, "addresses");
    if addresses.is_empty() {
        errors.required(path.clone(), "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        errors.too_many(path.clone(), addresses.len(), MAX_ADDRESSES);
    }
    for (i, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        let item = index(&path, i);
        match kind {
            "IPv4" | "IPv6" => ip(errors, address, kind, &path, &item),
            "FQDN" => names::qualified_domain(errors, address, 2, &item),
            _ => {}
        }
    }
    if has(endpoint, "nodeName") {
        let node = text(endpoint, "nodeName");
        let path = child(field, "nodeName");
        errors.invalid_each(&path, node, names::dns1123_subdomain(node));
    }
    topology(errors, endpoint, &child(field, "deprecatedTopology"));
    if has(endpoint, "hostname") {
        let host = text(endpoint, "hostname");
        errors.invalid_each(&child(field, "hostname"), host, names::dns1123_label(host));
    }
    let hints = child(field, "hints");
    // As upstream, nodes are not looked at if there are too many zones.
    if hint(errors, endpoint, "forZones", &hints, names::label_value) {
        let rule = names::dns1123_subdomain;
        hint(errors, endpoint, "forNodes", &hints, rule);
    }
}

/// Validates an address at `field` of the list at `all`, which upstream names for the family.
fn ip(errors: &mut Errors, address: &str, kind: &str, all: &str, field: &str) {
    let problems = match kind {
        "IPv4" => names::ip(address),
        _ => names::canonical_ip(address),
    };
    if !problems.is_empty() {
        errors.invalid_each(field, address, problems);
        return;
    }
    let is_v4 = names::parse_ip(address).is_some_and(|ip| ip.is_ipv4());
    if is_v4 != (kind == "IPv4") {
        errors.invalid(all, address, format!("must be an {kind} address"));
    }
    non_special_ip(errors, address, field);
}

/// Validates the labels of the node that beta versions had.
fn topology(errors: &mut Errors, endpoint: &Value, field: &str) {
    let labels = at(endpoint, "deprecatedTopology");
    let count = labels.as_object().map_or(0, serde_json::Map::len);
    if count > MAX_TOPOLOGY {
        errors.too_many(field, count, MAX_TOPOLOGY);
    }
    crate::metadata::label_map(errors, labels, field);
}

/// Validates the zones or nodes that an endpoint is meant for. Returns whether there are not too
/// many.
fn hint(
    errors: &mut Errors,
    endpoint: &Value,
    key: &str,
    hints: &str,
    rule: fn(&str) -> Vec<String>,
) -> bool {
    let targets = list(at(endpoint, "hints"), key);
    let path = child(hints, key);
    if targets.len() > MAX_HINTS {
        errors.too_many(path, targets.len(), MAX_HINTS);
        return false;
    }
    let mut seen = BTreeSet::new();
    for (i, target) in targets.iter().enumerate() {
        let field = child(&index(&path, i), "name");
        let name = text(target, "name");
        if !seen.insert(name) {
            errors.duplicate(field.clone(), name);
        }
        errors.invalid_each(&field, name, rule(name));
    }
    true
}

/// Validates the ports. As upstream, not their numbers: only controllers write slices.
fn ports(errors: &mut Errors, obj: &Object) {
    let ports = list(obj, "ports");
    if ports.len() > MAX_PORTS {
        errors.too_many("ports", ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let field = index("ports", i);
        let name = text(port, "name");
        if !name.is_empty() {
            errors.invalid_each(&child(&field, "name"), name, names::dns1123_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(child(&field, "name"), name);
        }
        let protocol = text(port, "protocol");
        let path = child(&field, "protocol");
        if !has(port, "protocol") {
            errors.required(path, "");
        } else if !matches!(protocol, "SCTP" | "TCP" | "UDP") {
            errors.not_supported(path, protocol, &["SCTP", "TCP", "UDP"]);
        }
        if has(port, "appProtocol") {
            let app = text(port, "appProtocol");
            let field = child(&field, "appProtocol");
            errors.invalid_each(&field, app, names::qualified_name(app));
        }
    }
}
