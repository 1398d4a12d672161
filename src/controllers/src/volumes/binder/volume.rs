//! Follows volumes: their phases, and what becomes of those whose claims are gone.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::bind::BOUND_BY_CONTROLLER;
use super::{Binder, NAME, is_bound, volume_of};
use crate::context::{Deletion, Error, Result, optional};
use crate::events::Severity::Warning;
use crate::volumes::provisioner::{self, DELETION_PROTECTION};
use crate::volumes::reclaim::{delete_data, has_data_location};

/// The fate of a volume whose claim is gone.
#[derive(Debug, PartialEq, Eq)]
enum Reclaim {
    /// Nothing: it is retained, or its external provisioner deletes it.
    Leave,
    /// Its data are deleted, then the volume itself.
    Delete,
    /// That cannot be done: reason and message of the event.
    Fail(&'static str, String),
}

/// Returns what the policy of a volume without its claim demands.
fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    match policy {
        Some("Delete") => {}
        Some("Recycle") => {
            let text = "No recycler plugin found for the volume!";
            return Reclaim::Fail("VolumeFailedRecycle", text.into());
        }
        _ => return Reclaim::Leave,
    }
    match provisioner::provisioner_of(volume) {
        Some(provisioner::NAME) => Reclaim::Delete,
        Some(built_in) if built_in.starts_with("kubernetes.io/") => {
            let text = format!("no volume plugin matched name: {built_in}");
            Reclaim::Fail(VOLUME_FAILED_DELETE, text)
        }
        Some(_) => Reclaim::Leave,
        None => Reclaim::Fail(VOLUME_FAILED_DELETE, undeletable(volume)),
    }
}

/// Returns why upstream's controller manager would not delete a volume that it has not provisioned.
/// It deletes paths below `/tmp` of its own host, which are not those of nodes here.
fn undeletable(volume: &PersistentVolume) -> String {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(path) = spec
        .host_path
        .filter(|source| !source.path.starts_with("/tmp/"))
    {
        let path = path.path;
        return format!("host_path deleter only supports /tmp/.+ but received provided {path}");
    }
    let why = if spec.local.is_some() || spec.nfs.is_some() {
        "no deletable volume plugin matched"
    } else {
        "no volume plugin matched"
    };
    format!("error getting deleter volume plugin for volume {name:?}: {why}")
}

/// Reason of events about volumes that could not be deleted.
const VOLUME_FAILED_DELETE: &str = "VolumeFailedDelete";

/// Returns the finalizers that a volume should have, `None` if it has them.
///
/// As upstream's `HonorPVReclaimPolicy`, a finalizer keeps provisioned volumes with the policy
/// `Delete` until their data are deleted, even if they are deleted before their claims. Objects that
/// are being deleted get no new finalizers. A volume that only has the provisioner's annotation has
/// no data below `root`, and gets none either.
fn protected(volume: &PersistentVolume, root: &Path) -> Option<Vec<String>> {
    if provisioner::provisioner_of(volume) != Some(provisioner::NAME) {
        return None;
    }
    let wanted = reclaim(volume) == Reclaim::Delete && has_data_location(volume, root);
    let mut finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    if wanted == is_protected(volume) || wanted && volume.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if wanted {
        finalizers.push(DELETION_PROTECTION.to_owned());
    } else {
        finalizers.retain(|finalizer| finalizer != DELETION_PROTECTION);
    }
    Some(finalizers)
}

fn is_protected(volume: &PersistentVolume) -> bool {
    let mut finalizers = volume.metadata.finalizers.iter().flatten();
    finalizers.any(|finalizer| finalizer == DELETION_PROTECTION)
}

/// Returns the reference to the claim for which a volume was bound.
fn claimed_by(volume: &PersistentVolume) -> Option<&ObjectReference> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    // Without a UID it is only reserved.
    reference.uid.as_ref().filter(|uid| !uid.is_empty())?;
    Some(reference)
}

/// The relation of a volume's claim to the volume.
enum Claim {
    /// Bound to this volume.
    Here,
    /// Bound to another volume.
    Elsewhere,
    /// Not bound yet; that is done when the claim is processed.
    Unbound,
    /// Gone.
    Gone,
}

impl Binder {
    pub(super) async fn sync_volume(&self, name: &str) -> Result<()> {
        let Some(volume) = self.ctx.informers.volumes.get("", name) else {
            return Ok(());
        };
        let Some(volume) = self.protect(volume).await? else {
            return Ok(());
        };
        let Some(reference) = claimed_by(&volume) else {
            if volume.metadata.deletion_timestamp.is_some() && is_protected(&volume) {
                // The data may still be needed: a user may want to create the object again.
                return self.unprotect(volume.metadata.clone()).await;
            }
            return self
                .set_volume_phase(&volume, "Available", None)
                .await
                .map(drop);
        };
        match self.claim_of(reference, name).await? {
            Claim::Here => self
                .set_volume_phase(&volume, "Bound", None)
                .await
                .map(drop),
            Claim::Unbound => Ok(()),
            Claim::Elsewhere => {
                let ours = provisioner::provisioner_of(&volume).is_some();
                if ours && reclaim(&volume) == Reclaim::Delete {
                    return self.release(&volume).await;
                }
                self.unbind(&volume).await
            }
            Claim::Gone => self.release(&volume).await,
        }
    }

    /// Brings the finalizers of a volume up to date. Returns `None` if it is gone.
    async fn protect(
        &self,
        volume: Arc<PersistentVolume>,
    ) -> Result<Option<Arc<PersistentVolume>>> {
        let Some(finalizers) = protected(&volume, &self.ctx.config.volumes) else {
            return Ok(Some(volume));
        };
        let mut changed = PersistentVolume::clone(&volume);
        changed.metadata.finalizers = Some(finalizers);
        let store = &self.ctx.informers.volumes;
        optional(self.ctx.update(store, &changed).await)
    }

    async fn claim_of(&self, reference: &ObjectReference, volume: &str) -> Result<Claim> {
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let name = reference.name.as_deref().unwrap_or_default();
        let is_it = |claim: &PersistentVolumeClaim| claim.metadata.uid == reference.uid;
        let known = self.ctx.informers.claims.get(namespace, name);
        if let Some(claim) = known.filter(|claim| is_it(claim)) {
            return Ok(match volume_of(&claim) {
                Some(bound) if bound == volume && is_bound(&claim) => Claim::Here,
                Some(other) if other != volume => Claim::Elsewhere,
                _ => Claim::Unbound,
            });
        }
        // The cache may not contain a new claim yet.
        let fresh = self.ctx.get::<PersistentVolumeClaim>(namespace, name);
        let exists = optional(fresh.await)?.is_some_and(|claim| is_it(&claim));
        Ok(if exists { Claim::Unbound } else { Claim::Gone })
    }

    /// Takes the claim off a volume that it does not use. What a user reserved stays reserved.
    async fn unbind(&self, volume: &PersistentVolume) -> Result<()> {
        let mut changed = volume.clone();
        let annotations = changed.metadata.annotations.as_mut();
        let by_controller = annotations
            .and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER))
            .is_some();
        let spec = changed.spec.get_or_insert_default();
        if by_controller {
            spec.claim_ref = None;
        } else if let Some(reference) = &mut spec.claim_ref {
            reference.uid = None;
        }
        let store = &self.ctx.informers.volumes;
        let Some(updated) = optional(self.ctx.update(store, &changed).await)? else {
            return Ok(());
        };
        self.set_volume_phase(&updated, "Available", None)
            .await
            .map(drop)
    }

    async fn release(&self, volume: &PersistentVolume) -> Result<()> {
        let wanted = reclaim(volume);
        if let Reclaim::Fail(reason, text) = wanted {
            return self.fail(volume, reason, &text).await;
        }
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        if phase != Some("Failed") {
            self.set_volume_phase(volume, "Released", None).await?;
        }
        match wanted {
            Reclaim::Delete => self.delete(volume).await,
            _ => Ok(()),
        }
    }

    /// Sets the phase `Failed` and tells so, unless the volume has it already.
    async fn fail(&self, volume: &PersistentVolume, reason: &str, text: &str) -> Result<()> {
        if self.set_volume_phase(volume, "Failed", Some(text)).await? {
            let recorder = &self.ctx.recorder;
            recorder.event(NAME, volume, Warning, reason, text);
        }
        Ok(())
    }

    /// Deletes the data of a volume of the built-in provisioner, then the volume.
    async fn delete(&self, seen: &PersistentVolume) -> Result<()> {
        let name = seen.metadata.name.as_deref().unwrap_or_default();
        // The cache may be behind: meanwhile a user may have chosen to keep the data.
        let Some(volume) = optional(self.ctx.get::<PersistentVolume>("", name).await)? else {
            return Ok(());
        };
        let unchanged = volume.metadata.uid == seen.metadata.uid
            && reclaim(&volume) == Reclaim::Delete
            && claimed_by(&volume) == claimed_by(seen);
        let deleting = volume.metadata.deletion_timestamp.is_some();
        if !unchanged || deleting && !is_protected(&volume) {
            return Ok(()); // the watch reports the change
        }
        if let Err(why) = delete_data(&self.ctx, &self.nodes, &volume).await {
            self.fail(&volume, VOLUME_FAILED_DELETE, &why).await?;
            return Err(Error::other(why));
        }
        let store = &self.ctx.informers.volumes;
        if !deleting {
            let deletion = Deletion::default();
            optional(self.ctx.delete(store, &volume.metadata, &deletion).await)?;
        }
        self.unprotect(volume.metadata).await
    }

    /// Removes the finalizer that keeps a volume until its data are deleted.
    async fn unprotect(&self, of: ObjectMeta) -> Result<()> {
        let name = of.name.as_deref().unwrap_or_default();
        let left = optional(self.ctx.get::<PersistentVolume>("", name).await)?;
        let Some(mut left) = left.filter(|left| left.metadata.uid == of.uid) else {
            return Ok(());
        };
        if is_protected(&left) {
            let finalizers = left.metadata.finalizers.get_or_insert_default();
            finalizers.retain(|finalizer| finalizer != DELETION_PROTECTION);
            optional(self.ctx.update(&self.ctx.informers.volumes, &left).await)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(policy: &str, provisioner: Option<&str>) -> PersistentVolume {
        let annotations = provisioner.map(|name| json!({provisioner::PROVISIONED_BY: name}));
        let value = json!({
            "metadata": {"name": "v", "annotations": annotations},
            "spec": {"persistentVolumeReclaimPolicy": policy},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_provisioned_volumes_are_deleted() {
        let ours = Some(provisioner::NAME);
        assert_eq!(reclaim(&volume("Delete", ours)), Reclaim::Delete);
        assert_eq!(reclaim(&volume("Retain", ours)), Reclaim::Leave);
        assert_eq!(
            reclaim(&volume("Delete", Some("csi.example.com"))),
            Reclaim::Leave
        );
        let failure = |policy, provisioner| match reclaim(&volume(policy, provisioner)) {
            Reclaim::Fail(reason, text) => (reason, text),
            other => panic!("{other:?}"),
        };
        let (reason, text) = failure("Delete", None);
        assert_eq!(reason, "VolumeFailedDelete");
        assert_eq!(
            text,
            "error getting deleter volume plugin for volume \"v\": no volume plugin matched"
        );
        let (_, text) = failure("Delete", Some("kubernetes.io/host-path"));
        assert_eq!(
            text,
            "no volume plugin matched name: kubernetes.io/host-path"
        );
        let (reason, _) = failure("Recycle", None);
        assert_eq!(reason, "VolumeFailedRecycle");
    }

    #[test]
    fn the_finalizer_follows_the_policy() {
        let root = Path::new("/data");
        let protected = |volume: &PersistentVolume| super::protected(volume, root);
        let ours = Some(provisioner::NAME);
        let made = |policy: &str| {
            let mut made = volume(policy, ours);
            let rest = json!({
                "hostPath": {"path": "/data/v"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": provisioner::HOSTNAME, "operator": "In", "values": ["n"]},
                ]}]}},
                "persistentVolumeReclaimPolicy": policy,
            });
            made.spec = serde_json::from_value(rest).unwrap();
            made
        };
        let wanted = vec![DELETION_PROTECTION.to_owned()];
        let mut kept = made("Delete");
        // Only the annotation is the provisioner's.
        assert_eq!(protected(&volume("Delete", ours)), None);
        assert_eq!(protected(&kept), Some(wanted.clone()));
        assert_eq!(protected(&made("Retain")), None);
        assert_eq!(protected(&volume("Delete", None)), None);
        // Objects that are being deleted get no new finalizers.
        let mut deleted = kept.clone();
        deleted.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(protected(&deleted), None);
        kept.metadata.finalizers = Some(wanted);
        assert_eq!(protected(&kept), None);
        let spec = kept.spec.as_mut().unwrap();
        spec.persistent_volume_reclaim_policy = Some("Retain".into());
        kept.metadata.deletion_timestamp = deleted.metadata.deletion_timestamp;
        assert_eq!(protected(&kept), Some(vec![]));
    }
}
