//! The API's semantics, read off the objects for one connection at a time.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rkube_component_helpers::label_selector::{labels_or_empty, matches};

use super::World;
use crate::node::Protocol;

/// Returns whether the policies allow a connection.
pub(super) fn allows(
    world: &World,
    client: Ipv4Addr,
    server: Ipv4Addr,
    protocol: Protocol,
    port: u16,
) -> bool {
    if client == server {
        return true;
    }
    let egress = allowed(world, client, true, &|policy| {
        let rules = policy.spec.as_ref().unwrap().egress.iter().flatten();
        rules.clone().any(|rule| {
            peers_match(world, policy, rule.to.as_deref(), server)
                && ports_match(world, rule.ports.as_deref(), server, protocol, port)
        })
    });
    let ingress = allowed(world, server, false, &|policy| {
        let rules = policy.spec.as_ref().unwrap().ingress.iter().flatten();
        rules.clone().any(|rule| {
            peers_match(world, policy, rule.from.as_deref(), client)
                && ports_match(world, rule.ports.as_deref(), server, protocol, port)
        })
    });
    egress && ingress
}

/// Returns the pod with an own address, if it exists.
fn pod_at(world: &World, ip: Ipv4Addr) -> Option<&Pod> {
    world.pods.values().find(|pod| {
        let status = pod.status.as_ref().unwrap();
        let host = pod.spec.as_ref().unwrap().host_network == Some(true);
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        !host && !ended && status.pod_ip.as_deref() == Some(ip.to_string().as_str())
    })
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap()
}

fn allowed(
    world: &World,
    own: Ipv4Addr,
    egress: bool,
    by: &dyn Fn(&NetworkPolicy) -> bool,
) -> bool {
    let Some(pod) = pod_at(world, own) else {
        return true;
    };
    let applying: Vec<&NetworkPolicy> = world
        .policies
        .values()
        .filter(|policy| policy.metadata.namespace.as_deref() == Some(namespace(pod)))
        .filter(|policy| {
            let spec = policy.spec.as_ref().unwrap();
            let labels = labels_or_empty(pod.metadata.labels.as_ref());
            let selector = spec.pod_selector.clone().unwrap_or_default();
            let direction = if egress { "Egress" } else { "Ingress" };
            let types = match &spec.policy_types {
                Some(types) => types.iter().any(|kind| kind == direction),
                None => !egress || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
            };
            types && matches(&selector, labels)
        })
        .collect();
    applying.is_empty() || applying.into_iter().any(by)
}

fn peers_match(
    world: &World,
    policy: &NetworkPolicy,
    peers: Option<&[NetworkPolicyPeer]>,
    ip: Ipv4Addr,
) -> bool {
    let peers = peers.unwrap_or_default();
    peers.is_empty()
        || peers
            .iter()
            .any(|peer| peer_matches(world, policy, peer, ip))
}

fn peer_matches(
    world: &World,
    policy: &NetworkPolicy,
    peer: &NetworkPolicyPeer,
    ip: Ipv4Addr,
) -> bool {
    if let Some(block) = &peer.ip_block {
        let has = |net: &String| net.parse::<IpNet>().unwrap().contains(&IpAddr::V4(ip));
        return has(&block.cidr) && !block.except.iter().flatten().any(has);
    }
    let Some(pod) = pod_at(world, ip) else {
        return false;
    };
    let in_namespace = match &peer.namespace_selector {
        Some(selector) => world
            .namespaces
            .get(namespace(pod))
            .is_some_and(|labels| matches(selector, labels)),
        None => policy.metadata.namespace.as_deref() == Some(namespace(pod)),
    };
    let labels = labels_or_empty(pod.metadata.labels.as_ref());
    in_namespace
        && peer
            .pod_selector
            .as_ref()
            .is_none_or(|selector| matches(selector, labels))
}

fn ports_match(
    world: &World,
    ports: Option<&[NetworkPolicyPort]>,
    server: Ipv4Addr,
    protocol: Protocol,
    port: u16,
) -> bool {
    let ports = ports.unwrap_or_default();
    ports.is_empty()
        || ports.iter().any(|wanted| {
            let same = Protocol::parse(wanted.protocol.as_deref()) == Some(protocol);
            same && match &wanted.port {
                None => true,
                Some(IntOrString::Int(first)) => {
                    let last = wanted.end_port.unwrap_or(*first);
                    (*first..=last).contains(&i32::from(port))
                }
                Some(IntOrString::String(name)) => pod_at(world, server).is_some_and(|pod| {
                    let containers = pod.spec.as_ref().unwrap().containers.iter();
                    containers
                        .flat_map(|c| c.ports.iter().flatten())
                        .any(|named| {
                            named.name.as_ref() == Some(name)
                                && Protocol::parse(named.protocol.as_deref()) == Some(protocol)
                                && named.container_port == i32::from(port)
                        })
                }),
            }
        })
}
