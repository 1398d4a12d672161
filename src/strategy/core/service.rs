//! Services. Addresses and node ports are allocated by the API server, after
//! the preparation here.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::errors::{Errors, IMMUTABLE, child, index};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, has, int, keep, list, list_mut, put, remove,
    same_at, set, text,
};
use crate::{Context, NameRule, Strategy, names};

/// The strategy of kind `Service`.
pub(crate) struct Service;

/// Three hours: how long `ClientIP` affinity lasts.
const AFFINITY_SECONDS: i64 = 10800;

impl Strategy for Service {
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Label
    }

    fn default(&self, obj: &mut Object) {
        default_service(obj);
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        put(obj, "status", json!({"loadBalancer": {}}));
        // One address in two fields: the old and the new.
        mirror_cluster_ips(obj, None);
        drop_unused(obj, None);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
        carry_over(new, old);
        mirror_cluster_ips(new, Some(old));
        drop_unused(new, Some(old));
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        validate(obj)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (was, is) = (text(old, "spec.type"), text(new, "spec.type"));
        // The address stays as long as both states have one.
        if was != "ExternalName" && is != "ExternalName" {
            let before = text(old, "spec.clusterIP");
            if !before.is_empty() && text(new, "spec.clusterIP") != before {
                errors.invalid(
                    "spec.clusterIPs[0]",
                    at(new, "spec.clusterIPs").clone(),
                    "may not change once set",
                );
            }
            let first = text_at(old, "spec.ipFamilies", 0);
            if !first.is_empty() && text_at(new, "spec.ipFamilies", 0) != first {
                errors.invalid(
                    "spec.ipFamilies[0]",
                    at(new, "spec.ipFamilies").clone(),
                    "may not change once set",
                );
            }
        }
        if was == "LoadBalancer" && is == "LoadBalancer" {
            let before = text(old, "spec.loadBalancerClass");
            if has(old, "spec.loadBalancerClass") && text(new, "spec.loadBalancerClass") != before {
                errors.invalid(
                    "spec.loadBalancerClass",
                    at(new, "spec.loadBalancerClass").clone(),
                    "may not change once set",
                );
            }
        }
        errors.extend(validate(new));
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        load_balancer_status(
            &mut errors,
            at(new, "status.loadBalancer"),
            "status.loadBalancer",
            text(new, "spec.type") == "LoadBalancer",
        );
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(ip) = Some(text(new, "spec.loadBalancerIP")).filter(|ip| !ip.is_empty())
            && let Ok(parsed) = ip.parse::<std::net::IpAddr>()
            && parsed.to_string() != ip
        {
            warnings.push(format!(
                "spec.loadBalancerIP: non-standard IP address {ip:?} will be considered invalid in a future Kubernetes release: use {parsed:?}"
            ));
        }
        if text(new, "spec.sessionAffinity") == "ClientIP" && is_headless(new) {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
        warnings
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "spec.clusterIP" | "spec.type" => Some(text(obj, field).to_owned()),
            _ => generic::field_value(obj, field),
        }
    }
}

fn text_at<'a>(obj: &'a Object, path: &str, i: usize) -> &'a str {
    list(obj, path).get(i).and_then(Value::as_str).unwrap_or("")
}

/// No address at all, on purpose?
pub(crate) fn is_headless(service: &Object) -> bool {
    text(service, "spec.clusterIP") == "None"
}

fn default_service(obj: &mut Object) {
    ensure(obj, "spec");
    let Some(spec) = at_mut(obj, "spec") else {
        return;
    };
    default_text(spec, "sessionAffinity", "None");
    default_text(spec, "type", "ClusterIP");
    if text(spec, "sessionAffinity") == "None" {
        remove(spec, "sessionAffinityConfig");
    }
    if text(spec, "sessionAffinity") == "ClientIP"
        && !has(spec, "sessionAffinityConfig.clientIP.timeoutSeconds")
    {
        put(
            spec,
            "sessionAffinityConfig.clientIP.timeoutSeconds",
            AFFINITY_SECONDS,
        );
    }
    for port in list_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let unset = match at(port, "targetPort") {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            number => number.as_i64() == Some(0),
        };
        if unset && let Some(number) = int(port, "port") {
            set(port, "targetPort", number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let reachable = kind == "ClusterIP" && !list(spec, "externalIPs").is_empty();
    if external || reachable {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if external || kind == "ClusterIP" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_value(spec, "allocateLoadBalancerNodePorts", true);
    }
    for ingress in list_mut(obj, "status.loadBalancer.ingress") {
        if !text(ingress, "ip").is_empty() {
            default_value(ingress, "ipMode", "VIP");
        }
    }
}

/// `clusterIP` and `clusterIPs[0]` say the same; who sets one means both.
fn mirror_cluster_ips(new: &mut Object, old: Option<&Object>) {
    let single = text(new, "spec.clusterIP").to_owned();
    let many = !list(new, "spec.clusterIPs").is_empty();
    match old {
        None => {
            if !single.is_empty() && !many {
                put(new, "spec.clusterIPs", json!([single]));
            } else if single.is_empty() && many {
                let first = text_at(new, "spec.clusterIPs", 0).to_owned();
                put(new, "spec.clusterIP", first);
            }
        }
        Some(old) => {
            let was = text(old, "spec.clusterIP");
            let same_many = same_at(new, old, "spec.clusterIPs");
            if single != was && same_many {
                if single.is_empty() {
                    remove(new, "spec.clusterIPs");
                } else {
                    put(new, "spec.clusterIPs", json!([single]));
                }
            } else if single == was && !same_many {
                let first = text_at(new, "spec.clusterIPs", 0).to_owned();
                put(new, "spec.clusterIP", first);
            }
        }
    }
}

/// What the server chose before stays, when the user's manifest leaves it out.
fn carry_over(new: &mut Object, old: &Object) {
    let (was, is) = (
        text(old, "spec.type").to_owned(),
        text(new, "spec.type").to_owned(),
    );
    let has_ip = |kind: &str| kind != "ExternalName";
    if has_ip(&was)
        && has_ip(&is)
        && text(new, "spec.clusterIP").is_empty()
        && list(new, "spec.clusterIPs").is_empty()
    {
        keep(new, old, "spec.clusterIP");
        keep(new, old, "spec.clusterIPs");
    }
    if has_ip(&was) && has_ip(&is) {
        for path in ["spec.ipFamilies", "spec.ipFamilyPolicy"] {
            if !has(new, path) {
                keep(new, old, path);
            }
        }
    }
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if has_node_ports(&was) && has_node_ports(&is) {
        let before: Vec<Value> = list(old, "spec.ports").to_vec();
        let mut taken: BTreeSet<i64> = list(new, "spec.ports")
            .iter()
            .filter_map(|p| int(p, "nodePort"))
            .collect();
        for port in list_mut(new, "spec.ports") {
            if int(port, "nodePort").unwrap_or(0) != 0 {
                continue;
            }
            let number = before
                .iter()
                .find(|p| {
                    int(p, "port") == int(port, "port")
                        && text(p, "protocol") == text(port, "protocol")
                })
                .and_then(|p| int(p, "nodePort"))
                .filter(|n| *n != 0);
            if let Some(number) = number
                && taken.insert(number)
            {
                set(port, "nodePort", number);
            }
        }
    }
    if is == "LoadBalancer"
        && text(new, "spec.externalTrafficPolicy") == "Local"
        && int(new, "spec.healthCheckNodePort").unwrap_or(0) == 0
        && int(old, "spec.healthCheckNodePort").unwrap_or(0) != 0
    {
        keep(new, old, "spec.healthCheckNodePort");
    }
}

/// Fields that a changed type has no use for go when the user left them as they were.
fn drop_unused(new: &mut Object, old: Option<&Object>) {
    let kind = text(new, "spec.type").to_owned();
    let unchanged = |new: &Object, path: &str| old.is_some_and(|o| same_at(new, o, path));
    if kind == "ExternalName" {
        for path in [
            "spec.clusterIP",
            "spec.clusterIPs",
            "spec.ipFamilies",
            "spec.ipFamilyPolicy",
            "spec.internalTrafficPolicy",
        ] {
            if unchanged(new, path) || path.ends_with("internalTrafficPolicy") {
                remove(new, path);
            }
        }
    }
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        if let Some(old) = old {
            let before: Vec<Option<i64>> = list(old, "spec.ports")
                .iter()
                .map(|p| int(p, "nodePort"))
                .collect();
            let was_external = matches!(text(old, "spec.type"), "NodePort" | "LoadBalancer");
            for port in list_mut(new, "spec.ports") {
                let number = int(port, "nodePort");
                if was_external && number.is_some() && before.contains(&number) {
                    remove(port, "nodePort");
                }
            }
        }
        let reachable = kind == "ClusterIP" && !list(new, "spec.externalIPs").is_empty();
        if !reachable && unchanged(new, "spec.externalTrafficPolicy") {
            remove(new, "spec.externalTrafficPolicy");
        }
    }
    if kind != "LoadBalancer" {
        for path in [
            "spec.allocateLoadBalancerNodePorts",
            "spec.loadBalancerClass",
        ] {
            if unchanged(new, path) {
                remove(new, path);
            }
        }
        if old.is_some_and(|o| text(o, "spec.type") == "LoadBalancer") {
            put(new, "status.loadBalancer", json!({}));
        }
    }
    if (kind != "LoadBalancer" || text(new, "spec.externalTrafficPolicy") != "Local")
        && unchanged(new, "spec.healthCheckNodePort")
    {
        remove(new, "spec.healthCheckNodePort");
    }
    if kind == "ClusterIP" || kind == "NodePort" || kind == "LoadBalancer" {
        let turned = old.is_some_and(|o| text(o, "spec.type") == "ExternalName");
        if turned && unchanged(new, "spec.externalName") {
            remove(new, "spec.externalName");
        }
    }
}

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = at(obj, "spec");
    let kind = text(spec, "type");
    let ports = list(spec, "ports");
    if ports.is_empty() && !is_headless(obj) && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    match kind {
        "LoadBalancer" => {
            for (i, port) in ports.iter().enumerate() {
                if int(port, "port") == Some(10250) {
                    errors.invalid(
                        format!("spec.ports[{i}].port"),
                        10250,
                        "may not expose port 10250 externally since it is used by kubelet",
                    );
                }
            }
            if is_headless(obj) {
                errors.invalid(
                    "spec.clusterIPs[0]",
                    "None",
                    "may not be set to 'None' for LoadBalancer services",
                );
            }
        }
        "NodePort" if is_headless(obj) => {
            errors.invalid(
                "spec.clusterIPs[0]",
                "None",
                "may not be set to 'None' for NodePort services",
            );
        }
        "ExternalName" => {
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
            // A DNS name may end in a dot.
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
        _ => {}
    }
    validate_ports(&mut errors, obj);
    crate::metadata::label_map(&mut errors, at(spec, "selector"), "spec.selector");
    match text(spec, "sessionAffinity") {
        "" => errors.required("spec.sessionAffinity", ""),
        "ClientIP" => match int(spec, "sessionAffinityConfig.clientIP.timeoutSeconds") {
            None => errors.required("spec.sessionAffinityConfig.clientIP.timeoutSeconds", ""),
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
    validate_cluster_ips(&mut errors, obj);
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        let field = index("spec.externalIPs", i);
        let problems = names::ip(ip);
        if problems.is_empty() {
            non_special_ip(&mut errors, ip, &field);
        }
        errors.invalid_each(&field, ip, problems);
    }
    match kind {
        "" => errors.required("spec.type", ""),
        "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName" => {}
        other => errors.not_supported(
            "spec.type",
            other,
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        ),
    }
    if kind == "ClusterIP" || kind == "ExternalName" {
        for (i, port) in ports.iter().enumerate() {
            if int(port, "nodePort").unwrap_or(0) != 0 {
                errors.forbidden(
                    format!("spec.ports[{i}].nodePort"),
                    format!("may not be used when `type` is '{kind}'"),
                );
            }
        }
    }
    for (i, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let range = range.as_str().unwrap_or_default().trim();
        if kind != "LoadBalancer" {
            errors.forbidden(
                "spec.LoadBalancerSourceRanges",
                "may only be used when `type` is 'LoadBalancer'",
            );
            break;
        }
        errors.invalid_each(
            &index("spec.LoadBalancerSourceRanges", i),
            range,
            names::cidr(range),
        );
    }
    if has(spec, "allocateLoadBalancerNodePorts") && kind != "LoadBalancer" {
        errors.forbidden(
            "spec.allocateLoadBalancerNodePorts",
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    if has(spec, "loadBalancerClass") {
        let class = text(spec, "loadBalancerClass");
        if kind == "LoadBalancer" {
            errors.invalid_each(
                "spec.loadBalancerClass",
                class,
                names::qualified_name(class),
            );
        } else {
            errors.forbidden(
                "spec.loadBalancerClass",
                "may only be used when `type` is 'LoadBalancer'",
            );
        }
    }
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
    match text(spec, "internalTrafficPolicy") {
        "" if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") => {
            errors.required("spec.internalTrafficPolicy", "");
        }
        "" | "Cluster" | "Local" => {}
        other => errors.not_supported("spec.internalTrafficPolicy", other, &["Cluster", "Local"]),
    }
    match text(spec, "trafficDistribution") {
        "" | "PreferClose" | "PreferSameZone" | "PreferSameNode" => {}
        other => errors.not_supported(
            "spec.trafficDistribution",
            other,
            &["PreferClose", "PreferSameNode", "PreferSameZone"],
        ),
    }
    if let Some(port) = int(spec, "healthCheckNodePort").filter(|n| *n != 0) {
        if port < 0 {
            errors.invalid(
                "spec.healthCheckNodePort",
                port,
                crate::errors::NOT_NEGATIVE,
            );
        } else if kind != "LoadBalancer" || text(spec, "externalTrafficPolicy") != "Local" {
            errors.invalid(
                "spec.healthCheckNodePort",
                port,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            );
        }
    }
    errors.0
}

/// Addresses that would capture a node's own traffic.
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
    let mut seen_ports = BTreeSet::new();
    let mut seen_node_ports = BTreeSet::new();
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
        if !app.is_empty() {
            errors.invalid_each(
                &child(&field, "appProtocol"),
                app,
                names::qualified_name(app),
            );
        }
        if !seen_ports.insert((text(port, "protocol"), number)) {
            errors.duplicate(
                field.clone(),
                json!({"port": number, "protocol": text(port, "protocol")}),
            );
        }
        if let Some(node) = int(port, "nodePort").filter(|n| *n != 0)
            && !seen_node_ports.insert((text(port, "protocol"), node))
        {
            errors.duplicate(child(&field, "nodePort"), node);
        }
    }
}

fn validate_cluster_ips(errors: &mut Errors, obj: &Object) {
    if text(obj, "spec.type") == "ExternalName" {
        return;
    }
    let ips = list(obj, "spec.clusterIPs");
    let single = text(obj, "spec.clusterIP");
    if !single.is_empty() && text_at(obj, "spec.clusterIPs", 0) != single {
        if ips.is_empty() {
            errors.required("spec.clusterIPs", "");
        } else {
            errors.invalid(
                "spec.clusterIPs",
                at(obj, "spec.clusterIPs").clone(),
                "first value must match `clusterIP`",
            );
        }
    }
    if ips.len() > 1 && ips.iter().any(|ip| ip == "None") {
        errors.invalid(
            "spec.clusterIPs",
            at(obj, "spec.clusterIPs").clone(),
            "'None' must be the first and only value",
        );
    }
    for (i, ip) in ips.iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if ip != "None" && !ip.is_empty() {
            errors.invalid_each(&index("spec.clusterIPs", i), ip, names::ip(ip));
        }
    }
    if ips.len() > 2 {
        errors.invalid(
            "spec.clusterIPs",
            at(obj, "spec.clusterIPs").clone(),
            "may only hold up to 2 values",
        );
    }
    let policy = text(obj, "spec.ipFamilyPolicy");
    if !policy.is_empty() {
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !known.contains(&policy) {
            errors.not_supported("spec.ipFamilyPolicy", policy, &known);
        }
    }
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
}

/// What a load balancer may say of itself, in services and ingresses.
pub(crate) fn load_balancer_status(
    errors: &mut Errors,
    status: &Value,
    path: &str,
    may_have: bool,
) {
    let ingress = list(status, "ingress");
    let path = child(path, "ingress");
    if !ingress.is_empty() && !may_have {
        errors.forbidden(
            path,
            "may only be used when `spec.type` is \"LoadBalancer\"",
        );
        return;
    }
    for (i, entry) in ingress.iter().enumerate() {
        let field = index(&path, i);
        let ip = text(entry, "ip");
        if !ip.is_empty() {
            errors.invalid_each(&child(&field, "ip"), ip, names::ip(ip));
        }
        match text(entry, "ipMode") {
            "" | "VIP" | "Proxy" => {}
            other => errors.not_supported(child(&field, "ipMode"), other, &["Proxy", "VIP"]),
        }
        let host = text(entry, "hostname");
        if !host.is_empty() {
            let field = child(&field, "hostname");
            errors.invalid_each(&field, host, names::dns1123_subdomain(host));
            if names::ip(host).is_empty() {
                errors.invalid(field, host, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// A field that must be as it was.
pub(crate) fn immutable(errors: &mut Errors, new: &Object, old: &Object, path: &str) {
    if !same_at(new, old, path) {
        errors.invalid(path, at(new, path).clone(), IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx() -> Context<'static> {
        Context::new(jiff::Timestamp::UNIX_EPOCH, "test")
    }

    fn messages(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults() {
        let mut s = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 8080}]}});
        Service.default(&mut s);
        assert_eq!(
            s["spec"],
            json!({"type": "LoadBalancer", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true,
                "ports": [{"port": 8080, "targetPort": 8080, "protocol": "TCP"}]})
        );
        assert_eq!(messages(&Service.validate_create(&s)), Vec::<String>::new());
    }

    #[test]
    fn addresses_stay() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        Service.default(&mut new);
        Service.prepare_update(&ctx(), &mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.5");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        new["spec"]["clusterIP"] = json!("10.0.0.6");
        new["spec"]["clusterIPs"] = json!(["10.0.0.6"]);
        assert!(
            messages(&Service.validate_update(&new, &old))[0].contains("may not change once set")
        );
    }

    #[test]
    fn from_node_port_to_cluster_ip() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        Service.default(&mut new);
        Service.prepare_update(&ctx(), &mut new, &old);
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
        assert_eq!(
            messages(&Service.validate_update(&new, &old)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn several_ports_need_names() {
        let mut s = json!({"spec": {"ports": [{"port": 1}, {"port": 1, "name": "b"}]}});
        Service.default(&mut s);
        let found = messages(&Service.validate_create(&s));
        assert!(found.contains(&"spec.ports[0].name: Required value".to_owned()));
        assert!(
            found
                .iter()
                .any(|m| m.starts_with("spec.ports[1]: Duplicate value"))
        );
    }
}
