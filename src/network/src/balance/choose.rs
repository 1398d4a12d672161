//! The choice of the node that answers for an address, without I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::hash;
use crate::proxy::SERVICE_NAME_LABEL;

/// Nodes with this label serve no load balancer, as upstream's service controller has it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Nodes with this taint are about to be removed.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A node that may answer for addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub ip: Ipv4Addr,
    /// Whether the node is ready.
    pub ready: bool,
}

/// An address of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// The address.
    pub address: Ipv4Addr,
    /// The nodes with endpoints, if only they serve it (`externalTrafficPolicy: Local`).
    pub only: Option<BTreeSet<String>>,
}

/// Returns the nodes that may answer for addresses, ordered by name.
pub fn candidates(nodes: &[Arc<Node>]) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = nodes.iter().filter_map(|node| candidate(node)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn candidate(node: &Node) -> Option<Candidate> {
    let labels = node.metadata.labels.as_ref();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    if labels.is_some_and(|labels| labels.contains_key(EXCLUDED))
        || node.metadata.deletion_timestamp.is_some()
        || taints.into_iter().any(|taint| taint.key == TO_BE_DELETED)
    {
        return None;
    }
    let status = node.status.as_ref()?;
    let addresses = status.addresses.iter().flatten();
    let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
    let mut conditions = status.conditions.iter().flatten();
    Some(Candidate {
        name: node.metadata.name.clone()?,
        ip: internal.find_map(|address| address.address.parse().ok())?,
        ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
    })
}

/// Returns the addresses in `range` that services have, ordered by address.
pub fn balancers(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    range: Ipv4Net,
) -> Vec<Balancer> {
    let mut places: HashMap<(&str, &str), Places> = HashMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            places.entry((namespace, service)).or_default().add(slice);
        }
    }
    let mut found: BTreeMap<Ipv4Addr, Balancer> = BTreeMap::new();
    // Of two with one address, all nodes take the older one, as the controller does.
    let mut services: Vec<&Arc<Service>> = services.iter().collect();
    services.sort_by_cached_key(|service| {
        let meta = &service.metadata;
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created, meta.namespace.clone(), meta.name.clone())
    });
    for service in services {
        let Some(spec) = &service.spec else { continue };
        // The implementation of a class answers for its addresses itself.
        if spec.type_.as_deref() != Some("LoadBalancer") || spec.load_balancer_class.is_some() {
            continue;
        }
        let key = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let only = (spec.external_traffic_policy.as_deref() == Some("Local"))
            .then(|| places.get(&key).map(Places::best).unwrap_or_default());
        let status = service
            .status
            .as_ref()
            .and_then(|s| s.load_balancer.as_ref());
        for ingress in status.iter().flat_map(|s| s.ingress.iter().flatten()) {
            let ip = ingress.ip.as_deref().and_then(|ip| ip.parse().ok());
            if let Some(address) = ip.filter(|ip| range.contains(ip)) {
                let only = only.clone();
                found.entry(address).or_insert(Balancer { address, only });
            }
        }
    }
    found.into_values().collect()
}

/// The nodes of a service's endpoints.
#[derive(Default)]
struct Places {
    /// With ready ones.
    ready: BTreeSet<String>,
    /// With ones that end and still serve.
    serving: BTreeSet<String>,
}

impl Places {
    fn add(&mut self, slice: &EndpointSlice) {
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(node) = &endpoint.node_name else {
                continue;
            };
            let conditions = endpoint.conditions.as_ref();
            // Conditions that are not set count as true.
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            if ready {
                self.ready.insert(node.clone());
            } else if conditions.and_then(|c| c.serving).unwrap_or(false) {
                self.serving.insert(node.clone());
            }
        }
    }

    /// Returns the nodes that serve: service proxies use serving endpoints if none is ready
    /// (KEP-1669).
    fn best(&self) -> BTreeSet<String> {
        match self.ready.is_empty() {
            true => self.serving.clone(),
            false => self.ready.clone(),
        }
    }
}

impl Balancer {
    /// Returns the nodes in the order in which they are to answer for the address. Nodes that are
    /// not ready, or have no endpoint of a service that needs one, come last: one of them answers
    /// when there is no better one, so that clients are refused instead of left waiting.
    ///
    /// The order differs from address to address, which spreads the load. A node that leaves or
    /// comes changes the answering node of its own addresses only.
    pub fn line<'a>(&self, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
        let mut line: Vec<&Candidate> = candidates.iter().collect();
        line.sort_by_cached_key(|node| {
            let serves = self.only.as_ref().is_none_or(|o| o.contains(&node.name));
            let text = format!("{} {}", self.address, node.name);
            let weight = hash::mix(hash::fnv64(text.as_bytes()));
            (!node.ready, !serves, weight, node.name.clone())
        });
        line
    }
}
