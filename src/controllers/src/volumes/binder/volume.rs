//! Follows volumes: their phases, and what becomes of those whose claims are gone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{Binder, NAME, is_bound, volume_of};
use crate::context::{Deletion, Error, Result, optional};
use crate::events::Severity::Warning;
use crate::volumes::provisioner;
use crate::volumes::reclaim::delete_data;

impl Binder {
    pub(super) async fn sync_volume(&self, name: &str) -> Result<()> {
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
