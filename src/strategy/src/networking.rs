//! Ingresses, ingress classes, network policies and service CIDRs.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::core::containers;
use crate::core::service::{immutable, load_balancer_status};
use crate::errors::{Errors, child, index, ratcheted};
use crate::generic::{self, Rules};
use crate::tree::{
    at, default_text, default_value, has, int, keep, list, list_mut, put, remove, text,
};
use crate::{Context, NameRule, Strategy, names, selectors};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Ingress" => &Ingress,
        "IngressClass" => &INGRESS_CLASS,
        "NetworkPolicy" => &NETWORK_POLICY,
        "ServiceCIDR" => &SERVICE_CIDR,
        "IPAddress" => &IP_ADDRESS,
        _ => return None,
    })
}

/// The strategy of kind `Ingress`.
struct Ingress;

/// Deprecated annotation that selects the ingress class.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

impl Strategy for Ingress {
    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(obj, "status", json!({"loadBalancer": {}}));
        put(obj, "metadata.generation", 1);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_spec_update(new, old);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let annotated = at(obj, "metadata.annotations").get(CLASS_ANNOTATION);
        if let Some(class) = annotated
            && has(obj, "spec.ingressClassName")
        {
            errors.invalid(
                format!("metadata.annotations[{CLASS_ANNOTATION}]"),
                class.clone(),
                "can not be set when the class field is also set",
            );
        }
        ingress(&mut errors, obj);
        errors.0
    }

    fn validate_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        ingress(&mut errors, new);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let errors_of = |obj| {
            let mut errors = Errors::new();
            let status = at(obj, "status.loadBalancer");
            load_balancer_status(&mut errors, status, "status.loadBalancer", true);
            errors.0
        };
        ratcheted(errors_of(new), || errors_of(old))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let annotated = |o: &Object| {
            at(o, "metadata.annotations")
                .get(CLASS_ANNOTATION)
                .is_some()
        };
        if old.is_none() && annotated(new) {
            vec![format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            )]
        } else {
            Vec::new()
        }
    }
}

fn ingress(errors: &mut Errors, obj: &Object) {
    let rules = list(obj, "spec.rules");
    if rules.is_empty() && !has(obj, "spec.defaultBackend") {
        errors.invalid(
            "spec",
            rules.to_vec(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if has(obj, "spec.defaultBackend") {
        backend(
            errors,
            at(obj, "spec.defaultBackend"),
            "spec.defaultBackend",
        );
    }
    for (i, rule) in rules.iter().enumerate() {
        let field = index("spec.rules", i);
        let host = text(rule, "host");
        if !host.is_empty() {
            let field = child(&field, "host");
            if names::parse_ip(host).is_some() {
                errors.invalid(field, host, "must be a DNS name, not an IP address");
            } else if host.contains('*') {
                errors.invalid_each(&field, host, names::wildcard_dns1123_subdomain(host));
            } else {
                errors.invalid_each(&field, host, names::dns1123_subdomain(host));
            }
        }
        let paths_field = format!("{field}.http.paths");
        if has(rule, "http") && list(rule, "http.paths").is_empty() {
            errors.required(paths_field.clone(), "");
        }
        for (j, path) in list(rule, "http.paths").iter().enumerate() {
            let field = index(&paths_field, j);
            http_path(errors, path, &field);
            backend(errors, at(path, "backend"), &child(&field, "backend"));
        }
    }
    for (i, tls) in list(obj, "spec.tls").iter().enumerate() {
        for (j, host) in list(tls, "hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            let field = format!("spec.tls[{i}].hosts[{j}]");
            let problems = if host.contains('*') {
                names::wildcard_dns1123_subdomain(host)
            } else {
                names::dns1123_subdomain(host)
            };
            errors.invalid_each(&field, host, problems);
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            errors.invalid_each(
                &format!("spec.tls[{i}].secretName"),
                secret,
                names::dns1123_subdomain(secret),
            );
        }
    }
    let class = text(obj, "spec.ingressClassName");
    if !class.is_empty() {
        errors.invalid_each(
            "spec.ingressClassName",
            class,
            names::dns1123_subdomain(class),
        );
    }
}

fn http_path(errors: &mut Errors, path: &Value, field: &str) {
    let place = text(path, "path");
    match text(path, "pathType") {
        "" => errors.required(child(field, "pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !place.starts_with('/') {
                errors.invalid(child(field, "path"), place, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if place.contains(bad) {
                    errors.invalid(
                        child(field, "path"),
                        place,
                        format!("must not contain '{bad}'"),
                    );
                }
            }
            for bad in ["/..", "/."] {
                if place.ends_with(bad) {
                    errors.invalid(
                        child(field, "path"),
                        place,
                        format!("cannot end with '{bad}'"),
                    );
                }
            }
        }
        "ImplementationSpecific" => {
            if !place.is_empty() && !place.starts_with('/') {
                errors.invalid(child(field, "path"), place, "must be an absolute path");
            }
        }
        other => errors.not_supported(
            child(field, "pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
    }
}

fn backend(errors: &mut Errors, backend: &Value, field: &str) {
    let (service, resource) = (at(backend, "service"), at(backend, "resource"));
    match (service.is_null(), resource.is_null()) {
        (false, false) => {
            errors.invalid(field, "", "cannot set both resource and service backends")
        }
        (true, true) => errors.invalid(field, "", "resource or service backend is required"),
        (true, false) => {
            typed_reference(errors, resource, &child(field, "resource"));
        }
        (false, true) => {
            let of_backend = field;
            let field = child(field, "service");
            let name = text(service, "name");
            if name.is_empty() {
                errors.required(child(&field, "name"), "");
            } else {
                errors.invalid_each(&child(&field, "name"), name, names::dns1035_label(name));
            }
            let number = int(service, "port.number").unwrap_or(0);
            let named = text(service, "port.name");
            match (named.is_empty(), number) {
                (false, n) if n != 0 => {
                    errors.invalid(of_backend, "", "cannot set both port name & port number")
                }
                (false, _) => {
                    errors.invalid_each(
                        &format!("{field}.port.name"),
                        named,
                        names::port_name(named),
                    );
                }
                (true, 0) => errors.required(of_backend, "port name or number is required"),
                (true, n) => {
                    for message in names::port_number(n) {
                        errors.invalid(format!("{field}.port.number"), n, message);
                    }
                }
            }
        }
    }
}

/// Validates a reference to an object by group, kind and name.
fn typed_reference(errors: &mut Errors, reference: &Value, field: &str) {
    if has(reference, "apiGroup") {
        let group = text(reference, "apiGroup");
        let field = child(field, "apiGroup");
        errors.invalid_each(&field, group, names::dns1123_subdomain(group));
    }
    for key in ["kind", "name"] {
        let value = text(reference, key);
        let field = child(field, key);
        if value.is_empty() {
            errors.required(field, format!("{key} is required"));
        } else {
            errors.invalid_each(&field, value, names::path_segment_name(value));
        }
    }
}

static INGRESS_CLASS: Rules = Rules {
    default: |obj| {
        if let Some(parameters) = crate::tree::at_mut(obj, "spec.parameters") {
            default_text(parameters, "scope", "Cluster");
        }
    },
    validate: |obj| {
        let mut errors = Errors::new();
        let controller = text(obj, "spec.controller");
        if controller.len() > 250 {
            errors.too_long("spec.controller", 250);
        }
        names::domain_prefixed_path(&mut errors, controller, "spec.controller");
        if has(obj, "spec.parameters") {
            let scope = text(obj, "spec.parameters.scope");
            let namespace = text(obj, "spec.parameters.namespace");
            typed_reference(&mut errors, at(obj, "spec.parameters"), "spec.parameters");
            match scope {
                "" if !has(obj, "spec.parameters.scope") => {
                    errors.required("spec.parameters.scope", "");
                }
                "Namespace" if !has(obj, "spec.parameters.namespace") => errors.required(
                    "spec.parameters.namespace",
                    "`parameters.scope` is set to 'Namespace'",
                ),
                "Namespace" => errors.invalid_each(
                    "spec.parameters.namespace",
                    namespace,
                    names::dns1123_label(namespace),
                ),
                "Cluster" if has(obj, "spec.parameters.namespace") => errors.forbidden(
                    "spec.parameters.namespace",
                    "`parameters.scope` is set to 'Cluster'",
                ),
                "Cluster" => {}
                other => {
                    errors.not_supported("spec.parameters.scope", other, &["Cluster", "Namespace"]);
                }
            }
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec.controller");
        errors.0
    },
    generation: true,
    ..Rules::PLAIN
};

static NETWORK_POLICY: Rules = Rules {
    default: default_network_policy,
    validate: network_policy,
    generation: true,
    ..Rules::PLAIN
};

fn default_network_policy(obj: &mut Object) {
    for key in ["ingress", "egress"] {
        for rule in list_mut(obj, &format!("spec.{key}")) {
            for port in list_mut(rule, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }
    let egress = !list(obj, "spec.egress").is_empty();
    if let Some(spec) = crate::tree::at_mut(obj, "spec") {
        default_value(spec, "podSelector", json!({}));
        if list(spec, "policyTypes").is_empty() {
            // Upstream's default: always Ingress, and Egress if there are egress rules.
            let types = if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            };
            put(spec, "policyTypes", types);
        }
    }
    remove(obj, "status");
}

fn network_policy(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    selectors::validate(&mut errors, at(obj, "spec.podSelector"), "spec.podSelector");
    for (key, peers) in [("ingress", "from"), ("egress", "to")] {
        let base = format!("spec.{key}");
        for (i, rule) in list(obj, &base).iter().enumerate() {
            let field = index(&base, i);
            for (j, port) in list(rule, "ports").iter().enumerate() {
                policy_port(&mut errors, port, &index(&child(&field, "ports"), j));
            }
            for (j, peer) in list(rule, peers).iter().enumerate() {
                policy_peer(&mut errors, peer, &index(&child(&field, peers), j));
            }
        }
    }
    let types = list(obj, "spec.policyTypes");
    if types.len() > 2 {
        errors.invalid(
            "spec.policyTypes",
            at(obj, "spec.policyTypes").clone(),
            "may not specify more than two policyTypes",
        );
        return errors.0;
    }
    for (i, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported(index("spec.policyTypes", i), kind, &["Egress", "Ingress"]);
        }
    }
    errors.0
}

fn policy_port(errors: &mut Errors, port: &Value, field: &str) {
    let protocol = text(port, "protocol");
    if !matches!(protocol, "" | "TCP" | "UDP" | "SCTP") {
        errors.not_supported(child(field, "protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
    let number = at(port, "port");
    if !number.is_null() {
        containers::port(errors, number, &child(field, "port"));
    }
    if let Some(end) = int(port, "endPort") {
        match number {
            Value::Null => errors.invalid(
                child(field, "endPort"),
                end,
                "may not be specified when `port` is not specified",
            ),
            Value::String(_) => errors.invalid(
                child(field, "endPort"),
                end,
                "may not be specified when `port` is non-numeric",
            ),
            start => {
                for message in names::port_number(end) {
                    errors.invalid(child(field, "endPort"), end, message);
                }
                if end < start.as_i64().unwrap_or(0) {
                    errors.invalid(
                        child(field, "endPort"),
                        end,
                        "must be greater than or equal to `port`",
                    );
                }
            }
        }
    }
}

fn policy_peer(errors: &mut Errors, peer: &Value, field: &str) {
    let block = at(peer, "ipBlock");
    let mut peers = usize::from(!block.is_null());
    let mut selects = false;
    for key in ["podSelector", "namespaceSelector"] {
        if has(peer, key) {
            selects = true;
            selectors::validate(errors, at(peer, key), &child(field, key));
        }
    }
    peers += usize::from(selects);
    if !block.is_null() {
        let field = child(field, "ipBlock");
        let range = text(block, "cidr");
        if range.is_empty() {
            errors.required(child(&field, "cidr"), "");
        } else {
            errors.invalid_each(&child(&field, "cidr"), range, names::cidr(range));
        }
        // As upstream, exceptions to something else than a network are not looked at.
        if let Some(outer) = names::parse_cidr(range) {
            exceptions(errors, block, outer, &child(&field, "except"));
        }
    }
    if peers == 0 {
        errors.required(field, "must specify a peer");
    } else if selects && !block.is_null() {
        errors.forbidden(field, "may not specify both ipBlock and another peer");
    }
}

/// Validates the parts of a network that a peer does not include.
fn exceptions(errors: &mut Errors, block: &Value, outer: ipnet::IpNet, field: &str) {
    for (i, except) in list(block, "except").iter().enumerate() {
        let except = except.as_str().unwrap_or_default();
        let field = index(field, i);
        errors.invalid_each(&field, except, names::cidr(except));
        if let Some(inner) = names::parse_cidr(except)
            && (!outer.contains(&inner.addr()) || outer.prefix_len() >= inner.prefix_len())
        {
            errors.invalid(field, except, "must be a strict subset of `cidr`");
        }
    }
}

static SERVICE_CIDR: Rules = Rules {
    validate_new: service_cidr,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec.cidrs");
        errors.0
    },
    status: true,
    ..Rules::PLAIN
};

/// Validates the ranges of a service CIDR: one, or one of each family. They never change, so an
/// update does not validate them again.
fn service_cidr(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let field = "spec.cidrs";
    let ranges: Vec<&str> = list(obj, field)
        .iter()
        .map(|range| range.as_str().unwrap_or_default())
        .collect();
    if ranges.is_empty() {
        errors.required(field, "at least one CIDR required");
    } else if ranges.len() > 2 {
        errors.invalid(
            field,
            at(obj, "spec").clone(),
            "may only hold up to 2 values",
        );
    } else if let [first, second] = ranges[..]
        && !dual(first, second)
    {
        errors.invalid(
            field,
            at(obj, "spec").clone(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    } else {
        for (i, range) in ranges.iter().enumerate() {
            errors.invalid_each(&index(field, i), range, names::canonical_cidr(range));
        }
    }
    errors.0
}

/// Returns whether two ranges are of different families.
fn dual(first: &str, second: &str) -> bool {
    match (names::parse_cidr(first), names::parse_cidr(second)) {
        (Some(first), Some(second)) => first.addr().is_ipv4() != second.addr().is_ipv4(),
        _ => false,
    }
}

static IP_ADDRESS: Rules = Rules {
    names: NameRule::PathSegment,
    validate_new: ip_address,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec.parentRef");
        errors.0
    },
    selectable: &["spec.parentRef.resource"],
    ..Rules::PLAIN
};

fn ip_address(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let name = text(obj, "metadata.name");
    errors.invalid_each("metadata.name", name, names::canonical_ip(name));
    let field = "spec.parentRef";
    let parent = at(obj, field);
    if parent.is_null() {
        errors.required(field, "");
        return errors.0;
    }
    let group = text(parent, "group");
    if !group.is_empty() {
        errors.invalid_each(
            &child(field, "group"),
            group,
            names::dns1123_subdomain(group),
        );
    }
    for (key, required) in [("resource", true), ("name", true), ("namespace", false)] {
        let value = text(parent, key);
        let field = child(field, key);
        if !value.is_empty() {
            errors.invalid_each(&field, value, names::path_segment_name(value));
        } else if required {
            errors.required(field, "");
        }
    }
    errors.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingresses() {
        let mut i = json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}});
        assert_eq!(Ingress.validate_create(&i), vec![]);
        i["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = json!("Odd");
        assert_eq!(Ingress.validate_create(&i).len(), 1);
        assert_eq!(
            Ingress.validate_create(&json!({"spec": {}}))[0].field,
            "spec"
        );
    }

    #[test]
    fn network_policies() {
        let mut p = json!({"spec": {"egress": [{"ports": [{"port": 53}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}});
        NETWORK_POLICY.default(&mut p);
        assert_eq!(p["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(p["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(
            NETWORK_POLICY.validate_create(&p)[0].field,
            "spec.egress[0].to[0].ipBlock.except[0]"
        );
    }
}
