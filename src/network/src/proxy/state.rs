//! Services and their endpoints, as input of the proxy.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::node::Protocol;

/// The label of an endpoint slice that names its service.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Services and slices with this label are handled by another proxy.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Services and slices with this label are not proxied.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Default duration of a client's affinity to an endpoint.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);

/// The proxied services with their endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// One entry per service port, ordered by namespace, name, port name, protocol and port.
    pub ports: Vec<ServicePort>,
    /// The node's zone (`topology.kubernetes.io/zone`), for zone hints.
    pub zone: Option<String>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// The port's name; empty if it has none.
    pub port_name: String,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The service's cluster IP.
    pub cluster_ip: Ipv4Addr,
    /// The port on the service's addresses.
    pub port: u16,
    /// The port on the nodes' addresses.
    pub node_port: Option<u16>,
    /// `externalIPs`: addresses that an administrator routes to the nodes.
    pub external_ips: Vec<Ipv4Addr>,
    /// Load balancer addresses whose packets arrive at nodes with their destination unchanged.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Address ranges of clients that may use the load balancer; all if empty.
    pub source_ranges: Vec<Ipv4Net>,
    /// Duration of a client's affinity to an endpoint; `None` without affinity.
    pub affinity: Option<Duration>,
    /// Whether `internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// Whether `externalTrafficPolicy` is `Local`.
    pub external_local: bool,
    /// Node port of load balancers' health checks.
    pub health_check_node_port: Option<u16>,
    /// Endpoints, ordered by address and port.
    pub endpoints: Vec<Endpoint>,
}

impl ServicePort {
    /// Returns whether the port is reachable at other addresses than the cluster IP.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some()
            || !self.external_ips.is_empty()
            || !self.load_balancer_ips.is_empty()
    }
}

/// An endpoint of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The pod's port.
    pub port: u16,
    /// Whether it accepts new connections.
    pub ready: bool,
    /// Whether it can serve traffic, even while terminating.
    pub serving: bool,
    /// Whether its pod is being deleted.
    pub terminating: bool,
    /// Whether it is on this node.
    pub local: bool,
    /// Zones whose clients it should serve.
    pub zone_hints: Vec<String>,
    /// Nodes whose clients it should serve.
    pub node_hints: Vec<String>,
}

impl ServiceState {
    /// Sets the node's zone.
    pub fn in_zone(self, zone: Option<String>) -> Self {
        Self { zone, ..self }
    }

    /// Derives the state from API objects. Endpoints on the node `node_name` are local. The node has
    /// no zone.
    pub fn from_objects(
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        node_name: &str,
    ) -> Self {
        let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            let Some(labels) = &slice.metadata.labels else {
                continue;
            };
            if labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL) {
                continue;
            }
            if let Some(name) = labels.get(SERVICE_NAME_LABEL) {
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                by_service.entry((namespace, name)).or_default().push(slice);
            }
        }
        let mut ports = Vec::new();
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let slices = by_service
                .get(&(namespace, name))
                .map_or(&[][..], Vec::as_slice);
            add_service(&mut ports, service, namespace, name, slices, node_name);
        }
        ports.sort_by(|a, b| {
            (&a.namespace, &a.name, &a.port_name, a.protocol, a.port).cmp(&(
                &b.namespace,
                &b.name,
                &b.port_name,
                b.protocol,
                b.port,
            ))
        });
        Self { ports, zone: None }
    }
}

/// Adds the ports of a service, unless it is not proxied.
fn add_service(
    ports: &mut Vec<ServicePort>,
    service: &Service,
    namespace: &str,
    name: &str,
    slices: &[&EndpointSlice],
    node_name: &str,
) {
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|l| l.contains_key(PROXY_NAME_LABEL) || l.contains_key(HEADLESS_LABEL)) {
        return;
    }
    let Some(spec) = &service.spec else { return };
    let Some(cluster_ip) = cluster_ip(spec) else {
        return;
    };
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref())
            .and_then(|client| client.timeout_seconds);
        seconds
            .and_then(|s| u64::try_from(s).ok())
            .map_or(DEFAULT_AFFINITY, Duration::from_secs)
    });
    let load_balancer_ips: Vec<Ipv4Addr> = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten()
        // With mode `Proxy`, the load balancer delivers to the nodes' own addresses.
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            continue;
        };
        let Ok(number) = u16::try_from(port.port) else {
            continue;
        };
        let port_name = port.name.clone().unwrap_or_default();
        ports.push(ServicePort {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            protocol,
            cluster_ip,
            port: number,
            node_port: port
                .node_port
                .and_then(|p| u16::try_from(p).ok())
                .filter(|p| *p != 0),
            external_ips: spec
                .external_ips
                .iter()
                .flatten()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            load_balancer_ips: load_balancer_ips.clone(),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|net| net.trim().parse::<Ipv4Net>().ok())
                .collect(),
            affinity,
            internal_local: local(&spec.internal_traffic_policy),
            external_local: local(&spec.external_traffic_policy),
            health_check_node_port: spec
                .health_check_node_port
                .and_then(|p| u16::try_from(p).ok())
                .filter(|p| *p != 0),
            endpoints: endpoints(slices, &port_name, protocol, node_name),
            port_name,
        });
    }
}

/// Returns the IPv4 cluster IP of a service; `None` if it is headless or an `ExternalName`.
pub(crate) fn cluster_ip(spec: &ServiceSpec) -> Option<Ipv4Addr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let first = spec.cluster_ip.iter();
    // The IPv4 address of a dual-stack service may be the second one.
    first
        .chain(spec.cluster_ips.iter().flatten())
        .find_map(|ip| ip.parse().ok())
}

/// Returns the endpoints of a port, one per address and port number.
fn endpoints(
    slices: &[&EndpointSlice],
    port_name: &str,
    protocol: Protocol,
    node_name: &str,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<(Ipv4Addr, u16), Endpoint> = BTreeMap::new();
    for slice in slices {
        for port in slice.ports.iter().flatten() {
            if port.name.as_deref().unwrap_or_default() != port_name
                || Protocol::parse(port.protocol.as_deref()) != Some(protocol)
            {
                continue;
            }
            let Some(port) = port.port.and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()) else {
                    continue;
                };
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
                let hints = endpoint.hints.as_ref();
                let new = Endpoint {
                    ip,
                    port,
                    ready,
                    serving: conditions.and_then(|c| c.serving).unwrap_or(true),
                    terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                    local: endpoint.node_name.as_deref() == Some(node_name),
                    zone_hints: hints
                        .and_then(|hints| hints.for_zones.as_ref())
                        .map(|zones| zones.iter().map(|zone| zone.name.clone()).collect())
                        .unwrap_or_default(),
                    node_hints: hints
                        .and_then(|hints| hints.for_nodes.as_ref())
                        .map(|nodes| nodes.iter().map(|node| node.name.clone()).collect())
                        .unwrap_or_default(),
                };
                // An address may be in two slices temporarily, or belong to a pod and its
                // terminating predecessor. The endpoint that is not terminating takes precedence.
                let slot = found.entry((ip, port)).or_insert_with(|| new.clone());
                if slot.terminating {
                    *slot = new;
                }
            }
        }
    }
    found.into_values().collect()
}
