//! The cluster's names: pure data and look-up.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::proxy::SERVICE_NAME_LABEL;

/// The version of the Kubernetes DNS specification, served as `dns-version`.
const SPECIFICATION: &str = "1.1.0";

/// Names and addresses of services, made from API objects.
#[derive(Clone, Debug, Default)]
pub struct DnsState {
    services: HashMap<String, HashMap<String, Record>>,
    /// Names below `svc` of addresses: `service.namespace` or `host.service.namespace`.
    by_address: HashMap<IpAddr, Vec<String>>,
}

/// A service as DNS knows it.
#[derive(Clone, Debug)]
struct Record {
    kind: Kind,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug)]
enum Kind {
    Cluster {
        addresses: Vec<IpAddr>,
        ports: Arc<[Port]>,
    },
    Headless,
    External(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    /// `_tcp`, `_udp`, `_sctp`.
    protocol: &'static str,
    number: u16,
}

#[derive(Clone, Debug)]
struct Endpoint {
    /// Its host name or, without one, its address with dashes.
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
    /// A type of which the zone has no record.
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

/// A record of an answer. Its owner is the name asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Address(IpAddr),
    /// Port and target; the target's addresses belong into the additional section.
    Srv {
        port: u16,
        target: String,
        addresses: Vec<IpAddr>,
    },
    Txt(&'static str),
    Soa,
    Ns,
}

/// The result of a look-up of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The name exists; perhaps it has nothing of the type.
    Records(Vec<Data>),
    /// The name stands for another.
    Alias(String),
    /// The name does not exist.
    Nothing,
}

impl DnsState {
    /// Reads names from API objects.
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
        // Only endpoints that were given a host name have a canonical name.
        for slice in slices {
            for endpoint in slice.endpoints.iter().flatten().filter(|e| is_ready(e)) {
                let Some(host) = endpoint.hostname.as_deref().filter(|host| !host.is_empty())
                else {
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
        }
        self.services
            .entry(namespace.to_owned())
            .or_default()
            .insert(name.to_owned(), Record { kind, endpoints });
    }

    /// Names, below `svc` of the domain, of an address.
    pub(super) fn names_of(&self, address: IpAddr) -> &[String] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Looks a name up; `labels` are those before the domain, in lower case.
    pub(super) fn find(&self, labels: &[&str], kinds: Kinds, server: IpAddr) -> Found {
        let some =
            |wanted: bool, data: Data| Found::Records(if wanted { vec![data] } else { vec![] });
        match labels {
            [] => {
                let mut found = Vec::new();
                if kinds.wants(Kinds::Soa) {
                    found.push(Data::Soa);
                }
                if kinds.wants(Kinds::Ns) {
                    found.push(Data::Ns);
                }
                Found::Records(found)
            }
            ["dns-version"] => some(kinds.wants(Kinds::Txt), Data::Txt(SPECIFICATION)),
            ["dns" | "svc" | "pod"] | [_, "pod"] => Found::Records(vec![]),
            ["ns", "dns"] => some(kinds.wants_address(server), Data::Address(server)),
            [dashed, _, "pod"] => match dashed.replace('-', ".").parse::<Ipv4Addr>() {
                Ok(ip) => some(kinds.wants_address(ip.into()), Data::Address(ip.into())),
                Err(_) => Found::Nothing,
            },
            [rest @ .., namespace, "svc"] => match self.services.get(*namespace) {
                Some(services) => find_service(services, rest, namespace, kinds),
                None => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }
}

fn find_service(
    services: &HashMap<String, Record>,
    labels: &[&str],
    namespace: &str,
    kinds: Kinds,
) -> Found {
    let Some((name, rest)) = labels.split_last() else {
        return Found::Records(vec![]);
    };
    let Some(record) = services.get(*name) else {
        return Found::Nothing;
    };
    if let Kind::External(target) = &record.kind {
        return if rest.is_empty() {
            Found::Alias(target.clone())
        } else {
            Found::Nothing
        };
    }
    let service = format!("{name}.{namespace}.svc");
    match rest {
        [] => record.whole(&service, kinds),
        ["_tcp" | "_udp" | "_sctp"] => {
            if record.ports().any(|port| port.protocol == rest[0]) {
                Found::Records(vec![])
            } else {
                Found::Nothing
            }
        }
        [label] => {
            let found: Vec<&Endpoint> = record
                .endpoints
                .iter()
                .filter(|e| e.label == *label)
                .collect();
            if found.is_empty() {
                return Found::Nothing;
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
            Found::Records(data)
        }
        [port, protocol] => {
            let matches = |p: &Port| {
                p.protocol == *protocol
                    && port
                        .strip_prefix('_')
                        .is_some_and(|name| p.name == name && !name.is_empty())
            };
            if !record.ports().any(matches) {
                return Found::Nothing;
            }
            Found::Records(if kinds.wants(Kinds::Srv) {
                record.srv(&service, matches)
            } else {
                vec![]
            })
        }
        _ => Found::Nothing,
    }
}

impl Record {
    /// All ports that the service or its endpoints have.
    fn ports(&self) -> Box<dyn Iterator<Item = &Port> + '_> {
        match &self.kind {
            Kind::Cluster { ports, .. } => Box::new(ports.iter()),
            _ => Box::new(self.endpoints.iter().flat_map(|e| e.ports.iter())),
        }
    }

    /// The service's own name.
    fn whole(&self, service: &str, kinds: Kinds) -> Found {
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
            // Without endpoints the name does not exist, as with CoreDNS.
            _ if self.endpoints.is_empty() => return Found::Nothing,
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
        Found::Records(data)
    }

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

fn is_ready(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

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
                // The same endpoint in slices of different ports stays apart.
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

fn protocol_label(protocol: Option<&str>) -> Option<&'static str> {
    match protocol {
        None | Some("" | "TCP") => Some("_tcp"),
        Some("UDP") => Some("_udp"),
        Some("SCTP") => Some("_sctp"),
        Some(_) => None,
    }
}
