//! Endpoint slices: the addresses behind a service.

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};

use super::packing::{Desired, Frame, Ports, apply, labels, reconcile};
use super::{
    MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, Triggers, addresses, enqueue_services, hostname,
    is_candidate, is_headless, selector_of, target, target_port,
};
use crate::common::{owners, pods};
use crate::context::{Context, Deletion, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::{Change, Key};
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

const NAME: &str = "endpointslice-controller";
/// Value of [`MANAGED_BY`] for this controller's slices.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Node label with the zone.
const ZONE: &str = "topology.kubernetes.io/zone";

fn ports_for(pod: &Pod, service: &Service) -> Ports {
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                port: Some(target_port(pod, port)?),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn zone(node: Option<&Node>) -> Option<String> {
    node?.metadata.labels.as_ref()?.get(ZONE).cloned()
}

/// Returns the endpoint for a pod of the service.
pub fn endpoint(pod: &Pod, node: Option<&Node>, service: &Service, address: &str) -> Endpoint {
    let spec = service.spec.as_ref();
    let early = spec
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let (serving, terminating) = (pods::is_ready(pod), pods::is_deleting(pod));
    let ready = early || (serving && !terminating);
    let node_name = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    let zone = zone(node);
    let hints = match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") if ready => zone.clone().map(|name| EndpointHints {
            for_zones: Some(vec![ForZone { name }]),
            for_nodes: None,
        }),
        Some("PreferSameNode") if ready => node_name.clone().map(|name| EndpointHints {
            for_zones: zone.clone().map(|name| vec![ForZone { name }]),
            for_nodes: Some(vec![ForNode { name }]),
        }),
        _ => None,
    };
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service),
        node_name,
        target_ref: Some(target(pod)),
        zone,
        hints,
        deprecated_topology: None,
    }
}

/// Returns the address families of a service, IPv4 by default.
fn families(service: &Service) -> Vec<String> {
    let families = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone());
    families
        .filter(|families| !families.is_empty())
        .unwrap_or_else(|| vec!["IPv4".into()])
}

/// The controller of endpoint slices.
pub struct SliceController {
    ctx: Context,
    queue: Queue<Key>,
    triggers: Triggers,
}

impl SliceController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            triggers: Triggers::default(),
        }
    }
}

impl Controller for SliceController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let services = informers.services.clone();
        watches
            .objects(&informers.services)
            .watches(&informers.pods, move |change, queue| {
                enqueue_services(queue, &services, change);
            })
            // Another client changed or deleted one of this controller's slices.
            .watches(&informers.endpoint_slices, |change, queue| {
                enqueue_service_of(queue, change, MANAGER);
            });
        let (services, pods) = (informers.services.clone(), informers.pods.clone());
        // A node's zone is part of its pods' endpoints, and unknown until the node is observed.
        watches.watches(&informers.nodes, move |change, queue| {
            let known = change.old().map(|node| zone(Some(node)));
            if known == Some(zone(Some(change.object()))) || change.is_deletion() {
                return;
            }
            let name = change.object().metadata.name.as_deref().unwrap_or_default();
            for pod in pods.indexed(name) {
                enqueue_services(queue, &services, &Change::Added(pod));
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, &self.triggers, key).await
    }
}

/// Queues the service of a slice that `manager` manages and that was updated or deleted.
pub fn enqueue_service_of(queue: &Queue<Key>, change: &Change<EndpointSlice>, manager: &str) {
    let slice = change.object();
    let labels = label_selector::labels_or_empty(slice.metadata.labels.as_ref());
    if !matches!(change, Change::Added(_))
        && labels.get(MANAGED_BY).is_some_and(|by| by == manager)
        && let Some(service) = labels.get(SERVICE_NAME)
    {
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        queue.add(Key::new(namespace, service.clone()));
    }
}

async fn sync(ctx: &Context, triggers: &Triggers, key: Key) -> Result<()> {
    let Some(service) = ctx.informers.services.by_key(&key) else {
        triggers.forget(&key);
        return Ok(()); // the garbage collector deletes the slices
    };
    if service.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let Some(wanted) = selector_of(&service) else {
        return Ok(());
    };
    let mut selected = ctx.informers.pods.in_namespace(&key.namespace);
    selected.retain(|pod| {
        label_selector::contains(
            label_selector::labels_or_empty(pod.metadata.labels.as_ref()),
            wanted,
        )
    });
    let mut present = ctx.informers.endpoint_slices.indexed(&key.to_string());
    present.retain(|slice| {
        let labels = label_selector::labels_or_empty(slice.metadata.labels.as_ref());
        slice.metadata.deletion_timestamp.is_none()
            && labels
                .get(MANAGED_BY)
                .is_some_and(|manager| manager == MANAGER)
    });
    let early = service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let frame = Frame {
        owner: owners::control_by(&*service),
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        labels: labels(
            service.metadata.labels.as_ref(),
            &key.name,
            MANAGER,
            is_headless(&service),
        ),
        annotations: triggers
            .next(&service, &selected)
            .map(|time| (TRIGGER_TIME.to_owned(), time.to_string()))
            .into_iter()
            .collect(),
    };
    let families = families(&service);
    let mut homeless = None;
    for family in &families {
        let mut desired = Desired::default();
        for pod in selected.iter().filter(|pod| is_candidate(pod, true)) {
            let node = ctx.informers.nodes.get("", pods::node_name(pod));
            if node.is_none() && !early {
                homeless = Some(pods::node_name(pod).to_owned());
                continue;
            }
            let fits = |ip: &&str| (family == "IPv6") == ip.contains(':');
            if let Some(address) = addresses(pod).into_iter().find(fits) {
                desired.add(
                    ports_for(pod, &service),
                    endpoint(pod, node.as_deref(), &service, address),
                );
            }
        }
        let of_family: Vec<_> = present
            .iter()
            .filter(|slice| slice.address_type == *family)
            .cloned()
            .collect();
        apply(ctx, reconcile(&frame, family, desired, &of_family)).await?;
    }
    for slice in present
        .iter()
        .filter(|slice| !families.contains(&slice.address_type))
    {
        optional(
            ctx.delete(
                &ctx.informers.endpoint_slices,
                &slice.metadata,
                &Deletion::default(),
            )
            .await,
        )?;
    }
    match homeless {
        Some(node) => Err(Error::other(format!(
            "a pod of the service is on node {node:?}, which is not known"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
pub mod testing {
    //! Services and their pods for tests.

    use super::*;
    use crate::common::pods::testing::pod;
    use k8s_openapi::api::core::v1::{Container, ContainerPort, PodIP, ServicePort, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    /// Returns a service `ns/svc` with ports given as name, number and target port name.
    pub fn service(ports: &[(&str, i32, &str)]) -> Service {
        Service {
            metadata: ObjectMeta {
                name: Some("svc".into()),
                namespace: Some("ns".into()),
                uid: Some("svc".into()),
                ..Default::default()
            },
            spec: Some(ServiceSpec {
                ports: Some(
                    ports
                        .iter()
                        .map(|(name, port, target)| ServicePort {
                            name: Some((*name).into()),
                            port: *port,
                            target_port: Some(IntOrString::String((*target).into())),
                            ..Default::default()
                        })
                        .collect(),
                ),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Returns a running pod with this address and a container port `web` with number `port`.
    pub fn endpoint_pod(name: &str, ip: &str, port: i32, ready: Option<i64>) -> Pod {
        let mut pod = pod(name, "n", "Running", ready);
        pod.spec.as_mut().unwrap().containers = vec![Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: port,
                ..Default::default()
            }]),
            ..Default::default()
        }];
        pod.status.as_mut().unwrap().pod_ips = Some(vec![PodIP { ip: ip.into() }]);
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{endpoint_pod, service};
    use super::*;
    use std::sync::Arc;

    use crate::endpoints::packing::Changes;
    use std::collections::BTreeMap;

    fn frame() -> Frame {
        let service = service(&[("http", 80, "web")]);
        Frame {
            owner: owners::control_by(&service),
            name: "svc".into(),
            namespace: "ns".into(),
            labels: labels(None, "svc", MANAGER, false),
            annotations: BTreeMap::new(),
        }
    }

    fn desired(range: std::ops::Range<usize>) -> Desired {
        let service = service(&[("http", 80, "web")]);
        let mut desired = Desired::default();
        for i in range {
            let pod = endpoint_pod(
                &format!("p{i}"),
                &format!("10.0.{}.{}", i / 250, i % 250),
                8080,
                Some(1),
            );
            let address = addresses(&pod)[0].to_owned();
            desired.add(
                ports_for(&pod, &service),
                endpoint(&pod, None, &service, &address),
            );
        }
        desired
    }

    fn made(changes: &Changes) -> Vec<Arc<EndpointSlice>> {
        let named = changes.create.iter().enumerate().map(|(i, slice)| {
            let mut slice = slice.clone();
            slice.metadata.name = Some(format!("svc-{i}"));
            Arc::new(slice)
        });
        named.collect()
    }

    #[test]
    fn slices_are_filled_and_kept() {
        let first = reconcile(&frame(), "IPv4", desired(0..150), &[]);
        let sizes: Vec<_> = first
            .create
            .iter()
            .map(|s| s.endpoints.as_ref().unwrap().len())
            .collect();
        assert_eq!(sizes, [100, 50]);
        let present = made(&first);
        let again = reconcile(&frame(), "IPv4", desired(0..150), &present);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let more = reconcile(&frame(), "IPv4", desired(0..151), &present);
        assert_eq!((more.create.len(), more.update.len()), (0, 1));
        assert_eq!(more.update[0].endpoints.as_ref().unwrap().len(), 51);
    }

    #[test]
    fn no_endpoints_leave_one_empty_slice() {
        let first = reconcile(&frame(), "IPv4", Desired::default(), &[]);
        assert_eq!(first.create.len(), 1);
        let present = made(&first);
        let again = reconcile(&frame(), "IPv4", Desired::default(), &present);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let filled = reconcile(&frame(), "IPv4", desired(0..1), &present);
        assert_eq!((filled.create.len(), filled.delete.len()), (1, 1));
        let emptied = reconcile(&frame(), "IPv4", Desired::default(), &made(&filled));
        assert_eq!((emptied.update.len(), emptied.create.len()), (1, 0));
    }

    #[test]
    fn conditions_of_an_endpoint() {
        let mut service = service(&[("http", 80, "web")]);
        let mut pod = endpoint_pod("a", "10.0.0.1", 8080, Some(1));
        pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
        let conditions = endpoint(&pod, None, &service, "10.0.0.1")
            .conditions
            .unwrap();
        assert_eq!(conditions.ready, Some(false));
        assert_eq!(conditions.serving, Some(true));
        assert_eq!(conditions.terminating, Some(true));
        service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
        let conditions = endpoint(&pod, None, &service, "10.0.0.1")
            .conditions
            .unwrap();
        assert_eq!(conditions.ready, Some(true));
    }
}
