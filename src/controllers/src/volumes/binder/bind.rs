//! Writes the phases of claims and volumes, and binds them to each other.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{BIND_COMPLETED, Binder, NAME, phase, volume_of};
use crate::context::{Result, optional};
use crate::events::Severity::Warning;
use crate::volumes::provisioner::reference_to;

/// Annotation on objects bound by this controller rather than by a user.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

impl Binder {
    pub(super) async fn set_pending(&self, claim: &PersistentVolumeClaim) -> Result<()> {
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
    pub(super) async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<()> {
        let informers = &self.ctx.informers;
        let mut volume = volume.clone();
        let spec = volume.spec.get_or_insert_default();
        let by_controller = spec.claim_ref.is_none();
        let bound = spec
            .claim_ref
            .as_ref()
            .is_some_and(|reference| reference.uid == claim.metadata.uid);
        if !bound {
            spec.claim_ref = Some(reference_to(claim));
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

    pub(super) async fn check_bound(&self, claim: &PersistentVolumeClaim) -> Result<()> {
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
                Some(_) => (
                    "ClaimMisbound",
                    "Two claims are bound to the same volume, this one is bound incorrectly",
                ),
            },
            None if volume_of(claim).is_none() => (
                "ClaimLost",
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
            ),
            None => (
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
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

    /// Sets the phase of a volume. Returns whether it had another one.
    pub(super) async fn set_volume_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<bool> {
        let status = volume.status.as_ref();
        if status.and_then(|status| status.phase.as_deref()) == Some(phase) {
            return Ok(false);
        }
        let mut changed = volume.clone();
        changed.status = Some(PersistentVolumeStatus {
            phase: Some(phase.into()),
            message: message.map(str::to_owned),
            last_phase_transition_time: Some(Time(self.ctx.now())),
            reason: None,
        });
        let store = &self.ctx.informers.volumes;
        let updated = optional(self.ctx.update_status(store, &changed).await)?;
        Ok(updated.is_some())
    }
}
