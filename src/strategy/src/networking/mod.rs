//! Ingresses, ingress classes, network policies and service CIDRs.

mod policies;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::core::service::{immutable, load_balancer_status};
use crate::errors::{
    Errors, IMMUTABLE, child, index, ratcheted, show_fields, shown_any, shown_pointer, shown_text,
};
use crate::generic::{self, Generation, Rules, StatusMetadata};
use crate::tree::{at, default_value, has, int, keep, list, put, same_at, text};
use crate::{Context, NameRule, Strategy, names};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Ingress" => &Ingress,
        "IngressClass" => &INGRESS_CLASS,
        "NetworkPolicy" => &policies::NETWORK_POLICY,
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
        ingress(&mut errors, obj, IngressAllowances::default());
        if let Some(class) = annotated
            && has(obj, "spec.ingressClassName")
            && class != at(obj, "spec.ingressClassName")
        {
            errors.invalid(
                format!("annotations.{CLASS_ANNOTATION}"),
                class.clone(),
                "must match `ingressClassName` when both are specified",
            );
        }
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        ingress(&mut errors, new, IngressAllowances::of(old));
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
        if old.is_none() && annotated(new) && !has(new, "spec.ingressClassName") {
            vec![format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            )]
        } else {
            Vec::new()
        }
    }
}

/// Rules that an update of an ingress need not meet because the old one breaks them already.
#[derive(Clone, Copy, Default)]
struct IngressAllowances {
    secrets: bool,
    wildcards: bool,
}

impl IngressAllowances {
    fn of(old: &Object) -> IngressAllowances {
        let bad_secret = |tls: &Value| {
            let secret = text(tls, "secretName");
            !secret.is_empty() && !names::dns1123_subdomain(secret).is_empty()
        };
        let bad_wildcard = |rule: &Value| {
            let mut errors = Errors::new();
            http(&mut errors, rule, "");
            text(rule, "host").contains('*') && !errors.0.is_empty()
        };
        IngressAllowances {
            secrets: list(old, "spec.tls").iter().any(bad_secret),
            wildcards: list(old, "spec.rules").iter().any(bad_wildcard),
        }
    }
}

fn ingress(errors: &mut Errors, obj: &Object, allowances: IngressAllowances) {
    let rules = list(obj, "spec.rules");
    if rules.is_empty() && !has(obj, "spec.defaultBackend") {
        errors.invalid(
            "spec",
            at(obj, "spec.rules").clone(),
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
                errors.invalid(field.clone(), host, "must be a DNS name, not an IP address");
            }
            if host.contains('*') {
                errors.invalid_each(&field, host, names::wildcard_dns1123_subdomain(host));
            } else {
                errors.invalid_each(&field, host, names::dns1123_subdomain(host));
            }
        }
        if !(allowances.wildcards && host.contains('*')) {
            http(errors, rule, &field);
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
        if !secret.is_empty() && !allowances.secrets {
            errors.invalid_each(
                &format!("spec.tls[{i}].secretName"),
                secret,
                names::dns1123_subdomain(secret),
            );
        }
    }
    let class = text(obj, "spec.ingressClassName");
    if has(obj, "spec.ingressClassName") {
        errors.invalid_each(
            "spec.ingressClassName",
            class,
            names::dns1123_subdomain(class),
        );
    }
}

fn http(errors: &mut Errors, rule: &Value, field: &str) {
    let paths = format!("{field}.http.paths");
    if has(rule, "http") && list(rule, "http.paths").is_empty() {
        errors.required(paths.clone(), "");
    }
    for (j, path) in list(rule, "http.paths").iter().enumerate() {
        http_path(errors, path, &index(&paths, j));
    }
}

fn http_path(errors: &mut Errors, path: &Value, field: &str) {
    let place = text(path, "path");
    match text(path, "pathType") {
        "" if !has(path, "pathType") => {
            // As upstream, the backend of such a path is not looked at.
            errors.required(child(field, "pathType"), "pathType must be specified");
            return;
        }
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
    backend(errors, at(path, "backend"), &child(field, "backend"));
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
                errors.invalid_each(&child(&field, "name"), name, names::dns1123_label(name));
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
            errors.required(field, "");
        } else {
            errors.invalid_each(&field, value, names::path_segment_name(value));
        }
    }
}

static INGRESS_CLASS: Rules = Rules {
    default: |obj| {
        if let Some(parameters) = crate::tree::at_mut(obj, "spec.parameters") {
            default_value(parameters, "scope", "Cluster");
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
                    errors.not_supported_text(
                        "spec.parameters.scope",
                        other,
                        &["Cluster", "Namespace"],
                    );
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
    generation: Generation::Counted,
    ..Rules::PLAIN
};

static SERVICE_CIDR: Rules = Rules {
    validate_new: service_cidr,
    validate_update: service_cidr_update,
    status: true,
    status_metadata: StatusMetadata::Reset,
    ..Rules::PLAIN
};

/// Validates that the ranges stay, but that one of the other family may be added.
fn service_cidr_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let field = "spec.cidrs";
    let (now, before) = (list(new, field), list(old, field));
    let grows = before.len() == 1 && now.len() == 2;
    if now.len() != before.len() && !grows {
        errors.invalid(field, at(new, field).clone(), IMMUTABLE);
        return errors.0;
    }
    for (i, (range, before)) in now.iter().zip(before).enumerate() {
        if range != before {
            errors.invalid(index(field, i), range.clone(), IMMUTABLE);
        }
    }
    if grows {
        errors.extend(service_cidr(new));
    }
    errors.0
}

/// Validates the ranges of a service CIDR: one, or one of each family.
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
        let shown = show_fields(&[("CIDRs", shown_any(obj, field))]);
        errors.invalid_shown(field, &shown, "may only hold up to 2 values");
    } else {
        for (i, range) in ranges.iter().enumerate() {
            errors.invalid_each(&index(field, i), range, names::canonical_cidr(range));
        }
        if let [first, second] = ranges[..]
            && same_family(first, second)
        {
            errors.invalid(
                field,
                at(obj, field).clone(),
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            );
        }
    }
    errors.0
}

/// Returns whether two ranges are of one family.
fn same_family(first: &str, second: &str) -> bool {
    match (names::parse_cidr(first), names::parse_cidr(second)) {
        (Some(first), Some(second)) => first.addr().is_ipv4() == second.addr().is_ipv4(),
        _ => false,
    }
}

static IP_ADDRESS: Rules = Rules {
    names: NameRule::PathSegment,
    validate: ip_address,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        let field = "spec.parentRef";
        if !same_at(new, old, field) {
            let shown = shown_pointer(at(new, field), |parent| {
                show_fields(&[
                    ("Group", shown_text(parent, "group")),
                    ("Resource", shown_text(parent, "resource")),
                    ("Namespace", shown_text(parent, "namespace")),
                    ("Name", shown_text(parent, "name")),
                ])
            });
            errors.invalid_shown(field, &shown, IMMUTABLE);
        }
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
        policies::NETWORK_POLICY.default(&mut p);
        assert_eq!(p["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(p["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(
            policies::NETWORK_POLICY.validate_create(&p)[0].field,
            "spec.egress[0].to[0].ipBlock.except[0]"
        );
    }
}
