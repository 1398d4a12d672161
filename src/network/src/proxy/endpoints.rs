//! Which of a service's endpoints this node's traffic goes to.
//!
//! The rules are kube-proxy's: ready endpoints first; when there are none, those that
//! are terminating but still serving; hints narrow the choice when all ready endpoints
//! have them and one is meant for us.

use super::state::{Endpoint, ServicePort};

/// A service port's endpoints by traffic policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories<'a> {
    /// For traffic that may go to any node.
    pub cluster: Vec<&'a Endpoint>,
    /// For traffic that must stay on this node.
    pub local: Vec<&'a Endpoint>,
    /// Whether the service has any usable endpoint on any node: without, its traffic
    /// is refused; with one that this node may not use, it is dropped.
    pub any: bool,
}

enum Topology {
    Everywhere,
    SameNode,
    SameZone,
}

/// Sorts the endpoints of a service port.
pub fn categorize<'a>(
    service: &'a ServicePort,
    node_name: &str,
    zone: Option<&str>,
) -> Categories<'a> {
    let mut found = Categories::default();
    let draining = |e: &&Endpoint| e.serving && e.terminating;
    let external = service.externally_accessible();
    // Also with the external policy "Local": pods reach external addresses as if they
    // were the cluster address.
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
