//! Warnings about valid services.

use rkube_api::Object;

use super::service::is_headless;
use crate::errors::index;
use crate::names;
use crate::tree::{at, list, text};

/// The name of the topology annotation before v1.27.
const OLD_TOPOLOGY_ANNOTATION: &str = "service.kubernetes.io/topology-aware-hints";

/// Returns what is deprecated, ignored or oddly written in a service (upstream:
/// `GetWarningsForService`).
pub(super) fn warnings_of(service: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotations = at(service, "metadata.annotations");
    if annotations.get(OLD_TOPOLOGY_ANNOTATION).is_some() {
        warnings.push(format!(
            "annotation {OLD_TOPOLOGY_ANNOTATION} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let external = list(service, "spec.externalIPs");
    let strings = |path: &str| -> Vec<(usize, String)> {
        let items = list(service, path).iter().enumerate();
        items
            .filter_map(|(i, item)| Some((i, item.as_str()?.to_owned())))
            .collect()
    };
    let kind = text(service, "spec.type");
    if !is_headless(service) && !text(service, "spec.clusterIP").is_empty() {
        for (i, ip) in strings("spec.clusterIPs") {
            warnings.extend(names::ip_warnings(&ip, &index("spec.clusterIPs", i)));
        }
    }
    if is_headless(service) {
        let ignored = |what: &str| format!("spec.{what} is ignored for headless services");
        if !text(service, "spec.loadBalancerIP").is_empty() {
            warnings.push(ignored("loadBalancerIP"));
        }
        if !external.is_empty() {
            warnings.push(ignored("externalIPs"));
        }
        if text(service, "spec.sessionAffinity") != "None" {
            warnings.push(ignored("SessionAffinity"));
        }
    }
    for (i, ip) in strings("spec.externalIPs") {
        warnings.extend(names::ip_warnings(&ip, &index("spec.externalIPs", i)));
    }
    let kind_has_ips = kind != "ExternalName" && !is_headless(service);
    if !external.is_empty() && kind_has_ips {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .to_owned(),
        );
    }
    let ip = text(service, "spec.loadBalancerIP");
    warnings.extend(names::ip_warnings(ip, "spec.loadBalancerIP"));
    for (i, range) in strings("spec.loadBalancerSourceRanges") {
        let field = index("spec.loadBalancerSourceRanges", i);
        warnings.extend(names::cidr_warnings(&range, &field));
    }
    if kind == "ExternalName" && !external.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !text(service, "spec.externalName").is_empty() {
        warnings
            .push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(service, "spec.trafficDistribution") == "PreferClose" {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""
                .to_owned(),
        );
    }
    warnings
}

/// Returns what is oddly written in the status of a service.
pub(super) fn of_status(service: &Object) -> Vec<String> {
    let path = "status.loadBalancer.ingress";
    let points = list(service, path).iter().enumerate();
    points
        .flat_map(|(i, point)| names::ip_warnings(text(point, "ip"), &index(path, i)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn warns_as_upstream() {
        for (service, want) in [
            (
                json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}}),
                vec![],
            ),
            (
                json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.01", "clusterIPs": ["10.0.0.01"]}}),
                vec![
                    r#"spec.clusterIPs[0]: non-standard IP address "10.0.0.01" will be considered invalid in a future Kubernetes release: use "10.0.0.1""#,
                ],
            ),
            (
                json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
                    "loadBalancerIP": "1.2.3.4", "externalIPs": ["1.2.3.4"], "sessionAffinity": "ClientIP"}}),
                vec![
                    "spec.loadBalancerIP is ignored for headless services",
                    "spec.externalIPs is ignored for headless services",
                    "spec.SessionAffinity is ignored for headless services",
                ],
            ),
            (
                json!({"spec": {"type": "ExternalName", "externalName": "a.b", "externalIPs": ["2001:DB8::1"]}}),
                vec![
                    r#"spec.externalIPs[0]: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#,
                    r#"spec.externalIPs is ignored when spec.type is "ExternalName""#,
                ],
            ),
            (
                json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}},
                    "spec": {"type": "LoadBalancer", "externalName": "a.b", "trafficDistribution": "PreferClose",
                        "loadBalancerIP": "01.2.3.4", "loadBalancerSourceRanges": [" 10.0.0.0/8", "10.0.0.1/8"]}}),
                vec![
                    "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
                    r#"spec.loadBalancerIP: non-standard IP address "01.2.3.4" will be considered invalid in a future Kubernetes release: use "1.2.3.4""#,
                    r#"spec.loadBalancerSourceRanges[1]: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)"#,
                    r#"spec.externalName is ignored when spec.type is not "ExternalName""#,
                    r#"spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone""#,
                ],
            ),
        ] {
            assert_eq!(warnings_of(&service), want, "{service}");
        }
    }
}
