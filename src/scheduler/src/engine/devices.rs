//! Resource claims: what their changes mean for pods, and how they are written for pods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaim;
use rkube_client::events::Severity;
use tokio::sync::mpsc::UnboundedSender;

use super::{Engine, Outcome};
use crate::actions::Actions;
use crate::cycle::Placement;
use crate::devices::{ClaimChange, Reservation, is_reserved, uses};
use crate::model::{Key, PodInfo};
use crate::plugins::dynamic_resources::{
    BINDING_TIMEOUT, Readiness, is_bound_late, is_overdue, readiness,
};
use crate::plugins::types::Event;

/// How often claims are read while devices get ready, as upstream.
const POLL: Duration = Duration::from_secs(5);

impl Engine {
    /// Records a claim and wakes the pods that may be able to go on.
    pub(super) fn device_claim_is(&mut self, key: Key, claim: Arc<ResourceClaim>) {
        let change = self.cluster.devices.set_claim(key.clone(), claim);
        let now = Instant::now();
        match change {
            ClaimChange::None => {}
            ClaimChange::Freed => self.on_event(Event::DeviceClaim),
            ClaimChange::OwnPods => {
                let own = |pod: &PodInfo| uses(pod, &key);
                self.queue.on_event_for(Event::DeviceClaim, now, own);
            }
        }
        let complete = self.lacking_claims.iter().filter(|(_, pod)| {
            pod.namespace == key.0 && self.cluster.devices.claims_of(pod).is_ok()
        });
        let complete: Vec<String> = complete.map(|(uid, _)| uid.clone()).collect();
        for uid in complete {
            if let Some(pod) = self.lacking_claims.remove(&uid) {
                self.queue.set(pod, now);
            }
        }
    }

    /// Records a claim that was written for a pod. Its devices need not be held any more.
    pub(super) fn claim_written(&mut self, pod: &str, claim: Arc<ResourceClaim>) {
        if let Some(held) = self.held.get_mut(pod) {
            for reservation in held {
                if reservation.claim.metadata.uid == claim.metadata.uid {
                    self.cluster
                        .devices
                        .let_go(std::slice::from_ref(reservation));
                    *reservation = Reservation {
                        claim: Arc::clone(&claim),
                        allocation: None,
                    };
                }
            }
        }
        let meta = &claim.metadata;
        let key = (
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        );
        self.device_claim_is(key, claim);
    }

    /// Takes back what was reserved for a pod that is not bound after all.
    pub(super) fn unreserve(&mut self, pod: &Key, uid: &str) {
        let Some(held) = self.held.remove(uid) else {
            return;
        };
        if self.cluster.devices.let_go(&held) {
            self.on_event(Event::DeviceClaim);
        }
        let claims = held.into_iter().map(|reservation| reservation.claim);
        let claims: Vec<_> = claims.filter(|claim| is_reserved(claim, uid)).collect();
        if claims.is_empty() {
            return;
        }
        let (actions, pod, uid) = (self.actions.clone(), pod.1.clone(), uid.to_owned());
        self.spawn(async move {
            for claim in claims {
                actions.unreserve(&claim, &pod, &uid).await;
            }
        });
    }
}

/// Writes devices and reservations to a pod's claims, and waits until the devices are ready.
///
/// # Errors
///
/// Returns why the pod cannot be bound, in upstream's words.
pub(super) async fn reserve(
    actions: &Actions,
    pod: &PodInfo,
    placement: &Placement,
    report: &UnboundedSender<(String, Outcome)>,
) -> Result<(), String> {
    let mut claims = Vec::new();
    for reservation in &placement.devices {
        if is_reserved(&reservation.claim, &pod.uid) {
            claims.push(Arc::clone(&reservation.claim));
            continue;
        }
        let claim = Arc::new(actions.reserve(pod, reservation).await?);
        // Without a receiver the scheduler ends, and with it the task that calls this.
        let _ = report.send((pod.uid.clone(), Outcome::ClaimWritten(Arc::clone(&claim))));
        claims.push(claim);
    }
    if !claims.iter().any(|claim| is_bound_late(claim)) {
        return Ok(());
    }
    let node = &placement.node;
    let message = format!("waiting for binding conditions for device on node {node}");
    let (reason, action) = ("BindingConditionsPending", "Scheduling");
    actions.event(pod, Severity::Normal, reason, action, message);
    let ready = wait_for_devices(actions, claims);
    let late = "device binding timeout: context deadline exceeded";
    tokio::time::timeout(BINDING_TIMEOUT, ready)
        .await
        .unwrap_or_else(|_| Err(late.to_owned()))
}

async fn wait_for_devices(
    actions: &Actions,
    mut claims: Vec<Arc<ResourceClaim>>,
) -> Result<(), String> {
    loop {
        let mut all = true;
        for claim in &claims {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            match readiness(claim) {
                Readiness::Ready => {}
                Readiness::Failed(why) => return Err(why),
                Readiness::Waiting if is_overdue(claim, Timestamp::now()) => {
                    return Err(format!("device binding timeout: claim={name}"));
                }
                Readiness::Waiting => all = false,
            }
        }
        if all {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
        for claim in &mut claims {
            *claim = Arc::new(actions.read_claim(claim).await?);
        }
    }
}
