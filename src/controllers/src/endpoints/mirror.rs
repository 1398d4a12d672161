//! Mirrors user-managed endpoints of services without a selector into endpoint slices, which
//! proxies read.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use kube::Resource;

use super::packing::{Desired, Frame, apply, labels, reconcile};
use super::slices;
use super::{MANAGED_BY, TRIGGER_TIME};
use crate::common::owners;
use crate::context::{Context, Deletion, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::Key;
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

const NAME: &str = "endpointslice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label that excludes endpoints from mirroring.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation on endpoints used as leader election locks.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are not copied to slices.
const NOT_COPIED: &[&str] = &[
    TRIGGER_TIME,
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// Maximum number of mirrored addresses per subset.
const MAX_ADDRESSES: usize = 1000;

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let labels = label_selector::labels_or_empty(endpoints.metadata.labels.as_ref());
    let annotations = label_selector::labels_or_empty(endpoints.metadata.annotations.as_ref());
    labels.get(SKIP).is_none_or(|skip| skip != "true") && !annotations.contains_key(LEADER)
}

fn lacks_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.selector
            .as_ref()
            .is_none_or(std::collections::BTreeMap::is_empty)
    })
}

/// Returns the endpoints of one address family that slices must contain.
pub fn desired(endpoints: &Endpoints, family: &str) -> Desired {
    let mut desired = Desired::default();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset
            .addresses
            .iter()
            .flatten()
            .map(|address| (address, true));
        let others = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        for (address, ready) in ready.chain(others).take(MAX_ADDRESSES) {
            if (family == "IPv6") == address.ip.contains(':') {
                desired.add(ports.clone(), mirrored(address, ready));
            }
        }
    }
    desired
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..Default::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

/// The controller that mirrors user-managed endpoints.
pub struct MirrorController {
    ctx: Context,
    queue: Queue<Key>,
}

impl MirrorController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for MirrorController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches
            .objects(&informers.endpoints)
            .objects(&informers.services)
            .watches(&informers.endpoint_slices, |change, queue| {
                slices::enqueue_service_of(queue, change, MANAGER);
            });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, key).await
    }
}

async fn sync(ctx: &Context, key: Key) -> Result<()> {
    let store = &ctx.informers.endpoint_slices;
    let mut present = store.indexed(&key.to_string());
    present.retain(|slice| {
        let labels = label_selector::labels_or_empty(slice.metadata.labels.as_ref());
        labels
            .get(MANAGED_BY)
            .is_some_and(|manager| manager == MANAGER)
    });
    let service = ctx
        .informers
        .services
        .by_key(&key)
        .filter(|service| lacks_selector(service));
    let endpoints = ctx
        .informers
        .endpoints
        .by_key(&key)
        .filter(|endpoints| is_mirrored(endpoints));
    let (Some(_), Some(endpoints)) = (service, endpoints) else {
        for slice in present {
            optional(
                ctx.delete(store, &slice.metadata, &Deletion::default())
                    .await,
            )?;
        }
        return Ok(());
    };
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let mut owner = owners::control_by(&*endpoints);
    owner.api_version = Endpoints::api_version(&()).into_owned();
    let frame = Frame {
        owner,
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        labels: labels(
            endpoints.metadata.labels.as_ref(),
            &key.name,
            MANAGER,
            false,
        ),
        annotations,
    };
    for family in ["IPv4", "IPv6"] {
        let desired = desired(&endpoints, family);
        let of_family: Vec<_> = present
            .iter()
            .filter(|slice| slice.address_type == family)
            .cloned()
            .collect();
        let mut changes = reconcile(&frame, family, desired, &of_family);
        // Unlike for services with a selector, no empty slice is kept.
        changes.create.retain(|slice| {
            slice
                .endpoints
                .as_ref()
                .is_some_and(|endpoints| !endpoints.is_empty())
        });
        let emptied = |slice: &k8s_openapi::api::discovery::v1::EndpointSlice| {
            slice.endpoints.as_ref().is_none_or(Vec::is_empty)
        };
        let (gone, update): (Vec<_>, Vec<_>) = changes.update.into_iter().partition(emptied);
        changes.update = update;
        changes.delete.extend(gone.into_iter().map(Arc::new));
        apply(ctx, changes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::EndpointSubset;

    #[test]
    fn addresses_are_mirrored_by_family() {
        let address = |ip: &str| EndpointAddress {
            ip: ip.into(),
            ..Default::default()
        };
        let endpoints = Endpoints {
            subsets: Some(vec![EndpointSubset {
                addresses: Some(vec![address("10.0.0.1"), address("fd00::1")]),
                not_ready_addresses: Some(vec![address("10.0.0.2")]),
                ports: None,
            }]),
            ..Default::default()
        };
        let frame = Frame {
            owner: Default::default(),
            name: "x".into(),
            namespace: "ns".into(),
            labels: Default::default(),
            annotations: Default::default(),
        };
        let changes = reconcile(&frame, "IPv4", desired(&endpoints, "IPv4"), &[]);
        assert_eq!(changes.create[0].endpoints.as_ref().unwrap().len(), 2);
        assert!(is_mirrored(&endpoints));
    }
}
