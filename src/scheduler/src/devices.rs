//! What the scheduler knows of devices: claims, classes, slices, and the claims to which devices are
//! being allocated.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use rkube_device_allocation::{AllocatedState, Selectors};

use crate::model::{DeviceClaimRef, Key, PodInfo};

/// A claim of a pod that is being bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// The claim as it was last seen.
    pub claim: Arc<ResourceClaim>,
    /// The devices that were chosen, `None` if the claim has devices already.
    pub allocation: Option<AllocationResult>,
}

/// The objects that concern devices.
#[derive(Debug, Default)]
pub struct Devices {
    claims: HashMap<Key, Arc<ResourceClaim>>,
    /// Claims by UID to which devices are being allocated, with these devices.
    pending: HashMap<String, AllocationResult>,
    /// Classes by name.
    pub classes: HashMap<String, DeviceClass>,
    /// Slices by name.
    pub slices: BTreeMap<String, Arc<ResourceSlice>>,
    /// Compiled selectors.
    pub selectors: Selectors,
}

/// Returns the devices of a claim, if it has any.
pub fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

/// Returns whether a claim is reserved for the pod with this UID.
pub fn is_reserved(claim: &ResourceClaim, pod: &str) -> bool {
    let users = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref());
    users.into_iter().flatten().any(|user| user.uid == pod)
}

fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

/// Returns how messages name a claim.
pub fn full_name(claim: &ResourceClaim) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &claim.metadata;
    format!("{}/{}", part(&meta.namespace), part(&meta.name))
}

fn revision(claim: &ResourceClaim) -> Option<u64> {
    claim.metadata.resource_version.as_ref()?.parse().ok()
}

/// What a change of a claim means for waiting pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimChange {
    /// Nothing.
    None,
    /// Its own pods may be able to go on.
    OwnPods,
    /// Its devices are free for all pods.
    Freed,
}

impl Devices {
    /// Returns a claim by namespace and name.
    pub fn claim(&self, key: &Key) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(key)
    }

    /// Records a claim. An older version than the known one is ignored: what the scheduler wrote
    /// itself is known before the watch delivers it.
    pub fn set_claim(&mut self, key: Key, claim: Arc<ResourceClaim>) -> ClaimChange {
        let old = self.claims.get(&key);
        let same = old.filter(|old| uid(old) == uid(&claim));
        if same.is_some_and(|old| revision(old) > revision(&claim)) {
            return ClaimChange::None;
        }
        let had = old.is_some_and(|old| allocation(old).is_some());
        let change = match same {
            _ if had && allocation(&claim).is_none() => ClaimChange::Freed,
            Some(old) if old.status == claim.status => ClaimChange::None,
            _ => ClaimChange::OwnPods,
        };
        self.claims.insert(key, claim);
        change
    }

    /// Forgets a claim. Returns whether it had devices.
    pub fn remove_claim(&mut self, key: &Key) -> bool {
        let gone = self.claims.remove(key);
        gone.is_some_and(|claim| allocation(&claim).is_some())
    }

    /// Returns whether devices are being allocated to a claim.
    pub fn is_pending(&self, claim: &ResourceClaim) -> bool {
        self.pending.contains_key(uid(claim))
    }

    /// Holds the devices that were chosen for claims until they are written.
    pub fn hold(&mut self, reservations: &[Reservation]) {
        for reservation in reservations {
            if let Some(allocation) = &reservation.allocation {
                let uid = uid(&reservation.claim).to_owned();
                self.pending.insert(uid, allocation.clone());
            }
        }
    }

    /// Ends the hold on the devices of claims. Returns whether there was any.
    pub fn let_go(&mut self, reservations: &[Reservation]) -> bool {
        let mut any = false;
        for reservation in reservations {
            if reservation.allocation.is_some() {
                any |= self.pending.remove(uid(&reservation.claim)).is_some();
            }
        }
        any
    }

    /// Returns the devices that claims have or are being given.
    pub fn allocated(&self) -> AllocatedState {
        let mut state = AllocatedState::default();
        let written = self.claims.values().filter(|claim| !self.is_pending(claim));
        let written = written.filter_map(|claim| allocation(claim));
        for allocation in written.chain(self.pending.values()) {
            state.add(allocation);
        }
        state
    }

    /// Returns the claims of a pod.
    ///
    /// # Errors
    ///
    /// Returns why one of them cannot be used, in upstream's words.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Vec<Arc<ResourceClaim>>, String> {
        let of_pod = format!("{}/{}", pod.namespace, pod.name);
        let mut claims = Vec::new();
        for wanted in &pod.device_claims {
            let (name, generated) = match wanted {
                DeviceClaimRef::NotNeeded => continue,
                DeviceClaimRef::NotCreated => {
                    return Err(format!("pod {of_pod:?}: ResourceClaim not created yet"));
                }
                DeviceClaimRef::Named(name) => (name, false),
                DeviceClaimRef::Generated(name) => (name, true),
            };
            let full = format!("{}/{name}", pod.namespace);
            let Some(claim) = self.claims.get(&(pod.namespace.clone(), name.clone())) else {
                return Err(format!("could not find ResourceClaim {full:?}"));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("resourceclaim {name:?} is being deleted"));
            }
            if generated && !rkube_client::owners::is_controlled_by(&claim.metadata, &pod.uid) {
                return Err(format!(
                    "ResourceClaim {full} was not created for Pod {of_pod} (Pod is not owner)"
                ));
            }
            claims.push(Arc::clone(claim));
        }
        Ok(claims)
    }
}

/// Returns whether a pod refers to a claim.
pub fn uses(pod: &PodInfo, key: &Key) -> bool {
    pod.namespace == key.0
        && pod.device_claims.iter().any(|wanted| match wanted {
            DeviceClaimRef::Named(name) | DeviceClaimRef::Generated(name) => *name == key.1,
            DeviceClaimRef::NotCreated | DeviceClaimRef::NotNeeded => false,
        })
}
