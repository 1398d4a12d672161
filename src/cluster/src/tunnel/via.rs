//! The node that packets for a load balancer are sent to, chosen as a cloud's load balancer does.
//!
//! A service with `externalTrafficPolicy: Local` is served by nodes with ready pods of it only.
//! Upstream's load balancers learn that from `healthCheckNodePort`, whose answers come from the same
//! endpoint slices that are read here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use rkube_client::reflector::Event;

/// The label of a slice that names its service.
const SERVICE: &str = "kubernetes.io/service-name";

/// A node that packets can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gateway {
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub ip: Ipv4Addr,
    /// Whether the node runs.
    pub up: bool,
}

/// The nodes of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Nodes with ready endpoints.
    ready: BTreeSet<String>,
    /// Nodes with endpoints that are terminating and still serve.
    serving: BTreeSet<String>,
}

/// The endpoint slices of all services.
#[derive(Default)]
pub(super) struct Slices {
    /// By `namespace/name` of the slice: its service and the nodes of its endpoints.
    known: BTreeMap<String, (String, Places)>,
    /// Whether a list was complete once.
    complete: bool,
}

impl Slices {
    /// Takes a change over. Returns whether nodes of services may have changed.
    pub fn apply(&mut self, event: Event<EndpointSlice>) -> bool {
        match event {
            Event::Listed(list) => {
                // What cannot be read is as it was.
                let kept: BTreeSet<String> = list
                    .unreadable
                    .iter()
                    .map(|slice| format!("{}/{}", slice.namespace, slice.name))
                    .collect();
                self.known.retain(|key, _| kept.contains(key));
                let listed = list.objects.iter();
                self.known
                    .extend(listed.map(|slice| (key(slice), entry(slice))));
                self.complete = true;
                true
            }
            Event::Applied(slice) => {
                let entry = entry(&slice);
                self.known.insert(key(&slice), entry.clone()) != Some(entry)
            }
            Event::Deleted(slice) => self.known.remove(&key(&slice)).is_some(),
            Event::Unreadable(_) | Event::Failed(_) => false,
        }
    }

    /// Returns the nodes of a service's endpoints; `None` if they are not known yet.
    fn places(&self, service: &str) -> Option<Places> {
        self.complete.then_some(())?;
        let mut all = Places::default();
        for (_, places) in self.known.values().filter(|(of, _)| of == service) {
            all.ready.extend(places.ready.iter().cloned());
            all.serving.extend(places.serving.iter().cloned());
        }
        Some(all)
    }

    /// Returns the node that packets for a service are sent to. `local` is whether only nodes with
    /// its pods serve it, `now` the node so far, which is kept as long as it serves.
    pub fn via(
        &self,
        gateways: &[Gateway],
        service: &str,
        local: bool,
        now: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let places = local.then(|| self.places(service)).flatten();
        choose(gateways, places.as_ref(), now)
    }
}

/// Whether only nodes with pods of the service serve it from outside.
pub(super) fn is_local(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let policy = spec.and_then(|spec| spec.external_traffic_policy.as_deref());
    policy == Some("Local")
}

fn key(slice: &EndpointSlice) -> String {
    let namespace = slice.namespace().unwrap_or_default();
    format!("{namespace}/{}", slice.name_any())
}

fn entry(slice: &EndpointSlice) -> (String, Places) {
    let service = slice.labels().get(SERVICE).cloned().unwrap_or_default();
    let mut places = Places::default();
    for endpoint in slice.endpoints.iter().flatten() {
        let Some(node) = &endpoint.node_name else {
            continue;
        };
        let conditions = endpoint.conditions.as_ref();
        // Conditions that are not set count as true.
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        if ready {
            places.ready.insert(node.clone());
        } else if serving {
            places.serving.insert(node.clone());
        }
    }
    let namespace = slice.namespace().unwrap_or_default();
    (format!("{namespace}/{service}"), places)
}

/// Chooses one of the running nodes. Without any, it is the node so far, or the first one.
fn choose(
    gateways: &[Gateway],
    places: Option<&Places>,
    now: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let up = || gateways.iter().filter(|gateway| gateway.up);
    let of = |names: &BTreeSet<String>| -> Vec<Ipv4Addr> {
        let named = up().filter(|gateway| names.contains(&gateway.name));
        named.map(|gateway| gateway.ip).collect()
    };
    let mut able = match places {
        // Service proxies use serving endpoints if none is ready (KEP-1669).
        Some(places) => match of(&places.ready) {
            ready if ready.is_empty() => of(&places.serving),
            ready => ready,
        },
        None => Vec::new(),
    };
    if able.is_empty() {
        able = up().map(|gateway| gateway.ip).collect();
    }
    match now {
        Some(now) if able.is_empty() || able.contains(&now) => Some(now),
        _ => able
            .first()
            .copied()
            .or_else(|| gateways.first().map(|gateway| gateway.ip)),
    }
}

#[cfg(test)]
mod tests {
    use rkube_client::reflector::{Listed, Unreadable};
    use serde_json::json;

    use super::*;

    const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 58, 2);
    const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 58, 3);
    const THIRD: Ipv4Addr = Ipv4Addr::new(192, 168, 58, 4);

    fn gateways(up: [bool; 3]) -> Vec<Gateway> {
        let nodes = [("a", FIRST), ("b", SECOND), ("c", THIRD)];
        let gateway = |((name, ip), up): ((&str, Ipv4Addr), bool)| Gateway {
            name: name.to_owned(),
            ip,
            up,
        };
        nodes.into_iter().zip(up).map(gateway).collect()
    }

    fn slice(name: &str, endpoints: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "labels": {SERVICE: "web"}},
            "addressType": "IPv4",
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn list(slices: impl IntoIterator<Item = EndpointSlice>) -> Event<EndpointSlice> {
        Event::Listed(Listed::new(slices.into_iter().collect(), 1))
    }

    fn listed(slices: impl IntoIterator<Item = EndpointSlice>) -> Slices {
        let mut all = Slices::default();
        assert!(all.apply(list(slices)));
        all
    }

    #[test]
    fn local_services_are_sent_to_nodes_with_ready_pods() {
        let two = json!([
            {"addresses": ["10.0.0.1"], "nodeName": "b", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.2"], "nodeName": "c"},
        ]);
        let mut slices = listed([slice("web-1", two)]);
        let all = gateways([true; 3]);
        assert_eq!(slices.via(&all, "n/web", true, None), Some(THIRD));
        assert_eq!(slices.via(&all, "n/web", true, Some(FIRST)), Some(THIRD));
        assert_eq!(slices.via(&all, "n/web", false, None), Some(FIRST));
        // A node that is stopped serves nothing, whatever its endpoints say.
        let stopped = gateways([true, true, false]);
        assert_eq!(
            slices.via(&stopped, "n/web", true, Some(THIRD)),
            Some(SECOND)
        );
        // Without any pod, every node refuses.
        assert_eq!(slices.via(&all, "n/other", true, None), Some(FIRST));
        let moved =
            json!([{"addresses": ["10.0.0.3"], "nodeName": "b", "conditions": {"ready": true}}]);
        assert!(slices.apply(Event::Applied(slice("web-2", moved.clone()))));
        assert!(!slices.apply(Event::Applied(slice("web-2", moved.clone()))));
        // The node so far still serves.
        assert_eq!(slices.via(&all, "n/web", true, Some(THIRD)), Some(THIRD));
        assert!(slices.apply(Event::Deleted(slice("web-1", moved))));
        assert_eq!(slices.via(&all, "n/web", true, Some(THIRD)), Some(SECOND));
    }

    #[test]
    fn a_complete_list_replaces_the_known_items() {
        let one = json!([{"addresses": ["10.0.0.1"], "nodeName": "b"}]);
        let mut slices = Slices::default();
        let all = gateways([true; 3]);
        assert_eq!(slices.via(&all, "n/web", true, None), Some(FIRST));
        slices = listed([slice("web-1", one)]);
        assert_eq!(slices.via(&all, "n/web", true, None), Some(SECOND));
        let mut unread = Listed::new(vec![], 2);
        unread.unreadable.push(Unreadable {
            namespace: "n".into(),
            name: "web-1".into(),
            ..Default::default()
        });
        assert!(slices.apply(Event::Listed(unread)));
        assert_eq!(slices.via(&all, "n/web", true, None), Some(SECOND));
        assert!(slices.apply(list([])));
        assert_eq!(slices.via(&all, "n/web", true, None), Some(FIRST));
    }

    #[test]
    fn a_first_node_that_is_stopped_is_passed_over() {
        let slices = Slices::default();
        let stopped = gateways([false, true, true]);
        assert_eq!(
            slices.via(&stopped, "n/web", false, Some(FIRST)),
            Some(SECOND)
        );
        let back = gateways([true; 3]);
        assert_eq!(
            slices.via(&back, "n/web", false, Some(SECOND)),
            Some(SECOND)
        );
        // While nothing runs, nothing changes.
        let none = gateways([false; 3]);
        assert_eq!(
            slices.via(&none, "n/web", false, Some(SECOND)),
            Some(SECOND)
        );
        assert_eq!(slices.via(&none, "n/web", false, None), Some(FIRST));
    }
}
