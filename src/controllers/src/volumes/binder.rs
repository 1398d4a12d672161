//! Binds claims to volumes, provisions volumes for claims and reclaims released volumes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use super::reclaim::delete_data;
use super::{annotation, claims_of, matching, provisioner};
use crate::common::pods;
use crate::context::{Context, Deletion, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::informers::{Change, Key, Store};
use crate::nodes::taints;
use crate::queue::Queue;

const NAME: &str = "persistentvolume-controller";
/// Annotation on a claim whose binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation on objects bound by this controller rather than by a user.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation with the node that the scheduler chose for the first consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotations with the provisioner for which a claim waits.
const STORAGE_PROVISIONER: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];

/// What the binder processes.
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
            .on(&informers.claims, |change, queue| {
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
            .on(&informers.volumes, move |change, queue| {
                enqueue_volume(queue, &claims, change.object());
            });
        let claims = informers.claims.clone();
        watches
            .on(&informers.storage_classes, move |_, queue| {
                enqueue_unbound(queue, &claims);
            })
            .on(&informers.pods, enqueue_first_consumer)
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

impl Binder {
    async fn sync_claim(&self, key: Key) -> Result<()> {
        let informers = &self.ctx.informers;
        let Some(claim) = informers.claims.by_key(&key) else {
            return Ok(());
        };
        if is_bound(&claim) {
            return self.check_bound(&claim).await;
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if let Some(name) = volume_of(&claim) {
            // The user has chosen the volume.
            let Some(volume) = informers.volumes.get("", name) else {
                return self.set_pending(&claim).await;
            };
            let free = volume
                .spec
                .as_ref()
                .is_some_and(|spec| spec.claim_ref.is_none());
            if free && let Some(why) = matching::mismatch(&volume, &claim) {
                let text = format!("Cannot bind to requested volume {name:?}: {why}");
                self.ctx
                    .recorder
                    .event(NAME, &*claim, Warning, "VolumeMismatch", text);
                return self.set_pending(&claim).await;
            }
            if free || matching::is_reserved_for(&volume, &claim) {
                return self.bind(&claim, &volume).await;
            }
            return self.set_pending(&claim).await;
        }
        let Some(claim) = self.with_class(claim).await? else {
            return Ok(());
        };
        let class = matching::class_of(&claim)
            .filter(|class| !class.is_empty())
            .and_then(|class| informers.storage_classes.get("", class));
        let node = self.consumer(&claim);
        let delayed = class
            .as_ref()
            .is_some_and(|class| waits_for_consumer(class));
        let volumes = informers.volumes.list();
        if delayed && node.is_none() {
            // Without a consumer, only a volume reserved for the claim may be bound.
            let reserved = volumes
                .iter()
                .find(|volume| matching::is_reserved_for(volume, &claim));
            if let Some(volume) = reserved {
                return self.bind(&claim, volume).await;
            }
            let text = "waiting for first consumer to be created before binding";
            self.ctx
                .recorder
                .event(NAME, &*claim, Normal, "WaitForFirstConsumer", text);
            return self.set_pending(&claim).await;
        }
        if let Some(volume) = matching::choose(&claim, &volumes, node.as_deref()) {
            return self.bind(&claim, &volume).await;
        }
        match class {
            Some(class) => self.provision(&claim, &class, node).await,
            None => {
                let text = match matching::class_of(&claim).filter(|class| !class.is_empty()) {
                    Some(class) => ("ProvisioningFailed", format!("storageclass.storage.k8s.io {class:?} not found")),
                    None => (
                        "FailedBinding",
                        "no persistent volumes available for this claim and no storage class is set".to_owned(),
                    ),
                };
                let severity = if text.0 == "FailedBinding" {
                    Normal
                } else {
                    Warning
                };
                self.ctx
                    .recorder
                    .event(NAME, &*claim, severity, text.0, text.1);
                self.set_pending(&claim).await
            }
        }
    }

    /// Returns the claim with a storage class. A claim without one is updated to use the default
    /// class, if it exists.
    async fn with_class(
        &self,
        claim: Arc<PersistentVolumeClaim>,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>> {
        if matching::class_of(&claim).is_some() {
            return Ok(Some(claim));
        }
        let is_default = |class: &StorageClass| {
            let annotations = class.metadata.annotations.as_ref();
            annotations
                .and_then(|all| all.get(provisioner::DEFAULT_CLASS))
                .is_some_and(|value| value == "true")
        };
        let mut defaults = self.ctx.informers.storage_classes.list();
        defaults.retain(|class| is_default(class));
        // If there are several, use the newest.
        defaults.sort_by_key(|class| {
            class
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0)
        });
        let Some(class) = defaults.pop() else {
            return Ok(Some(claim));
        };
        let mut changed = PersistentVolumeClaim::clone(&claim);
        changed
            .spec
            .get_or_insert_default()
            .storage_class_name
            .clone_from(&class.metadata.name);
        optional(self.ctx.update(&self.ctx.informers.claims, &changed).await)
    }

    /// Returns the node of the claim's first consumer, if there is one.
    fn consumer(&self, claim: &PersistentVolumeClaim) -> Option<Arc<Node>> {
        let nodes = &self.ctx.informers.nodes;
        if let Some(selected) = annotation(claim, SELECTED_NODE) {
            return nodes.get("", selected);
        }
        let name = claim.metadata.name.as_ref()?;
        let namespace = claim.metadata.namespace.as_deref()?;
        self.ctx
            .informers
            .pods
            .in_namespace(namespace)
            .iter()
            .filter(|pod| pods::is_active(pod) && claims_of(pod).contains(name))
            .find_map(|pod| nodes.get("", pods::node_name(pod)))
    }

    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        node: Option<Arc<Node>>,
    ) -> Result<()> {
        let recorder = &self.ctx.recorder;
        let mut claim = claim.clone();
        let annotations = claim.metadata.annotations.get_or_insert_default();
        if STORAGE_PROVISIONER
            .iter()
            .any(|key| annotations.get(*key) != Some(&class.provisioner))
        {
            for key in STORAGE_PROVISIONER {
                annotations.insert(key.into(), class.provisioner.clone());
            }
            let Some(updated) =
                optional(self.ctx.update(&self.ctx.informers.claims, &claim).await)?
            else {
                return Ok(());
            };
            claim = PersistentVolumeClaim::clone(&updated);
        }
        if class.provisioner == "kubernetes.io/no-provisioner" {
            return self.set_pending(&claim).await;
        }
        if class.provisioner != provisioner::NAME {
            let text = format!(
                "Waiting for the provisioner '{}' to create a volume",
                class.provisioner
            );
            recorder.event(NAME, &claim, Normal, "ExternalProvisioning", text);
            return self.set_pending(&claim).await;
        }
        if let Some(why) = provisioner::unsupported(&claim) {
            recorder.event(NAME, &claim, Warning, "ProvisioningFailed", why);
            return self.set_pending(&claim).await;
        }
        let node = node.or_else(|| self.any_node());
        let Some(node) = node.as_ref().and_then(|node| node.metadata.name.as_deref()) else {
            recorder.event(
                NAME,
                &claim,
                Warning,
                "ProvisioningFailed",
                "no node is ready to hold the volume",
            );
            return self.set_pending(&claim).await;
        };
        let wanted = provisioner::volume(&claim, class, node, &self.ctx.config.volumes);
        let store = &self.ctx.informers.volumes;
        let volume = match self.ctx.create(store, &wanted).await {
            Ok(volume) => {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let text = format!("Successfully provisioned volume {name}");
                recorder.event(NAME, &claim, Normal, "ProvisioningSucceeded", text);
                volume
            }
            Err(error) if error.is_already_exists() => {
                store.observe(self.ctx.get("", &provisioner::volume_name(&claim)).await?)
            }
            Err(error) => {
                recorder.event(
                    NAME,
                    &claim,
                    Warning,
                    "ProvisioningFailed",
                    error.to_string(),
                );
                return Err(error);
            }
        };
        self.bind(&claim, &volume).await
    }

    /// Returns the ready node with the fewest volumes.
    fn any_node(&self) -> Option<Arc<Node>> {
        let volumes = self.ctx.informers.volumes.list();
        let holds = |node: &Node| {
            let name = node.metadata.name.clone().unwrap_or_default();
            let on_node = |volume: &&Arc<PersistentVolume>| {
                let affinity = volume
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
                let terms = affinity
                    .into_iter()
                    .flat_map(|required| &required.node_selector_terms);
                terms
                    .flat_map(|term| term.match_expressions.iter().flatten())
                    .any(|wanted| wanted.values.iter().flatten().any(|value| *value == name))
            };
            volumes.iter().filter(on_node).count()
        };
        let mut nodes = self.ctx.informers.nodes.list();
        nodes.retain(|node| {
            let unschedulable =
                node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
            taints::condition(node, "Ready") == Some("True") && !unschedulable
        });
        nodes.into_iter().min_by_key(|node| holds(node))
    }

    async fn set_pending(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        if phase(claim) == "Pending" {
            return Ok(());
        }
        let mut changed = claim.clone();
        changed.status.get_or_insert_default().phase = Some("Pending".into());
        optional(
            self.ctx
                .update_status(&self.ctx.informers.claims, &changed)
                .await,
        )
        .map(drop)
    }

    /// Binds the claim in four idempotent writes: the volume's spec and phase, then the claim's
    /// spec and phase.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<()> {
        let informers = &self.ctx.informers;
        let mut volume = volume.clone();
        let spec = volume.spec.get_or_insert_default();
        let by_controller = spec.claim_ref.is_none();
        let bound = spec
            .claim_ref
            .as_ref()
            .is_some_and(|reference| reference.uid == claim.metadata.uid);
        if !bound {
            let mut reference = claim.object_ref(&());
            reference.field_path = None;
            spec.claim_ref = Some(reference);
            if by_controller {
                let annotations = volume.metadata.annotations.get_or_insert_default();
                annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
            }
            let updated = self.ctx.update(&informers.volumes, &volume).await?;
            volume = PersistentVolume::clone(&updated);
        }
        self.set_volume_phase(&volume, "Bound", None).await?;
        let mut claim = claim.clone();
        let name = volume.metadata.name.clone();
        let spec = claim.spec.get_or_insert_default();
        let chosen_here = spec.volume_name.as_ref().is_none_or(String::is_empty);
        spec.volume_name = name;
        let annotations = claim.metadata.annotations.get_or_insert_default();
        annotations.insert(BIND_COMPLETED.into(), "yes".into());
        if chosen_here {
            annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        }
        let Some(updated) = optional(self.ctx.update(&informers.claims, &claim).await)? else {
            return Ok(());
        };
        self.set_bound(&updated, &volume).await
    }

    async fn set_bound(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<()> {
        let mut changed = claim.clone();
        let spec = volume.spec.clone().unwrap_or_default();
        let status = changed.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Bound") {
            status.capacity = spec.capacity; // later changes are left to the resizer
        }
        status.phase = Some("Bound".into());
        status.access_modes = spec.access_modes;
        if changed.status == claim.status {
            return Ok(());
        }
        optional(
            self.ctx
                .update_status(&self.ctx.informers.claims, &changed)
                .await,
        )
        .map(drop)
    }

    async fn check_bound(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        let volume = volume_of(claim).and_then(|name| self.ctx.informers.volumes.get("", name));
        let reason = match &volume {
            Some(volume) => match volume
                .spec
                .as_ref()
                .and_then(|spec| spec.claim_ref.as_ref())
            {
                None => return self.bind(claim, volume).await,
                Some(reference) if reference.uid == claim.metadata.uid => {
                    return self.set_bound(claim, volume).await;
                }
                Some(_) => ("ClaimMisbound", "The volume belongs to another claim"),
            },
            None => (
                "ClaimLost",
                "The volume of this bound claim is gone, and its data with it",
            ),
        };
        if phase(claim) == "Lost" {
            return Ok(());
        }
        let mut changed = claim.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some("Lost".into());
        status.capacity = None;
        status.access_modes = None;
        self.ctx
            .recorder
            .event(NAME, claim, Warning, reason.0, reason.1);
        optional(
            self.ctx
                .update_status(&self.ctx.informers.claims, &changed)
                .await,
        )
        .map(drop)
    }

    async fn set_volume_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<()> {
        let present = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if present == Some(phase) {
            return Ok(());
        }
        let mut changed = volume.clone();
        changed.status = Some(PersistentVolumeStatus {
            phase: Some(phase.into()),
            message: message.map(str::to_owned),
            last_phase_transition_time: Some(Time(self.ctx.now())),
            reason: None,
        });
        optional(
            self.ctx
                .update_status(&self.ctx.informers.volumes, &changed)
                .await,
        )
        .map(drop)
    }

    async fn sync_volume(&self, name: &str) -> Result<()> {
        let informers = &self.ctx.informers;
        let Some(volume) = informers.volumes.get("", name) else {
            return Ok(());
        };
        let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone()) else {
            return self.set_volume_phase(&volume, "Available", None).await;
        };
        let uid = reference.uid.clone().filter(|uid| !uid.is_empty());
        let Some(uid) = uid else {
            return self.set_volume_phase(&volume, "Available", None).await; // only reserved
        };
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let claim_name = reference.name.as_deref().unwrap_or_default();
        let is_it = |claim: &Arc<PersistentVolumeClaim>| claim.metadata.uid.as_ref() == Some(&uid);
        if let Some(claim) = informers.claims.get(namespace, claim_name).filter(is_it) {
            if is_bound(&claim) && volume_of(&claim) == Some(name) {
                return self.set_volume_phase(&volume, "Bound", None).await;
            }
            return Ok(()); // binding is completed when the claim is processed
        }
        // The cache may not contain a new claim yet.
        let fresh = optional(
            self.ctx
                .get::<PersistentVolumeClaim>(namespace, claim_name)
                .await,
        )?;
        if fresh.is_some_and(|claim| claim.metadata.uid.as_ref() == Some(&uid)) {
            return Ok(());
        }
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        if phase != Some("Failed") {
            self.set_volume_phase(&volume, "Released", None).await?;
        }
        self.reclaim(&volume).await
    }

    async fn reclaim(&self, volume: &PersistentVolume) -> Result<()> {
        let spec = volume.spec.clone().unwrap_or_default();
        let annotations = volume.metadata.annotations.as_ref();
        let ours = annotations
            .and_then(|all| all.get(provisioner::PROVISIONED_BY))
            .is_some_and(|by| by == provisioner::NAME);
        match spec.persistent_volume_reclaim_policy.as_deref() {
            Some("Delete") if ours && volume.metadata.deletion_timestamp.is_none() => {
                let store = &self.ctx.informers.volumes;
                if let Err(why) = delete_data(&self.ctx, &self.nodes, volume).await {
                    let recorder = &self.ctx.recorder;
                    recorder.event(NAME, volume, Warning, "VolumeFailedDelete", why.clone());
                    self.set_volume_phase(volume, "Failed", Some(&why)).await?;
                    return Err(Error::other(why));
                }
                optional(
                    self.ctx
                        .delete(store, &volume.metadata, &Deletion::default())
                        .await,
                )
                .map(drop)
            }
            Some("Recycle") => {
                let text = "No recycler plugin found for the volume!";
                self.ctx
                    .recorder
                    .event(NAME, volume, Warning, "VolumeFailedRecycle", text);
                self.set_volume_phase(volume, "Failed", Some(text)).await
            }
            _ => Ok(()), // retained, or reclaimed by its provisioner
        }
    }
}
