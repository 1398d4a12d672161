//! Endpoint slices: the addresses behind a service, at most 100 per slice.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{
    HEADLESS, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, addresses, enqueue_services, hostname,
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
/// Maximum number of endpoints per slice.
const CAPACITY: usize = 100;
/// Number of services processed concurrently.
const CONCURRENCY: usize = 5;
/// Node label with the zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Ports of an endpoint, in the service's order.
pub type Ports = Vec<EndpointPort>;

/// The desired endpoints of one address family, grouped by ports.
///
/// A list instead of a map, since [`EndpointPort`] is neither `Ord` nor `Hash`.
#[derive(Debug, Default)]
pub struct Desired {
    groups: Vec<(Ports, Vec<Endpoint>)>,
}

impl Desired {
    /// Adds an endpoint with these ports.
    pub fn add(&mut self, ports: Ports, endpoint: Endpoint) {
        match self.groups.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => self.groups.push((ports, vec![endpoint])),
        }
    }
}

/// Properties shared by all slices of one owner.
pub struct Frame {
    /// The slices' owner.
    pub owner: OwnerReference,
    /// Prefix of their names.
    pub name: String,
    /// Their namespace.
    pub namespace: String,
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// Their annotations, set whenever a slice is written.
    pub annotations: BTreeMap<String, String>,
}

/// The slices to write.
#[derive(Debug, Default)]
pub struct Changes {
    /// Slices to create.
    pub create: Vec<EndpointSlice>,
    /// Slices to update.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
}

fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), uid)
}

/// Computes the changes that turn the `present` slices of one address family into the `desired`
/// ones with few writes.
///
/// Endpoints stay in their slice. New ones fill up slices that change anyway, then other slices,
/// then new ones.
pub fn reconcile(
    frame: &Frame,
    family: &str,
    desired: Desired,
    present: &[Arc<EndpointSlice>],
) -> Changes {
    let mut changes = Changes::default();
    let blank = |ports: Ports| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", frame.name)),
            namespace: Some(frame.namespace.clone()),
            labels: Some(frame.labels.clone()),
            annotations: Some(frame.annotations.clone())
                .filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![frame.owner.clone()]),
            ..Default::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    };
    let mut rest: Vec<&Arc<EndpointSlice>> = present.iter().collect();
    let empty = desired.groups.is_empty();
    for (ports, endpoints) in desired.groups {
        let mut missing: Vec<Endpoint> = endpoints;
        let mut slices: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>, bool)> = Vec::new();
        rest.retain(|slice| {
            if slice.ports.clone().unwrap_or_default() != ports {
                return true;
            }
            let mut kept = Vec::new();
            let mut changed = slice.metadata.labels.as_ref() != Some(&frame.labels);
            for old in slice.endpoints.iter().flatten() {
                match missing
                    .iter()
                    .position(|new| identity(new) == identity(old))
                {
                    Some(index) => {
                        let new = missing.swap_remove(index);
                        changed |= new != *old;
                        kept.push(new);
                    }
                    None => changed = true,
                }
            }
            slices.push((slice, kept, changed));
            false
        });
        // Sorting is not required for correctness, but makes writes reproducible.
        missing.sort_by_key(identity);
        slices.sort_by_key(|(_, kept, changed)| (!changed, std::cmp::Reverse(kept.len())));
        for (_, kept, changed) in &mut slices {
            let room = CAPACITY.saturating_sub(kept.len()).min(missing.len());
            if room > 0 {
                kept.extend(missing.drain(..room));
                *changed = true;
            }
        }
        for (slice, kept, changed) in slices {
            if kept.is_empty() {
                changes.delete.push(slice.clone());
            } else if changed {
                let mut updated = EndpointSlice::clone(slice);
                updated.endpoints = Some(kept);
                updated.metadata.labels = Some(frame.labels.clone());
                if !frame.annotations.is_empty() {
                    let annotations = updated.metadata.annotations.get_or_insert_default();
                    annotations.extend(frame.annotations.clone());
                }
                changes.update.push(updated);
            }
        }
        while !missing.is_empty() {
            let mut slice = blank(ports.clone());
            let count = CAPACITY.min(missing.len());
            slice.endpoints = Some(missing.drain(..count).collect());
            changes.create.push(slice);
        }
    }
    // A service without endpoints keeps one empty slice, so that consumers can distinguish "none"
    // from "not yet known".
    if empty {
        let is_blank = |slice: &&Arc<EndpointSlice>| {
            slice.ports.as_ref().is_none_or(Vec::is_empty)
                && slice.endpoints.as_ref().is_none_or(Vec::is_empty)
                && slice.metadata.labels.as_ref() == Some(&frame.labels)
        };
        match rest.iter().position(is_blank) {
            Some(index) => {
                rest.remove(index);
            }
            None => match rest.pop() {
                Some(slice) => {
                    let mut updated = EndpointSlice::clone(slice);
                    updated.endpoints = Some(Vec::new());
                    updated.ports = Some(Vec::new());
                    updated.metadata.labels = Some(frame.labels.clone());
                    changes.update.push(updated);
                }
                None => changes.create.push(blank(Vec::new())),
            },
        }
    }
    changes.delete.extend(rest.into_iter().cloned());
    changes
}

/// Writes the changes to the API server.
pub async fn apply(ctx: &Context, changes: Changes) -> Result<()> {
    let store = &ctx.informers.endpoint_slices;
    for slice in &changes.create {
        match ctx.create(store, slice).await {
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            other => other.map(drop)?,
        }
    }
    for slice in &changes.update {
        ctx.update(store, slice).await?;
    }
    for slice in &changes.delete {
        optional(
            ctx.delete(store, &slice.metadata, &Deletion::default())
                .await,
        )?;
    }
    Ok(())
}

/// Returns the labels of a service's slices: the service's labels and the controller's own.
pub fn labels(
    of: Option<&label_selector::Labels>,
    service: &str,
    manager: &str,
    headless: bool,
) -> label_selector::Labels {
    let mut labels = of.cloned().unwrap_or_default();
    labels.retain(|key, _| key != HEADLESS && key != SERVICE_NAME && key != MANAGED_BY);
    labels.insert(SERVICE_NAME.into(), service.to_owned());
    labels.insert(MANAGED_BY.into(), manager.to_owned());
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

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

/// Returns the time of the last change that triggered an update: the latest of the service's
/// creation and the pods' readiness changes.
fn trigger_time(service: &Service, selected: &[Arc<Pod>]) -> Option<Timestamp> {
    let pods = selected.iter().filter_map(|pod| {
        let ready = pods::condition(pod, "Ready")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    });
    let made = service
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    pods.chain(made).max()
}

/// The controller of endpoint slices.
pub struct SliceController {
    ctx: Context,
    queue: Queue<Key>,
}

impl SliceController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for SliceController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn workers(&self) -> usize {
        CONCURRENCY
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let services = informers.services.clone();
        watches
            .objects(&informers.services)
            .on(&informers.pods, move |change, queue| {
                enqueue_services(queue, &services, change);
            })
            // Another client changed or deleted one of this controller's slices.
            .on(&informers.endpoint_slices, |change, queue| {
                enqueue_service_of(queue, change, MANAGER);
            });
        let (services, pods) = (informers.services.clone(), informers.pods.clone());
        // A node's zone is part of its pods' endpoints, and unknown until the node is observed.
        watches.on(&informers.nodes, move |change, queue| {
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
        sync(&self.ctx, key).await
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

async fn sync(ctx: &Context, key: Key) -> Result<()> {
    let Some(service) = ctx.informers.services.by_key(&key) else {
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
        annotations: trigger_time(&service, &selected)
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
