//! Policies and pods from API objects.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rkube_component_helpers::label_selector::Selector;

use super::block;
use super::types::{Peer, PodPeer, PodPort, Policy, PolicyPod, PolicyRule, Ports, Scope};
use crate::node::Protocol;

impl PolicyPod {
    /// Derives a pod from its API object. `own` replaces the addresses of its status, which the API
    /// learns only after the pod is attached.
    ///
    /// Returns `None` for a pod that policies can neither isolate nor select: on the network of its
    /// node, without an address, or ended, as another pod may get its address then.
    pub fn from_object(pod: &Pod, node: &str, own: Option<Vec<IpAddr>>) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let ips = own.unwrap_or_else(|| addresses(pod));
        if ips.is_empty() {
            return None;
        }
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        Some(Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ips,
            ports: sidecars
                .chain(&spec.containers)
                .flat_map(named_ports)
                .collect(),
            local: spec.node_name.as_deref() == Some(node),
        })
    }
}

/// Returns the addresses of a pod's status.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = listed
        .chain(status.pod_ip.as_deref())
        .filter_map(|ip| ip.parse().ok())
        .collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn named_ports(container: &Container) -> impl Iterator<Item = PodPort> + '_ {
    container.ports.iter().flatten().filter_map(|port| {
        Some(PodPort {
            name: port.name.clone()?,
            protocol: Protocol::parse(port.protocol.as_deref())?,
            port: u16::try_from(port.container_port).ok()?,
        })
    })
}

impl Policy {
    /// Derives a policy from its API object. Absent fields have the API's defaults.
    pub fn from_object(policy: &NetworkPolicy) -> Self {
        let namespace = policy.metadata.namespace.clone().unwrap_or_default();
        let absent = NetworkPolicySpec::default();
        let spec = policy.spec.as_ref().unwrap_or(&absent);
        let egress_rules = spec.egress.as_deref().unwrap_or_default();
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let has = |name: &str| types.iter().any(|kind| kind == name);
        let ingress = types.is_empty() || has("Ingress");
        let egress = has("Egress") || (types.is_empty() && !egress_rules.is_empty());
        let rule = |peers: &Option<Vec<NetworkPolicyPeer>>,
                    ports: &Option<Vec<NetworkPolicyPort>>| PolicyRule {
            // An empty list is the same as none: it restricts nothing.
            peers: peers
                .as_ref()
                .filter(|peers| !peers.is_empty())
                .map(|peers| {
                    peers
                        .iter()
                        .map(|peer| parse_peer(peer, &namespace))
                        .collect()
                }),
            ports: ports
                .as_ref()
                .filter(|ports| !ports.is_empty())
                .map(|ports| parse_ports(ports)),
        };
        Self {
            name: policy.metadata.name.clone().unwrap_or_default(),
            // An absent selector is the empty one, which selects everything.
            pods: Selector::new(Some(&spec.pod_selector.clone().unwrap_or_default())),
            ingress: ingress.then(|| {
                let rules = spec.ingress.iter().flatten();
                rules.map(|r| rule(&r.from, &r.ports)).collect()
            }),
            egress: egress.then(|| {
                let rules = egress_rules.iter();
                rules.map(|r| rule(&r.to, &r.ports)).collect()
            }),
            namespace,
        }
    }
}

fn parse_peer(peer: &NetworkPolicyPeer, namespace: &str) -> Peer {
    if let Some(block) = &peer.ip_block {
        return Peer::Block(parse_block(block));
    }
    let (namespaces, pods) = (&peer.namespace_selector, &peer.pod_selector);
    if namespaces.is_none() && pods.is_none() {
        // The API refuses a peer without any field; it would select nothing.
        return Peer::Block(Vec::new());
    }
    let scope = match namespaces {
        Some(selector) => Scope::Selected(Selector::new(Some(selector))),
        None => Scope::Namespace(namespace.to_owned()),
    };
    let pods = Selector::new(Some(&pods.clone().unwrap_or_default()));
    Peer::Pods(PodPeer {
        identity: format!("{scope:?} {pods:?}"),
        scope,
        pods,
    })
}

fn parse_block(block: &IPBlock) -> Vec<IpNet> {
    let except = block.except.iter().flatten();
    let except: Vec<IpNet> = except.filter_map(|text| text.parse().ok()).collect();
    match block.cidr.parse() {
        Ok(range) => block::without(range, &except),
        Err(_) => Vec::new(),
    }
}

fn parse_ports(list: &[NetworkPolicyPort]) -> Ports {
    let mut ports = Ports::default();
    for port in list {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            continue;
        };
        match (&port.port, port.end_port) {
            (None, _) => {
                ports.protocols.insert(protocol);
            }
            (Some(IntOrString::String(name)), _) => {
                ports.named.insert((protocol, name.clone()));
            }
            (Some(IntOrString::Int(first)), last) => {
                let number = |n: i32| u16::try_from(n).ok();
                match (number(*first), last.map_or(number(*first), number)) {
                    (Some(first), Some(last)) if first == last => {
                        ports.exact.insert((protocol, first));
                    }
                    (Some(first), Some(last)) => {
                        ports.ranges.insert((protocol, first, last));
                    }
                    // The API refuses numbers that are no ports.
                    _ => {}
                }
            }
        }
    }
    ports
}
