//! Finds or provisions a volume for a claim that has none.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{Binder, Item, NAME, is_bound, volume_of, waits_for_consumer};
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

/// Reason of events about volumes that could not be made.
const PROVISIONING_FAILED: &str = "ProvisioningFailed";

/// Returns reason and message of the event about a claim whose pods without a node are `waiting`.
fn waits_for(waiting: &[&str]) -> (&'static str, String) {
    let text = match waiting {
        [] => {
            let text = "waiting for first consumer to be created before binding";
            return ("WaitForFirstConsumer", text.into());
        }
        [pod] => format!("waiting for pod {pod} to be scheduled"),
        several => format!("waiting for pods {} to be scheduled", several.join(",")),
    };
    ("WaitForPodScheduled", text)
}

/// Interval at which unbound claims are looked at again, and their events repeated.
const RESYNC_PERIOD: Duration = Duration::from_secs(15);

impl Binder {
    pub(super) async fn sync_claim(&self, key: Key) -> Result<()> {
        let informers = &self.ctx.informers;
        let Some(claim) = informers.claims.by_key(&key) else {
            return Ok(());
        };
        if !is_bound(&claim) {
            self.queue.add_after(Item::Claim(key), RESYNC_PERIOD);
        }
        if is_bound(&claim) {
            return self.check_bound(&claim).await;
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if let Some(name) = volume_of(&claim) {
            return self.sync_chosen(&claim, name).await;
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
            let (reason, text) = self.awaited(&claim);
            self.ctx.recorder.event(NAME, &*claim, Normal, reason, text);
            return self.set_pending(&claim).await;
        }
        if let Some(volume) = matching::choose(&claim, &volumes, node.as_deref()) {
            return self.bind(&claim, &volume).await;
        }
        match class {
            Some(class) => self.provision(&claim, &class, node).await,
            None => {
                let text = match matching::class_of(&claim).filter(|class| !class.is_empty()) {
                    Some(class) => (PROVISIONING_FAILED, format!("storageclass.storage.k8s.io {class:?} not found")),
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

    /// Binds a claim to the volume of this name, which the user has chosen, as soon as that is possible.
    async fn sync_chosen(&self, claim: &PersistentVolumeClaim, name: &str) -> Result<()> {
        let Some(volume) = self.ctx.informers.volumes.get("", name) else {
            return self.set_pending(claim).await;
        };
        let spec = volume.spec.as_ref();
        let free = spec.is_some_and(|spec| spec.claim_ref.is_none());
        let (reason, text) = if free {
            match matching::mismatch(&volume, claim) {
                None => return self.bind(claim, &volume).await,
                Some(why) => (
                    "VolumeMismatch",
                    format!("Cannot bind to requested volume {name:?}: {why}"),
                ),
            }
        } else if matching::is_reserved_for(&volume, claim) {
            return self.bind(claim, &volume).await;
        } else {
            (
                "FailedBinding",
                format!("volume {name:?} already bound to a different claim."),
            )
        };
        self.ctx.recorder.event(NAME, claim, Warning, reason, text);
        self.set_pending(claim).await
    }

    /// Returns reason and message of the event about what a claim with delayed binding waits for.
    fn awaited(&self, claim: &PersistentVolumeClaim) -> (&'static str, String) {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let pods = self.ctx.informers.pods.in_namespace(namespace);
        let mut waiting: Vec<&str> = pods
            .iter()
            .filter(|pod| !pods::is_terminal(pod) && pods::node_name(pod).is_empty())
            .filter(|pod| claims_of(pod).contains(&name))
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        waiting.sort_unstable();
        waits_for(&waiting)
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
        // As for upstream, provisioners of this domain would have to be built in.
        if class.provisioner.starts_with("kubernetes.io/") {
            let text = format!("no volume plugin matched name: {}", class.provisioner);
            recorder.event(NAME, claim, Warning, PROVISIONING_FAILED, text);
            return self.set_pending(claim).await;
        }
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
        if class.provisioner != provisioner::NAME {
            let text = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or \
                 manually by the system administrator. If volume creation is delayed, please verify \
                 that the provisioner is running and correctly registered.",
                class.provisioner
            );
            recorder.event(NAME, &claim, Normal, "ExternalProvisioning", text);
            return self.set_pending(&claim).await;
        }
        let failed = |claim: &PersistentVolumeClaim, why: &str| {
            let class = class.metadata.name.as_deref().unwrap_or_default();
            let text = format!("failed to provision volume with StorageClass {class:?}: {why}");
            recorder.event(NAME, claim, Warning, PROVISIONING_FAILED, text);
        };
        if let Some(why) = provisioner::unsupported(&claim) {
            failed(&claim, why);
            return self.set_pending(&claim).await;
        }
        let node = node.or_else(|| self.any_node());
        let Some(node) = node.as_ref().and_then(|node| node.metadata.name.as_deref()) else {
            failed(&claim, "no node is ready to hold the volume");
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
                failed(&claim, &error.to_string());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delayed_claims_report_the_reason_for_waiting() {
        for (waiting, reason, text) in [
            (
                &[][..],
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
            ),
            (
                &["a"],
                "WaitForPodScheduled",
                "waiting for pod a to be scheduled",
            ),
            (
                &["a", "b"],
                "WaitForPodScheduled",
                "waiting for pods a,b to be scheduled",
            ),
        ] {
            assert_eq!(waits_for(waiting), (reason, text.to_owned()));
        }
    }
}
