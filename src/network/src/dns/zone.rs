//! The zone's records and their lookup, without I/O.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::proxy::SERVICE_NAME_LABEL;

/// The version of the Kubernetes DNS specification, served as `dns-version`.
const SPECIFICATION: &str = "1.1.0";

/// The names and addresses of services, derived from API objects.
#[derive(Clone, Debug, Default)]
pub struct DnsState {
    /// Services by namespace and name.
    services: HashMap<String, HashMap<String, Record>>,
    /// Names of each address, relative to `svc`: `service.namespace` or `host.service.namespace`.
    by_address: HashMap<IpAddr, Vec<String>>,
}

/// A service and its ready endpoints.
#[derive(Clone, Debug)]
struct Record {
    kind: Kind,
    endpoints: Vec<Endpoint>,
}

/// The kind of a service in DNS terms.
#[derive(Clone, Debug)]
enum Kind {
    Cluster {
        addresses: Vec<IpAddr>,
        ports: Arc<[Port]>,
    },
    Headless,
    External(String),
}

/// A port of a service or of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    /// `_tcp`, `_udp` or `_sctp`.
    protocol: &'static str,
    number: u16,
}

/// A ready endpoint of a service.
#[derive(Clone, Debug)]
struct Endpoint {
    /// Its hostname or, without one, its address with dashes.
    label: String,
    address: IpAddr,
    ports: Arc<[Port]>,
}

/// The requested record types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinds {
    A,
    Aaaa,
    Srv,
    Txt,
    Cname,
    Ns,
    Soa,
    Any,
    /// A type that the zone has no records of.
    Other,
}

impl Kinds {
    fn wants(self, kind: Self) -> bool {
        self == kind || self == Self::Any
    }

    fn wants_address(self, address: IpAddr) -> bool {
        self.wants(if address.is_ipv4() {
            Self::A
        } else {
            Self::Aaaa
        })
    }
}

/// The data of a record in an answer. Its owner is the queried name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Address(IpAddr),
    /// An SRV record. The target's addresses belong in the additional section.
    Srv {
        port: u16,
        target: String,
        addresses: Vec<IpAddr>,
    },
    Txt(&'static str),
    Soa,
    Ns,
}

/// The result of a name lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The name exists. Empty if it has no record of the requested type.
    Records(Vec<Data>),
    /// The name is an alias (CNAME) of another.
    Alias(String),
    /// The name does not exist.
    Nothing,
}

impl DnsState {
    /// Derives the names from services and endpoint slices. Endpoints that are not ready are left
    /// out.
    pub fn from_objects(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Self {
        let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            let name = slice
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(SERVICE_NAME_LABEL));
            if let Some(name) = name {
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                by_service.entry((namespace, name)).or_default().push(slice);
            }
        }
        let mut state = Self::default();
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let slices = by_service
                .get(&(namespace, name))
                .map_or(&[][..], Vec::as_slice);
            state.add(service, namespace, name, slices);
        }
        state
    }

    fn add(&mut self, service: &Service, namespace: &str, name: &str, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let endpoints = endpoints(slices);
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            Kind::External(spec.external_name.clone().unwrap_or_default())
        } else if spec.cluster_ip.as_deref() == Some("None") {
            Kind::Headless
        } else {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for ip in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip) {
                if let Ok(ip) = ip.parse()
                    && !addresses.contains(&ip)
                {
                    addresses.push(ip);
                }
            }
            if addresses.is_empty() {
                return;
            }
            for address in &addresses {
                self.by_address
                    .entry(*address)
                    .or_default()
                    .push(format!("{name}.{namespace}"));
            }
            let ports = spec.ports.iter().flatten().filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol_label(port.protocol.as_deref())?,
                    number: u16::try_from(port.port).ok()?,
                })
            });
            Kind::Cluster {
                addresses,
                ports: ports.collect(),
            }
        };
        // Only endpoints with an explicit hostname get a PTR record.
        let ready = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .filter(|endpoint| is_ready(endpoint));
        for endpoint in ready {
            let Some(host) = endpoint.hostname.as_deref().filter(|host| !host.is_empty()) else {
                continue;
            };
            for address in endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()) {
                let names = self.by_address.entry(address).or_default();
                let full = format!("{host}.{name}.{namespace}");
                if !names.contains(&full) {
                    names.push(full);
                }
            }
        }
        self.services
            .entry(namespace.to_owned())
            .or_default()
            .insert(name.to_owned(), Record { kind, endpoints });
    }

    /// Returns the names of an address, relative to `svc` in the domain.
    pub(super) fn names_of(&self, address: IpAddr) -> &[String] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Looks up a name. `labels` are those before the domain, in lower case; `server` is this
    /// server's address.
    pub(super) fn find(&self, labels: &[&str], kinds: Kinds, server: IpAddr) -> Lookup {
        let some =
            |wanted: bool, data: Data| Lookup::Records(if wanted { vec![data] } else { vec![] });
        match labels {
            [] => {
                let mut found = Vec::new();
                if kinds.wants(Kinds::Soa) {
                    found.push(Data::Soa);
                }
                if kinds.wants(Kinds::Ns) {
                    found.push(Data::Ns);
                }
                Lookup::Records(found)
            }
            ["dns-version"] => some(kinds.wants(Kinds::Txt), Data::Txt(SPECIFICATION)),
            ["dns" | "svc" | "pod"] | [_, "pod"] => Lookup::Records(vec![]),
            ["ns", "dns"] => some(kinds.wants_address(server), Data::Address(server)),
            [dashed, _, "pod"] => match undashed(dashed) {
                Some(ip) => some(kinds.wants_address(ip), Data::Address(ip)),
                None => Lookup::Nothing,
            },
            [rest @ .., namespace, "svc"] => match self.services.get(*namespace) {
                Some(services) => find_service(services, rest, namespace, kinds),
                None => Lookup::Nothing,
            },
            _ => Lookup::Nothing,
        }
    }
}

/// Returns the address of a pod's label: `10-244-0-5`, `fd00-10-244--5`.
fn undashed(label: &str) -> Option<IpAddr> {
    let ipv4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    let ipv6 = || label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6);
    ipv4.or_else(|_| ipv6()).ok()
}

/// Looks up a name below a namespace. `labels` are those before the namespace.
fn find_service(
    services: &HashMap<String, Record>,
    labels: &[&str],
    namespace: &str,
    kinds: Kinds,
) -> Lookup {
    let Some((name, rest)) = labels.split_last() else {
        return Lookup::Records(vec![]);
    };
    let Some(record) = services.get(*name) else {
        return Lookup::Nothing;
    };
    if let Kind::External(target) = &record.kind {
        return if rest.is_empty() {
            Lookup::Alias(target.clone())
        } else {
            Lookup::Nothing
        };
    }
    let service = format!("{name}.{namespace}.svc");
    match rest {
        [] => record.whole(&service, kinds),
        ["_tcp" | "_udp" | "_sctp"] => {
            if record.ports().any(|port| port.protocol == rest[0]) {
                Lookup::Records(vec![])
            } else {
                Lookup::Nothing
            }
        }
        [label] => {
            let found: Vec<&Endpoint> = record
                .endpoints
                .iter()
                .filter(|e| e.label == *label)
                .collect();
            if found.is_empty() {
                return Lookup::Nothing;
            }
            let target = format!("{label}.{service}");
            let mut data = Vec::new();
            for endpoint in found {
                if kinds.wants_address(endpoint.address) {
                    data.push(Data::Address(endpoint.address));
                }
                if kinds.wants(Kinds::Srv) {
                    data.extend(endpoint.ports.iter().map(|port| Data::Srv {
                        port: port.number,
                        target: target.clone(),
                        addresses: vec![endpoint.address],
                    }));
                }
            }
            Lookup::Records(data)
        }
        [port, protocol] => {
            let matches = |p: &Port| {
                p.protocol == *protocol
                    && port
                        .strip_prefix('_')
                        .is_some_and(|name| p.name == name && !name.is_empty())
            };
            if !record.ports().any(matches) {
                return Lookup::Nothing;
            }
            Lookup::Records(if kinds.wants(Kinds::Srv) {
                record.srv(&service, matches)
            } else {
                vec![]
            })
        }
        _ => Lookup::Nothing,
    }
}

impl Record {
    /// Returns the ports of the service; for a headless one, those of its endpoints.
    fn ports(&self) -> Box<dyn Iterator<Item = &Port> + '_> {
        match &self.kind {
            Kind::Cluster { ports, .. } => Box::new(ports.iter()),
            _ => Box::new(self.endpoints.iter().flat_map(|e| e.ports.iter())),
        }
    }

    /// Returns the records of the service's own name.
    fn whole(&self, service: &str, kinds: Kinds) -> Lookup {
        let mut data = Vec::new();
        match &self.kind {
            Kind::Cluster { addresses, .. } => {
                data.extend(
                    addresses
                        .iter()
                        .filter(|ip| kinds.wants_address(**ip))
                        .map(|ip| Data::Address(*ip)),
                );
            }
            // A headless service without endpoints does not exist, as in CoreDNS.
            _ if self.endpoints.is_empty() => return Lookup::Nothing,
            _ => {
                let mut seen = HashSet::new();
                let addresses = self.endpoints.iter().map(|e| e.address);
                data.extend(
                    addresses
                        .filter(|ip| kinds.wants_address(*ip) && seen.insert(*ip))
                        .map(Data::Address),
                );
            }
        }
        if kinds.wants(Kinds::Srv) {
            data.extend(self.srv(service, |_| true));
        }
        Lookup::Records(data)
    }

    /// Returns the SRV records of the matching ports.
    fn srv(&self, service: &str, matches: impl Fn(&Port) -> bool) -> Vec<Data> {
        match &self.kind {
            Kind::Cluster { addresses, ports } => ports
                .iter()
                .filter(|port| matches(port))
                .map(|port| Data::Srv {
                    port: port.number,
                    target: service.to_owned(),
                    addresses: addresses.clone(),
                })
                .collect(),
            _ => self
                .endpoints
                .iter()
                .flat_map(|e| {
                    e.ports
                        .iter()
                        .filter(|port| matches(port))
                        .map(move |port| (e, port))
                })
                .map(|(endpoint, port)| Data::Srv {
                    port: port.number,
                    target: format!("{}.{service}", endpoint.label),
                    addresses: vec![endpoint.address],
                })
                .collect(),
        }
    }
}

/// Returns whether an endpoint is ready. An unset condition means ready.
fn is_ready(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

/// Returns the ready endpoints of all slices, without duplicates.
fn endpoints(slices: &[&EndpointSlice]) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    let mut seen = HashSet::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports: Arc<[Port]> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol_label(port.protocol.as_deref())?,
                    number: u16::try_from(port.port?).ok()?,
                })
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten().filter(|e| is_ready(e)) {
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|ip| ip.parse::<IpAddr>().ok())
            {
                let label = match endpoint.hostname.as_deref().filter(|host| !host.is_empty()) {
                    Some(host) => host.to_ascii_lowercase(),
                    None => address.to_string().replace(['.', ':'], "-"),
                };
                // An endpoint appears once per slice if the slices have different ports.
                if seen.insert((
                    label.clone(),
                    address,
                    ports
                        .clone()
                        .iter()
                        .map(|p| (p.protocol, p.number))
                        .collect::<Vec<_>>(),
                )) {
                    found.push(Endpoint {
                        label,
                        address,
                        ports: ports.clone(),
                    });
                }
            }
        }
    }
    found
}

/// Returns the protocol label of a port, which is `_tcp` if absent.
fn protocol_label(protocol: Option<&str>) -> Option<&'static str> {
    match protocol {
        None | Some("" | "TCP") => Some("_tcp"),
        Some("UDP") => Some("_udp"),
        Some("SCTP") => Some("_sctp"),
        Some(_) => None,
    }
}
