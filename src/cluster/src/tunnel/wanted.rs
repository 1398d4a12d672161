//! What services say about their addresses.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

/// Annotation with a fixed address; takes precedence over `spec.loadBalancerIP`, as in the
/// controller of load balancers.
const ADDRESS: &str = "rkube.dev/load-balancer-ip";
/// Finalizer of services that have their address from that controller.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Returns `namespace/name`.
pub(super) fn key(service: &Service) -> String {
    format!(
        "{}/{}",
        service.namespace().unwrap_or_default(),
        service.name_any()
    )
}

/// Whether the tunnel assigns an address to the service. Services with a load balancer class are
/// left to the implementation of that class.
pub(super) fn wants_address(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| {
        s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none()
    }) && service.metadata.deletion_timestamp.is_none()
}

/// Whether the cluster's own controller has given the service its address.
pub(super) fn is_finalized(service: &Service) -> bool {
    service.finalizers().iter().any(|f| f == FINALIZER)
}

/// Returns the address that the service asks for.
pub(super) fn wish(service: &Service) -> Result<Option<Ipv4Addr>, String> {
    let spec = service.spec.as_ref();
    let field = spec.and_then(|spec| spec.load_balancer_ip.as_ref());
    let text = service.annotations().get(ADDRESS).or(field);
    match text.map(|text| text.trim()) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{text:?} is not an IPv4 address")),
    }
}

/// Returns the addresses in the service's status.
pub(super) fn published(service: &Service) -> Vec<String> {
    service
        .status
        .iter()
        .filter_map(|s| s.load_balancer.as_ref())
        .flat_map(|l| l.ingress.iter().flatten())
        .filter_map(|i| i.ip.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_ask_for_addresses_with_an_annotation_or_a_field() {
        let service = |annotation: &str, field: &str| -> Service {
            serde_json::from_value(serde_json::json!({
                "metadata": {"annotations": {ADDRESS: annotation}},
                "spec": {"loadBalancerIP": field},
            }))
            .unwrap()
        };
        let ip = |last| Ok(Some(Ipv4Addr::new(192, 168, 58, last)));
        let annotated = service("192.168.58.200", "192.168.58.201");
        assert_eq!(wish(&annotated), ip(200));
        assert_eq!(wish(&service("", "")), Ok(None));
        assert!(wish(&service("x", "192.168.58.201")).is_err());
        let mut plain = service("", "192.168.58.201");
        plain.metadata.annotations = None;
        assert_eq!(wish(&plain), ip(201));
        assert_eq!(wish(&Service::default()), Ok(None));
    }
}
