//! Binds claims to volumes, provisions volumes for claims and reclaims released volumes.

mod bind;
mod claim;
mod volume;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{annotation, claims_of};
use crate::common::pods;
use crate::context::{Context, Result};
use crate::controller::{Controller, Watches};
use crate::informers::{Change, Key, Store};
use crate::queue::Queue;

const NAME: &str = "persistentvolume-controller";
/// Annotation on a claim whose binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// An item that the binder processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A claim.
    Claim(Key),
    /// The volume of this name.
    Volume(String),
}

/// The controller of persistent volumes and claims.
pub struct Binder {
    ctx: Context,
    queue: Queue<Item>,
    /// Has nodes delete the data of volumes.
    nodes: kube::Client,
}

impl Binder {
    /// Returns the controller. `nodes` has the right to use the proxy of nodes.
    pub fn new(ctx: &Context, nodes: kube::Client) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            nodes,
        }
    }
}

impl Controller for Binder {
    type Item = Item;

    fn name(&self) -> &'static str {
        NAME
    }

    fn workers(&self) -> usize {
        1 // so that no volume is bound to two claims
    }

    fn queue(&self) -> &Queue<Item> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Item>) {
        let informers = &self.ctx.informers;
        let claims = informers.claims.clone();
        watches
            .watches(&informers.claims, |change, queue| {
                let claim = change.object();
                queue.add(Item::Claim(Key::of(&claim.metadata)));
                let volume = claim
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.volume_name.clone());
                if let Some(volume) = volume {
                    queue.add(Item::Volume(volume));
                }
            })
            .watches(&informers.volumes, move |change, queue| {
                enqueue_volume(queue, &claims, change.object());
            });
        let claims = informers.claims.clone();
        watches
            .watches(&informers.storage_classes, move |_, queue| {
                enqueue_unbound(queue, &claims);
            })
            .watches(&informers.pods, enqueue_first_consumer)
            .reads(&informers.nodes);
    }

    async fn reconcile(&self, item: Item) -> Result<()> {
        match item {
            Item::Claim(key) => self.sync_claim(key).await,
            Item::Volume(name) => self.sync_volume(&name).await,
        }
    }
}

fn enqueue_volume(
    queue: &Queue<Item>,
    claims: &Store<PersistentVolumeClaim>,
    volume: &PersistentVolume,
) {
    queue.add(Item::Volume(
        volume.metadata.name.clone().unwrap_or_default(),
    ));
    let spec = volume.spec.as_ref();
    match spec.and_then(|spec| spec.claim_ref.as_ref()) {
        Some(claim) => {
            let namespace = claim.namespace.clone().unwrap_or_default();
            let name = claim.name.clone().unwrap_or_default();
            queue.add(Item::Claim(Key::new(namespace, name)));
        }
        // A free volume: claims may be waiting for it.
        None => enqueue_unbound(queue, claims),
    }
}

fn enqueue_unbound(queue: &Queue<Item>, claims: &Store<PersistentVolumeClaim>) {
    for claim in claims.list().iter().filter(|claim| !is_bound(claim)) {
        queue.add(Item::Claim(Key::of(&claim.metadata)));
    }
}

/// Queues the claims of a pod that has got a node. It is a first consumer, even if the scheduler did
/// not place it.
fn enqueue_first_consumer(change: &Change<Pod>, queue: &Queue<Item>) {
    let pod = change.object();
    let placed = !pods::node_name(pod).is_empty()
        && change
            .old()
            .is_none_or(|old| pods::node_name(old).is_empty());
    if !placed || change.is_deletion() {
        return;
    }
    for claim in claims_of(pod) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        queue.add(Item::Claim(Key::new(namespace, claim)));
    }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    annotation(claim, BIND_COMPLETED).is_some()
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    let status = claim.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}
