//! Finds or provisions a volume for a claim that has none.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{Binder, NAME, is_bound, volume_of, waits_for_consumer};
use crate::common::pods;
use crate::context::{Result, optional};
use crate::events::Severity::{Normal, Warning};
use crate::informers::Key;
use crate::nodes::taints;
use crate::volumes::{annotation, claims_of, matching, provisioner};

/// Annotation with the node that the scheduler chose for the first consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotations with the provisioner for which a claim waits.
const STORAGE_PROVISIONER: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];

impl Binder {
    pub(super) async fn sync_claim(&self, key: Key) -> Result<()> {
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
}
