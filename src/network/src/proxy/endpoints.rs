//! Selection of a service's endpoints for traffic from this node.
//!
//! The rules are those of kube-proxy. Ready endpoints are preferred. Without any, endpoints that
//! are terminating but still serving are used. Topology hints apply if all ready endpoints have
//! them and at least one matches this node.

use super::state::{Endpoint, ServicePort};

/// A service port's endpoints by traffic policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories<'a> {
    /// Endpoints for traffic that may go to any node.
    pub cluster: Vec<&'a Endpoint>,
    /// Endpoints for traffic that must stay on this node.
    pub local: Vec<&'a Endpoint>,
    /// Whether the service has a usable endpoint on any node. If not, traffic is rejected. If only
    /// other nodes have one, traffic with a local policy is dropped.
    pub any: bool,
}

/// The endpoints that topology hints restrict traffic to.
enum Topology {
    Everywhere,
    SameNode,
    SameZone,
}

/// Groups the endpoints of a service port by traffic policy.
pub fn categorize<'a>(
    service: &'a ServicePort,
    node_name: &str,
    zone: Option<&str>,
) -> Categories<'a> {
    let mut found = Categories::default();
    let draining = |e: &&Endpoint| e.serving && e.terminating;
    let external = service.externally_accessible();
    // Also with the external policy `Local`, because pods reach external addresses like the cluster
    // IP.
    if !service.internal_local || external {
        let topology = topology(&service.endpoints, node_name, zone);
        let wanted = |e: &&Endpoint| match topology {
            Topology::Everywhere => true,
            Topology::SameNode => e.node_hints.iter().any(|name| name == node_name),
            Topology::SameZone => e.zone_hints.iter().any(|name| Some(name.as_str()) == zone),
        };
        found.cluster = service
            .endpoints
            .iter()
            .filter(|e| e.ready)
            .filter(wanted)
            .collect();
        if found.cluster.is_empty() {
            found.cluster = service.endpoints.iter().filter(draining).collect();
        }
        found.any = !found.cluster.is_empty();
    }
    if service.internal_local || (service.external_local && external) {
        found.any |= service.endpoints.iter().any(|e| e.ready || draining(&e));
        found.local = service
            .endpoints
            .iter()
            .filter(|e| e.local && e.ready)
            .collect();
        if found.local.is_empty() {
            found.local = service
                .endpoints
                .iter()
                .filter(|e| e.local)
                .filter(draining)
                .collect();
        }
    }
    found
}

/// Decides whether and which hints apply (upstream: `topologyModeFromHints`).
fn topology(endpoints: &[Endpoint], node_name: &str, zone: Option<&str>) -> Topology {
    let ready = || endpoints.iter().filter(|e| e.ready);
    if ready().next().is_none() {
        return Topology::Everywhere;
    }
    if ready().all(|e| !e.node_hints.is_empty())
        && ready().any(|e| e.node_hints.iter().any(|name| name == node_name))
    {
        return Topology::SameNode;
    }
    if ready().all(|e| !e.zone_hints.is_empty())
        && ready().any(|e| e.zone_hints.iter().any(|name| Some(name.as_str()) == zone))
    {
        return Topology::SameZone;
    }
    Topology::Everywhere
}
