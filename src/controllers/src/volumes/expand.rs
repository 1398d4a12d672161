//! Tells who waits for a volume to be expanded. No volume is expanded here: that is up to the
//! provisioner of its class.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::amount;
use crate::context::{Context, Result};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Normal;
use crate::informers::{Change, Key};
use crate::queue::Queue;

const NAME: &str = "volume_expand";

/// The requested and the actual size of a claim.
type Sizes = (
    Option<rkube_api::quantity::Quantity>,
    Option<rkube_api::quantity::Quantity>,
);

fn sizes(claim: &PersistentVolumeClaim) -> Sizes {
    let spec = claim.spec.as_ref();
    let resources = spec.and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let capacity = claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    (amount(requests, "storage"), amount(capacity, "storage"))
}

/// Returns whether a claim may have to be expanded since this change: it has grown, or is new.
fn is_due(change: &Change<PersistentVolumeClaim>) -> bool {
    let claim = change.object();
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    let grown = change.old().is_none_or(|old| {
        let (before, after) = (sizes(old), sizes(claim));
        after.0 > before.0 || after.1 > before.1
    });
    phase == Some("Bound") && grown && !change.is_deletion()
}

/// Returns whether a bound claim asks for more than it has.
fn is_too_small(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    let reference = spec.and_then(|spec| spec.claim_ref.as_ref());
    let (wanted, present) = sizes(claim);
    reference.is_some_and(|reference| reference.uid == claim.metadata.uid) && wanted > present
}

/// The controller that reports claims that wait for their expansion.
pub struct ExpandController {
    ctx: Context,
    queue: Queue<Key>,
}

impl ExpandController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for ExpandController {
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
            .watches(&informers.claims, |change, queue| {
                if is_due(change) {
                    queue.add(Key::of(&change.object().metadata));
                }
            })
            .reads(&informers.volumes);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let informers = &self.ctx.informers;
        let Some(claim) = informers.claims.by_key(&key) else {
            return Ok(());
        };
        let spec = claim.spec.as_ref();
        let name = spec.and_then(|spec| spec.volume_name.as_deref());
        let volume = informers.volumes.get("", name.unwrap_or_default());
        if volume.is_some_and(|volume| is_too_small(&claim, &volume)) {
            let text = "waiting for an external controller to expand this PVC";
            let recorder = &self.ctx.recorder;
            recorder.event(NAME, &*claim, Normal, "ExternalExpanding", text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::matching::testing::{claim, volume};
    use super::*;
    use crate::volumes::provisioner::reference_to;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn grown_claims_wait() {
        let with = |wanted: &str, present: &str| {
            let mut claim = claim("c", wanted, "fast");
            let status = json!({"phase": "Bound", "capacity": {"storage": present}});
            claim.status = serde_json::from_value(status).unwrap();
            Arc::new(claim)
        };
        let (before, after) = (with("1Gi", "1Gi"), with("2Gi", "1Gi"));
        let grown = Change::Updated(before.clone(), after.clone());
        assert!(is_due(&grown));
        assert!(!is_due(&Change::Updated(before.clone(), before.clone())));
        let mut volume = PersistentVolume::clone(&volume("v", "1Gi", "fast"));
        assert!(!is_too_small(&after, &volume));
        volume.spec.as_mut().unwrap().claim_ref = Some(reference_to(&after));
        assert!(is_too_small(&after, &volume) && !is_too_small(&before, &volume));
    }
}
