//! Services. The API server allocates cluster IPs and node ports after the preparation here.

use std::collections::{BTreeMap, BTreeSet};

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use super::service_validation::{load_balancer_class, validate, validate_change};
pub(crate) use super::service_validation::{load_balancer_status, non_special_ip};
use crate::errors::{Errors, IMMUTABLE, ratcheted};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, has, int, keep, list, list_mut, put, remove,
    same_at, set, text,
};
use crate::{Context, NameRule, Strategy};

/// The strategy of kind `Service`.
pub(crate) struct Service;

/// Default timeout of `ClientIP` affinity in seconds: three hours.
const AFFINITY_SECONDS: i64 = 10800;

/// Sets missing `lastTransitionTime`s of conditions. The schema requires the field; upstream
/// stores `null`, and strictly typed clients then fail to decode the service.
fn date_conditions(obj: &mut Object, now: jiff::Timestamp) {
    for condition in list_mut(obj, "status.conditions") {
        if text(condition, "lastTransitionTime").is_empty() {
            let now = now.round(jiff::Unit::Second).unwrap_or(now);
            put(condition, "lastTransitionTime", now.to_string());
        }
    }
}

impl Strategy for Service {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Label
    }

    fn default(&self, obj: &mut Object) {
        default_service(obj);
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        put(obj, "status", json!({"loadBalancer": {}}));
        // `clusterIP` is the predecessor of `clusterIPs`; both must agree.
        mirror_cluster_ips(obj, None);
        drop_internal_policy(obj);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
        // A value must be cleared in both fields to stay cleared.
        mirror_cluster_ips(new, Some(old));
        carry_over(new, old);
        drop_unused(new, old);
        drop_internal_policy(new);
    }

    fn prepare_status_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
        date_conditions(new, ctx.now);
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        validate(obj)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (was, is) = (text(old, "spec.type"), text(new, "spec.type"));
        // The cluster IP is immutable unless the type changes to or from `ExternalName`.
        if was != "ExternalName" && is != "ExternalName" {
            let before = text(old, "spec.clusterIP");
            if !before.is_empty() && text(new, "spec.clusterIP") != before {
                errors.invalid(
                    "spec.clusterIPs[0]",
                    at(new, "spec.clusterIPs").clone(),
                    "may not change once set",
                );
            }
            // An address may go with its family, but no other may take its place.
            let second = text_at(old, "spec.clusterIPs", 1);
            let wanted = text_at(new, "spec.clusterIPs", 1);
            if !second.is_empty() && !wanted.is_empty() && wanted != second {
                errors.invalid(
                    "spec.clusterIPs[1]",
                    at(new, "spec.clusterIPs").clone(),
                    "may not change once set",
                );
            }
            let headless = is_headless(old) || is_headless(new);
            let first = text_at(old, "spec.ipFamilies", 0);
            if !headless && !first.is_empty() && text_at(new, "spec.ipFamilies", 0) != first {
                errors.invalid(
                    "spec.ipFamilies[0]",
                    at(new, "spec.ipFamilies").clone(),
                    "may not change once set",
                );
            }
        }
        if was == "LoadBalancer"
            && is == "LoadBalancer"
            && !same_at(new, old, "spec.loadBalancerClass")
        {
            errors.invalid(
                "spec.loadBalancerClass",
                at(new, "spec.loadBalancerClass").clone(),
                "may not change once set",
            );
        }
        // As upstream, it is validated here and again below.
        load_balancer_class(&mut errors, at(new, "spec"));
        if needs_health_check(old)
            && needs_health_check(new)
            && int(new, "spec.healthCheckNodePort") != int(old, "spec.healthCheckNodePort")
        {
            errors.forbidden("spec.healthCheckNodePort", IMMUTABLE);
        }
        let next = validate_change(new, Some(old));
        // Annotations are looked at again only if they change.
        errors.extend(ratcheted(next, || validate_change(old, Some(old))));
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let errors_of = |obj| {
            let mut errors = Errors::new();
            load_balancer_status(
                &mut errors,
                at(obj, "status.loadBalancer"),
                "status.loadBalancer",
                text(obj, "spec.type") == "LoadBalancer",
            );
            errors.0
        };
        ratcheted(errors_of(new), || errors_of(old))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        match old {
            // An update of the status is about its addresses only.
            Some(old) if same_at(new, old, "spec") && !same_at(new, old, "status") => {
                super::service_warnings::of_status(new)
            }
            _ => super::service_warnings::warnings_of(new),
        }
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "spec.clusterIP" | "spec.type" => Some(text(obj, field).to_owned()),
            _ => generic::field_value(obj, field),
        }
    }
}

/// Returns the string at an index of a list; empty if missing.
pub(super) fn text_at<'a>(obj: &'a Object, path: &str, i: usize) -> &'a str {
    list(obj, path).get(i).and_then(Value::as_str).unwrap_or("")
}

/// Returns whether a service is headless, that is, has explicitly no cluster IP.
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
        default_value(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_value(spec, "allocateLoadBalancerNodePorts", true);
    }
    for ingress in list_mut(obj, "status.loadBalancer.ingress") {
        if kind == "LoadBalancer" && !text(ingress, "ip").is_empty() {
            default_value(ingress, "ipMode", "VIP");
        }
    }
}

/// Brings `clusterIP` and `clusterIPs` into agreement where a client knows only one of them.
/// Whatever else differs is left to the validation.
fn mirror_cluster_ips(new: &mut Object, old: Option<&Object>) {
    let single = text(new, "spec.clusterIP").to_owned();
    let many = !list(new, "spec.clusterIPs").is_empty();
    let Some(old) = old else {
        if !single.is_empty() && !many {
            put(new, "spec.clusterIPs", json!([single]));
        }
        return;
    };
    let was = text(old, "spec.clusterIP");
    if single == was {
        if !many {
            // The client does not know the list.
            keep(new, old, "spec.clusterIPs");
        }
    } else if same_at(new, old, "spec.clusterIPs") {
        if single.is_empty() {
            remove(new, "spec.clusterIPs");
        } else {
            put(new, "spec.clusterIPs", json!([single]));
        }
    }
}

/// Keeps values that the server allocated if the update omits them.
fn carry_over(new: &mut Object, old: &Object) {
    let (was, is) = (
        text(old, "spec.type").to_owned(),
        text(new, "spec.type").to_owned(),
    );
    let has_ip = |kind: &str| kind != "ExternalName";
    if has_ip(&was) && has_ip(&is) {
        if text(new, "spec.clusterIP").is_empty() {
            keep(new, old, "spec.clusterIP");
        }
        if list(new, "spec.clusterIPs").is_empty() {
            keep(new, old, "spec.clusterIPs");
        }
    }
    if has_ip(&was) && has_ip(&is) {
        for path in ["spec.ipFamilies", "spec.ipFamilyPolicy"] {
            if !has(new, path) {
                keep(new, old, path);
            }
        }
    }
    if allocates_node_ports(old) && allocates_node_ports(new) {
        let kept = &node_ports(old) & &node_ports(new);
        let before: BTreeMap<String, i64> = list(old, "spec.ports")
            .iter()
            .map(|port| {
                let number = int(port, "nodePort").unwrap_or(0);
                (text(port, "name").to_owned(), number)
            })
            .collect();
        for port in list_mut(new, "spec.ports") {
            let number = before.get(text(port, "name")).copied().unwrap_or(0);
            if int(port, "nodePort").unwrap_or(0) == 0 && number != 0 && !kept.contains(&number) {
                set(port, "nodePort", number);
            }
        }
    }
    if needs_health_check(old)
        && needs_health_check(new)
        && int(new, "spec.healthCheckNodePort").unwrap_or(0) == 0
    {
        keep(new, old, "spec.healthCheckNodePort");
    }
}

/// Returns whether node ports are allocated for the ports of a service.
fn allocates_node_ports(service: &Object) -> bool {
    match text(service, "spec.type") {
        "NodePort" => true,
        "LoadBalancer" => {
            at(service, "spec.allocateLoadBalancerNodePorts").as_bool() != Some(false)
        }
        _ => false,
    }
}

/// Returns whether a service has node ports.
fn has_node_ports(service: &Object) -> bool {
    matches!(text(service, "spec.type"), "NodePort" | "LoadBalancer")
}

/// Returns whether a service is open to clients outside of the cluster.
fn is_reachable(service: &Object) -> bool {
    has_node_ports(service)
        || text(service, "spec.type") == "ClusterIP"
            && !list(service, "spec.externalIPs").is_empty()
}

/// Returns the node ports of a service.
fn node_ports(service: &Object) -> BTreeSet<i64> {
    list(service, "spec.ports")
        .iter()
        .filter_map(|port| int(port, "nodePort"))
        .filter(|port| *port != 0)
        .collect()
}

/// Returns whether a service has a port for health checks of its load balancer.
fn needs_health_check(service: &Object) -> bool {
    text(service, "spec.type") == "LoadBalancer"
        && text(service, "spec.externalTrafficPolicy") == "Local"
}

/// Removes the policy for traffic in the cluster from a service that is only a name. Upstream does
/// so after validation, so that one that is invalid is refused.
fn drop_internal_policy(service: &mut Object) {
    const PATH: &str = "spec.internalTrafficPolicy";
    if text(service, "spec.type") == "ExternalName"
        && matches!(text(service, PATH), "Cluster" | "Local")
    {
        remove(service, PATH);
    }
}

/// Removes fields that an update of the type makes meaningless, if it left them unchanged.
fn drop_unused(new: &mut Object, old: &Object) {
    let unchanged = |new: &Object, path: &str| same_at(new, old, path);
    let mut unused = Vec::new();
    let is_external = |service: &Object| text(service, "spec.type") == "ExternalName";
    if !is_external(old) && is_external(new) {
        if unchanged(new, "spec.clusterIP") && unchanged(new, "spec.clusterIPs") {
            unused.extend(["spec.clusterIP", "spec.clusterIPs"]);
        }
        unused.extend(
            ["spec.ipFamilies", "spec.ipFamilyPolicy"]
                .into_iter()
                .filter(|path| unchanged(new, path)),
        );
    }
    if has_node_ports(old) && !has_node_ports(new) && node_ports(new).is_subset(&node_ports(old)) {
        for port in list_mut(new, "spec.ports") {
            remove(port, "nodePort");
        }
    }
    let is_balanced = |service: &Object| text(service, "spec.type") == "LoadBalancer";
    for (path, applies) in [
        (
            "spec.healthCheckNodePort",
            needs_health_check as fn(&Object) -> bool,
        ),
        ("spec.allocateLoadBalancerNodePorts", is_balanced),
        ("spec.loadBalancerClass", is_balanced),
        ("spec.externalTrafficPolicy", is_reachable),
    ] {
        if applies(old) && !applies(new) && unchanged(new, path) {
            unused.push(path);
        }
    }
    for path in unused {
        remove(new, path);
    }
    if !is_balanced(new) {
        put(new, "status.loadBalancer", json!({}));
    }
}

/// Validates that a field is unchanged.
pub(crate) fn immutable(errors: &mut Errors, new: &Object, old: &Object, path: &str) {
    if !same_at(new, old, path) {
        let value = match (at(new, path), at(old, path)) {
            // Go's value of a text that is unset.
            (Value::Null, Value::String(_)) => "".into(),
            (value, _) => value.clone(),
        };
        errors.invalid(path, value, IMMUTABLE);
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
    fn cleared_addresses_stay() {
        let ips = json!(["10.0.0.5"]);
        for kind in ["ClusterIP", "NodePort", "LoadBalancer"] {
            let old = json!({"spec": {"type": kind, "clusterIP": "10.0.0.5", "clusterIPs": ips,
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}});
            for (single, many, accepted) in [
                (json!(null), json!(null), true),
                (json!(""), ips.clone(), true),
                (json!(""), json!(null), true),
                (json!("10.0.0.5"), json!(null), true),
                (json!(null), ips.clone(), true),
                (json!("10.0.0.6"), ips.clone(), false),
                (json!(""), json!(["10.0.0.6"]), false),
            ] {
                let mut new = old.clone();
                new["spec"]["clusterIP"] = single.clone();
                new["spec"]["clusterIPs"] = many.clone();
                Service.default(&mut new);
                Service.prepare_update(&ctx(), &mut new, &old);
                let errors = messages(&Service.validate_update(&new, &old));
                let immutable = errors
                    .iter()
                    .any(|e| e.contains("may not change once set") || e.contains("must match"));
                assert_eq!(!immutable, accepted, "{single} {many}: {errors:?}");
                if accepted {
                    assert_eq!(new["spec"]["clusterIP"], "10.0.0.5", "{single} {many}");
                    assert_eq!(new["spec"]["clusterIPs"], ips, "{single} {many}");
                }
            }
        }
    }

    #[test]
    fn conditions_are_dated() {
        let old = json!({"spec": {"type": "ClusterIP"}});
        let dated = "2020-01-01T00:00:00Z";
        let mut new = old.clone();
        new["status"] = json!({"conditions": [
            {"type": "A", "status": "True"},
            {"type": "B", "status": "True", "lastTransitionTime": null},
            {"type": "C", "status": "True", "lastTransitionTime": dated},
        ]});
        Service.prepare_status_update(&ctx(), &mut new, &old);
        let conditions = list(&new, "status.conditions");
        let now = ctx().now.to_string();
        let times: Vec<&str> = conditions
            .iter()
            .map(|c| text(c, "lastTransitionTime"))
            .collect();
        assert_eq!(times, [&now, &now, dated]);
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
