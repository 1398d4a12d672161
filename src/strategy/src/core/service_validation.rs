//! Validation of services.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use super::service::{is_headless, text_at};
use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{at, has, int, list, text};

/// Validates a service, except its metadata, in upstream's order (`validateService`).
pub(super) fn validate(obj: &Object) -> Vec<FieldError> {
    validate_change(obj, None)
}

/// Validates the next state of a service, or a new one.
pub(super) fn validate_change(obj: &Object, old: Option<&Object>) -> Vec<FieldError> {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let mut errors = Errors::new();
    let spec = at(obj, "spec");
    let annotations = at(obj, "metadata.annotations");
    if let (Some(mode), Some(hints)) = (annotations.get(MODE), annotations.get(HINTS))
        && mode != hints
    {
        errors.invalid(
            format!("metadata.annotations[{MODE}]"),
            mode.clone(),
            format!("must match annotations[{HINTS}] when both are specified"),
        );
    }
    let kind = text(spec, "type");
    if list(spec, "ports").is_empty() && !is_headless(obj) && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    validate_fields_of_type(&mut errors, obj);
    validate_ports(&mut errors, obj);
    crate::metadata::label_map(&mut errors, at(spec, "selector"), "spec.selector");
    validate_session_affinity(&mut errors, spec);
    validate_cluster_ips(&mut errors, obj);
    validate_external_ips(&mut errors, spec);
    validate_type(&mut errors, spec);
    repeated_ports(&mut errors, spec);
    source_ranges(&mut errors, obj, old);
    validate_load_balancer(&mut errors, spec);
    validate_traffic_policies(&mut errors, spec);
    errors.0
}

/// Validates ports and addresses against the type of the service.
fn validate_fields_of_type(errors: &mut Errors, obj: &Object) {
    let spec = at(obj, "spec");
    match text(spec, "type") {
        "LoadBalancer" if is_headless(obj) => {
            errors.invalid(
                "spec.clusterIPs[0]",
                "None",
                "may not be set to 'None' for LoadBalancer services",
            );
        }
        "NodePort" if is_headless(obj) => {
            errors.invalid(
                "spec.clusterIPs[0]",
                "None",
                "may not be set to 'None' for NodePort services",
            );
        }
        "ExternalName" => validate_external_name(errors, spec),
        _ => {}
    }
}

/// Validates an `ExternalName` service, which has no addresses.
fn validate_external_name(errors: &mut Errors, spec: &Value) {
    if !list(spec, "clusterIPs").is_empty() {
        errors.forbidden(
            "spec.clusterIPs",
            "may not be set for ExternalName services",
        );
    }
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if has(spec, key) {
            errors.forbidden(
                child("spec", key),
                "may not be set for ExternalName services",
            );
        }
    }
    // A DNS name may have a trailing dot.
    let name = text(spec, "externalName");
    let trimmed = name.strip_suffix('.').unwrap_or(name);
    if trimmed.is_empty() {
        errors.required("spec.externalName", "");
    } else {
        errors.invalid_each(
            "spec.externalName",
            trimmed,
            names::dns1123_subdomain(trimmed),
        );
    }
}

/// Validates `sessionAffinity` and its configuration.
fn validate_session_affinity(errors: &mut Errors, spec: &Value) {
    match text(spec, "sessionAffinity") {
        "" => errors.required("spec.sessionAffinity", ""),
        "ClientIP" => match int(spec, "sessionAffinityConfig.clientIP.timeoutSeconds") {
            None => errors.required(
                if !has(spec, "sessionAffinityConfig") {
                    "spec.sessionAffinityConfig"
                } else if !has(spec, "sessionAffinityConfig.clientIP") {
                    "spec.sessionAffinityConfig.clientIP"
                } else {
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
                },
                "when session affinity type is ClientIP",
            ),
            Some(n) if !(1..=86400).contains(&n) => errors.invalid(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                n,
                "must be greater than 0 and less than 86400",
            ),
            _ => {}
        },
        "None" => {
            if has(spec, "sessionAffinityConfig") {
                errors.forbidden(
                    "spec.sessionAffinityConfig",
                    "must not be set when session affinity is None",
                );
            }
        }
        other => errors.not_supported("spec.sessionAffinity", other, &["ClientIP", "None"]),
    }
}

/// Validates `externalIPs`.
fn validate_external_ips(errors: &mut Errors, spec: &Value) {
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        let field = index("spec.externalIPs", i);
        let problems = names::ip(ip);
        if problems.is_empty() {
            non_special_ip(errors, ip, &field);
        }
        errors.invalid_each(&field, ip, problems);
    }
}

/// Validates `type`, and that node ports fit it.
fn validate_type(errors: &mut Errors, spec: &Value) {
    let kind = text(spec, "type");
    match kind {
        "" => errors.required("spec.type", ""),
        "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName" => {}
        other => errors.not_supported(
            "spec.type",
            other,
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        ),
    }
    if kind == "ClusterIP" {
        for (i, port) in list(spec, "ports").iter().enumerate() {
            if int(port, "nodePort").unwrap_or(0) != 0 {
                errors.forbidden(
                    format!("spec.ports[{i}].nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                );
            }
        }
    }
}

/// Validates that ports and node ports are there once for each protocol.
fn repeated_ports(errors: &mut Errors, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, port) in list(spec, "ports").iter().enumerate() {
        if let Some(node) = int(port, "nodePort").filter(|n| *n != 0)
            && !seen.insert((text(port, "protocol"), node))
        {
            errors.duplicate(format!("spec.ports[{i}].nodePort"), node);
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in list(spec, "ports").iter().enumerate() {
        let (number, protocol) = (int(port, "port").unwrap_or(0), text(port, "protocol"));
        if !seen.insert((protocol, number)) {
            let protocol = Value::from(protocol);
            errors.duplicate_shown(
                index("spec.ports", i),
                &format!(
                    r#"{{"Name":"","Protocol":{protocol},"AppProtocol":null,"Port":{number},"TargetPort":0,"NodePort":0}}"#
                ),
            );
        }
    }
}

/// Validates the ranges that a load balancer accepts, in the field or in the annotation of before
/// it. An update does not look at an annotation again unless it changes it.
fn source_ranges(errors: &mut Errors, obj: &Object, old: Option<&Object>) {
    const KEY: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(obj, "spec.type") == "LoadBalancer";
    let ranges = list(obj, "spec.loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let path = "spec.LoadBalancerSourceRanges";
        if !balanced {
            errors.forbidden(path, ONLY);
        }
        for (i, range) in ranges.iter().enumerate() {
            // They may be padded, for the annotation that was there before the field.
            let range = range.as_str().unwrap_or_default().trim();
            errors.invalid_each(&index(path, i), range, names::cidr(range));
        }
        return;
    }
    let of = |obj| {
        at(obj, "metadata.annotations")
            .get(KEY)
            .and_then(Value::as_str)
    };
    let Some(ranges) = of(obj) else {
        return;
    };
    let field = format!("metadata.annotations[{KEY}]");
    if !balanced {
        errors.forbidden(field.clone(), ONLY);
    }
    let unchanged = old.and_then(of) == Some(ranges);
    if unchanged || ranges.trim().is_empty() {
        return;
    }
    for range in ranges.trim().split(',') {
        let range = range.trim();
        errors.invalid_each(&field, range, names::cidr(range));
    }
}

/// Validates the fields that only load balancers have.
fn validate_load_balancer(errors: &mut Errors, spec: &Value) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(spec, "type") == "LoadBalancer";
    if has(spec, "allocateLoadBalancerNodePorts") && !balanced {
        errors.forbidden("spec.allocateLoadBalancerNodePorts", ONLY);
    }
    if !has(spec, "allocateLoadBalancerNodePorts") && balanced {
        errors.required("allocateLoadBalancerNodePorts", "");
    }
    load_balancer_class(errors, spec);
}

/// Validates the class of a load balancer.
pub(super) fn load_balancer_class(errors: &mut Errors, spec: &Value) {
    if !has(spec, "loadBalancerClass") {
        return;
    }
    let class = text(spec, "loadBalancerClass");
    let field = "spec.loadBalancerClass";
    if text(spec, "type") == "LoadBalancer" {
        errors.invalid_each(field, class, names::qualified_name(class));
    } else {
        errors.forbidden(field, "may only be used when `type` is 'LoadBalancer'");
    }
}

/// Validates the traffic policies, the port for health checks and `trafficDistribution`.
fn validate_traffic_policies(errors: &mut Errors, spec: &Value) {
    let kind = text(spec, "type");
    let external = matches!(kind, "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && !list(spec, "externalIPs").is_empty();
    match text(spec, "externalTrafficPolicy") {
        "" if external => errors.required("spec.externalTrafficPolicy", ""),
        "" => {}
        value if !external => errors.invalid(
            "spec.externalTrafficPolicy",
            value,
            "may only be set for externally-accessible services",
        ),
        "Cluster" | "Local" => {}
        other => errors.not_supported("spec.externalTrafficPolicy", other, &["Cluster", "Local"]),
    }
    validate_health_check_node_port(errors, spec);
    let policy = text(spec, "internalTrafficPolicy");
    if !has(spec, "internalTrafficPolicy") {
        if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
            errors.required("spec.internalTrafficPolicy", "");
        }
    } else if !matches!(policy, "Cluster" | "Local") {
        errors.not_supported("spec.internalTrafficPolicy", policy, &["Cluster", "Local"]);
    }
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    let distribution = text(spec, "trafficDistribution");
    if has(spec, "trafficDistribution") && !known.contains(&distribution) {
        errors.not_supported("spec.trafficDistribution", distribution, &known);
    }
}

/// Validates `healthCheckNodePort`.
fn validate_health_check_node_port(errors: &mut Errors, spec: &Value) {
    let field = "spec.healthCheckNodePort";
    let port = int(spec, "healthCheckNodePort").unwrap_or(0);
    if text(spec, "type") != "LoadBalancer" || text(spec, "externalTrafficPolicy") != "Local" {
        if port != 0 {
            errors.invalid(
                field,
                port,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            );
        }
    } else if port == 0 {
        errors.required(field, "");
    } else {
        for message in names::port_number(port) {
            errors.invalid(field, port, message);
        }
    }
}

/// Validates that an address is not unspecified, loopback, link-local or local multicast, which
/// would affect a node's own traffic.
pub(crate) fn non_special_ip(errors: &mut Errors, ip: &str, field: &str) {
    use std::net::IpAddr;
    let Ok(parsed) = ip.parse::<IpAddr>() else {
        return;
    };
    if parsed.is_unspecified() {
        errors.invalid(field, ip, format!("may not be unspecified ({ip})"));
    }
    if parsed.is_loopback() {
        errors.invalid(
            field,
            ip,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    let link_local = match parsed {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local {
        errors.invalid(
            field,
            ip,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    let local_multicast = match parsed {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    if local_multicast {
        errors.invalid(
            field,
            ip,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

fn validate_ports(errors: &mut Errors, obj: &Object) {
    let ports = list(obj, "spec.ports");
    let require_name = ports.len() > 1;
    let mut seen_names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let field = index("spec.ports", i);
        let name = text(port, "name");
        if require_name && name.is_empty() {
            errors.required(child(&field, "name"), "");
        } else if !name.is_empty() {
            errors.invalid_each(&child(&field, "name"), name, names::dns1123_label(name));
            if !seen_names.insert(name) {
                errors.duplicate(child(&field, "name"), name);
            }
        }
        let number = int(port, "port").unwrap_or(0);
        for message in names::port_number(number) {
            errors.invalid(child(&field, "port"), number, message);
        }
        super::containers::protocol(errors, text(port, "protocol"), &child(&field, "protocol"));
        super::containers::port(errors, at(port, "targetPort"), &child(&field, "targetPort"));
        let app = text(port, "appProtocol");
        if has(port, "appProtocol") {
            errors.invalid_each(
                &child(&field, "appProtocol"),
                app,
                names::qualified_name(app),
            );
        }
    }
}

fn validate_cluster_ips(errors: &mut Errors, obj: &Object) {
    if text(obj, "spec.type") == "ExternalName" {
        return;
    }
    let field = "spec.clusterIPs";
    let ips = list(obj, field);
    let shown = || at(obj, field).clone();
    let single = text(obj, "spec.clusterIP");
    if single.is_empty() {
        if !ips.is_empty() {
            let why = "must be empty when `clusterIP` is not specified";
            errors.invalid(field, shown(), why);
        }
    } else if ips.is_empty() {
        errors.required(field, "");
    } else if text_at(obj, field, 0) != single {
        errors.invalid(field, shown(), "first value must match `clusterIP`");
    }
    families(errors, obj);
    let mut wrong = false;
    for (i, ip) in ips.iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                wrong = true;
                errors.invalid(field, shown(), "'None' must be the first and only value");
            }
            continue;
        }
        let problems = names::ip(ip);
        wrong |= !problems.is_empty();
        errors.invalid_each(&index(field, i), ip, problems);
    }
    if ips.len() > 2 {
        errors.invalid(field, shown(), "may only hold up to 2 values");
    }
    if wrong {
        return;
    }
    let is_v6 =
        |ip: &Value| names::parse_ip(ip.as_str().unwrap_or_default()).map(|ip| ip.is_ipv6());
    let found: BTreeSet<Option<bool>> = ips.iter().map(is_v6).collect();
    if ips.len() > 1 && found.len() != 2 {
        let why = "may specify no more than one IP for each IP family";
        errors.invalid(field, shown(), why);
    }
    if is_headless(obj) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(list(obj, "spec.ipFamilies")).enumerate() {
        let wanted = match (family.as_str(), is_v6(ip)) {
            (Some("IPv4"), Some(true)) => "IPv4",
            (Some("IPv6"), Some(false) | None) => "IPv6",
            _ => continue,
        };
        errors.invalid(
            index(field, i),
            ip.clone(),
            format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`"),
        );
    }
}

/// Validates `ipFamilies` and `ipFamilyPolicy` by themselves.
fn families(errors: &mut Errors, obj: &Object) {
    let mut seen = BTreeSet::new();
    for (i, family) in list(obj, "spec.ipFamilies").iter().enumerate() {
        let family = family.as_str().unwrap_or_default();
        if !matches!(family, "IPv4" | "IPv6") {
            errors.not_supported(index("spec.ipFamilies", i), family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            errors.duplicate(index("spec.ipFamilies", i), family);
        }
    }
    let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    let policy = text(obj, "spec.ipFamilyPolicy");
    if has(obj, "spec.ipFamilyPolicy") && !known.contains(&policy) {
        errors.not_supported("spec.ipFamilyPolicy", policy, &known);
    }
}

/// Returns what is wrong with the fields of cluster IPs and families by themselves, as upstream's
/// `ValidateServiceClusterIPsRelatedFields`.
pub fn cluster_ip_errors(service: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    validate_cluster_ips(&mut errors, service);
    errors.0
}

/// Validates the load balancer status of a service or ingress; `may_have` permits ingress points.
pub(crate) fn load_balancer_status(
    errors: &mut Errors,
    status: &Value,
    path: &str,
    may_have: bool,
) {
    let ingress = list(status, "ingress");
    let path = child(path, "ingress");
    if !ingress.is_empty() && !may_have {
        errors.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (i, entry) in ingress.iter().enumerate() {
        let field = index(&path, i);
        let ip = text(entry, "ip");
        if !ip.is_empty() {
            errors.invalid_each(&child(&field, "ip"), ip, names::ip(ip));
        }
        let (mode, field_of_mode) = (text(entry, "ipMode"), child(&field, "ipMode"));
        if has(entry, "ipMode") {
            if ip.is_empty() {
                errors.forbidden(field_of_mode, "may not be specified when `ip` is not set");
            } else if !matches!(mode, "VIP" | "Proxy") {
                errors.not_supported(field_of_mode, mode, &["Proxy", "VIP"]);
            }
        }
        let host = text(entry, "hostname");
        if !host.is_empty() {
            let field = child(&field, "hostname");
            errors.invalid_each(&field, host, names::dns1123_subdomain(host));
            if names::parse_ip(host).is_some() {
                errors.invalid(field, host, "must be a DNS name, not an IP address");
            }
        }
    }
}
