//! Services and their endpoints, as input of the proxy.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::nft::Family;
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
    /// One entry per service port and family, ordered by namespace, name, port name, protocol, port
    /// and cluster IP.
    pub ports: Vec<ServicePort>,
    /// The node's zone (`topology.kubernetes.io/zone`), for zone hints.
    pub zone: Option<String>,
}

/// A port of a service, at its addresses of one family.
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
    /// The service's cluster IP of the family.
    pub cluster_ip: IpAddr,
    /// The port on the service's addresses.
    pub port: u16,
    /// The port on the nodes' addresses.
    pub node_port: Option<u16>,
    /// `externalIPs`: addresses that an administrator routes to the nodes.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses whose packets arrive at nodes with their destination unchanged.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Address ranges of clients that may use the load balancer; all if empty.
    pub source_ranges: Vec<IpNet>,
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
    pub ip: IpAddr,
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
        for slice in slices {
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
            let order = |port: &ServicePort| (port.protocol, port.port, port.cluster_ip);
            (&a.namespace, &a.name, &a.port_name)
                .cmp(&(&b.namespace, &b.name, &b.port_name))
                .then_with(|| order(a).cmp(&order(b)))
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
    for cluster_ip in cluster_ips(spec) {
        add_family(
            ports,
            service,
            spec,
            (namespace, name),
            cluster_ip,
            slices,
            node_name,
        );
    }
}

/// Adds the ports of a service at its addresses of the cluster IP's family.
fn add_family(
    ports: &mut Vec<ServicePort>,
    service: &Service,
    spec: &ServiceSpec,
    (namespace, name): (&str, &str),
    cluster_ip: IpAddr,
    slices: &[&EndpointSlice],
    node_name: &str,
) {
    let family = Family::of(cluster_ip);
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
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
    let load_balancer_ips: Vec<IpAddr> = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten()
        // With mode `Proxy`, the load balancer delivers to the nodes' own addresses.
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .filter(of_family)
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
                .filter(of_family)
                .collect(),
            load_balancer_ips: load_balancer_ips.clone(),
            source_ranges: source_ranges(spec, family),
            affinity,
            internal_local: local(&spec.internal_traffic_policy),
            external_local: local(&spec.external_traffic_policy),
            health_check_node_port: spec
                .health_check_node_port
                .and_then(|p| u16::try_from(p).ok())
                .filter(|p| *p != 0),
            endpoints: endpoints(slices, family, &port_name, protocol, node_name),
            port_name,
        });
    }
}

/// Returns the ranges of a family that may use the load balancer. As with kube-proxy, ranges of the
/// other family do not restrict this one.
fn source_ranges(spec: &ServiceSpec, family: Family) -> Vec<IpNet> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    ranges
        .filter_map(|net| net.trim().parse::<IpNet>().ok())
        .filter(|net| Family::of(net.addr()) == family)
        .collect()
}

/// Returns the cluster IPs of a service, at most one per family; none if it is headless or an
/// `ExternalName`.
pub(crate) fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    let listed = spec.cluster_ip.iter();
    for ip in listed.chain(spec.cluster_ips.iter().flatten()) {
        if let Ok(ip) = ip.parse::<IpAddr>()
            && ips.iter().all(|known| Family::of(*known) != Family::of(ip))
        {
            ips.push(ip);
        }
    }
    ips
}

/// Returns the endpoints of a port, one per address and port number.
fn endpoints(
    slices: &[&EndpointSlice],
    family: Family,
    port_name: &str,
    protocol: Protocol,
    node_name: &str,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    let address_type = match family {
        Family::Ip6 => "IPv6",
        Family::Ip | Family::Inet | Family::Bridge => "IPv4",
    };
    for slice in slices {
        if slice.address_type != address_type {
            continue;
        }
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
                let ip = endpoint.addresses.first().and_then(|ip| ip.parse().ok());
                let Some(ip) = ip.filter(|ip| Family::of(*ip) == family) else {
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
