//! Evicts pods that use devices with `NoExecute` taints which their claims do not tolerate, at once
//! or after `tolerationSeconds`. The taints are those of resource slices: the API of rules that taint
//! devices is not served by default.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, ResourceClaim, ResourceSlice,
};
use kube::api::Patch;
use parking_lot::Mutex;
use rkube_device_allocation::tolerates;

use crate::common::{conditions, owners, pods};
use crate::context::{Context, Deletion, Result, optional};
use crate::controller::{Controller, Watches};
use crate::device_claims::{claim_name, entries};
use crate::events::Severity::Normal;
use crate::informers::Key;
use crate::queue::Queue;

const NAME: &str = "device-taint-eviction-controller";

/// The controller that evicts pods from tainted devices.
pub struct DeviceTaintController {
    ctx: Context,
    queue: Queue<Key>,
    /// UIDs of the pods whose eviction is announced.
    marked: Mutex<HashSet<String>>,
}

impl DeviceTaintController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            marked: Mutex::default(),
        }
    }
}

/// Queues the pods for which a claim is reserved.
fn enqueue_users(claim: &ResourceClaim, queue: &Queue<Key>) {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let users = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref());
    for user in users.into_iter().flatten() {
        if user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty() {
            queue.add(Key::new(namespace, &user.name));
        }
    }
}

fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let devices = allocation.and_then(|a| a.devices.as_ref());
    devices
        .and_then(|d| d.results.as_ref())
        .into_iter()
        .flatten()
}

fn evicting(slice: &ResourceSlice) -> bool {
    let mut devices = slice.spec.devices.iter().flatten();
    devices.any(|device| no_execute(device).next().is_some())
}

fn no_execute(device: &Device) -> impl Iterator<Item = &DeviceTaint> {
    let taints = device.taints.iter().flatten();
    taints.filter(|taint| taint.effect == "NoExecute")
}

impl Controller for DeviceTaintController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let claims = informers.device_claims.clone();
        watches
            .watches(&informers.resource_slices, move |change, queue| {
                if !change.states().any(|slice| evicting(slice)) {
                    return;
                }
                let (driver, pool) = {
                    let spec = &change.object().spec;
                    (spec.driver.clone(), spec.pool.name.clone())
                };
                for claim in claims.list() {
                    if results(&claim).any(|r| r.driver == driver && r.pool == pool) {
                        enqueue_users(&claim, queue);
                    }
                }
            })
            .watches(&informers.device_claims, |change, queue| {
                for claim in change.states() {
                    enqueue_users(claim, queue);
                }
            })
            .watches(&informers.pods, |change, queue| {
                let pod = change.object();
                let placed =
                    change.old().map(|old| pods::node_name(old)) != Some(pods::node_name(pod));
                if entries(pod).next().is_some() && (placed || change.is_deletion()) {
                    queue.add(Key::of(&pod.metadata));
                }
            });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

/// Returns the device of an allocation, as the newest generation of its pool describes it.
fn device<'s>(
    slices: &'s [std::sync::Arc<ResourceSlice>],
    result: &DeviceRequestAllocationResult,
) -> Option<&'s Device> {
    let of_pool = slices
        .iter()
        .filter(|slice| slice.spec.driver == result.driver && slice.spec.pool.name == result.pool);
    let newest = of_pool.clone().map(|s| s.spec.pool.generation).max()?;
    let current = of_pool.filter(|slice| slice.spec.pool.generation == newest);
    let mut devices = current.flat_map(|slice| slice.spec.devices.iter().flatten());
    devices.find(|device| device.name == result.device)
}

/// Returns when the taints of a device end its use by a claim, `None` if they do not.
fn end(
    device: &Device,
    result: &DeviceRequestAllocationResult,
    now: Timestamp,
) -> Option<Timestamp> {
    let of_taint = |taint: &DeviceTaint| {
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let tolerations = result.tolerations.iter().flatten();
        let mut tolerations = tolerations
            .filter(|t| t.effect.as_deref() == Some("NoExecute") && tolerates(t, taint))
            .map(|t| t.toleration_seconds)
            .peekable();
        if tolerations.peek().is_none() {
            return Some(since);
        }
        // Without a number of seconds, the taint is tolerated for ever.
        let least = tolerations
            .collect::<Option<Vec<i64>>>()?
            .into_iter()
            .min()?;
        let period = jiff::SignedDuration::from_secs(least.max(0));
        since.checked_add(period).ok().or(Some(Timestamp::MAX))
    };
    no_execute(device).filter_map(of_taint).min()
}

impl DeviceTaintController {
    /// Returns when a pod must be evicted.
    fn eviction(&self, pod: &Pod, now: Timestamp) -> Option<Timestamp> {
        if pods::node_name(pod).is_empty() {
            return None;
        }
        let informers = &self.ctx.informers;
        let slices = informers.resource_slices.list();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut first = None;
        for entry in entries(pod) {
            let Some(Some(name)) = claim_name(pod, entry) else {
                continue;
            };
            let Some(claim) = informers.device_claims.get(namespace, name) else {
                continue;
            };
            let generated = entry.resource_claim_name.is_none();
            let users = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref());
            let reserved = users.into_iter().flatten().any(|user| user.uid == uid);
            if !reserved || (generated && !owners::is_controlled_by(&claim.metadata, uid)) {
                continue;
            }
            let ends =
                results(&claim).filter_map(|result| end(device(&slices, result)?, result, now));
            first = ends.chain(first).min();
        }
        first
    }

    async fn sync(&self, key: Key) -> Result<()> {
        let Some(pod) = self.ctx.informers.pods.by_key(&key) else {
            self.forget_deleted();
            return Ok(());
        };
        if pods::is_deleting(&pod) {
            return Ok(());
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let now = self.ctx.now();
        let Some(when) = self.eviction(&pod, now) else {
            if self.marked.lock().remove(&uid) {
                self.record_event(&pod, "Cancelling deletion");
            }
            return Ok(());
        };
        self.marked.lock().insert(uid);
        let left = Duration::try_from(when.duration_since(now)).unwrap_or_default();
        if !left.is_zero() {
            self.queue.add_after(key, left);
            return Ok(());
        }
        self.evict(&pod).await
    }

    /// Forgets the pods that are gone.
    fn forget_deleted(&self) {
        if self.marked.lock().is_empty() {
            return;
        }
        let pods = self.ctx.informers.pods.list();
        let known: HashSet<&str> = pods
            .iter()
            .filter_map(|p| p.metadata.uid.as_deref())
            .collect();
        self.marked
            .lock()
            .retain(|uid| known.contains(uid.as_str()));
    }

    fn record_event(&self, pod: &Pod, message: &str) {
        let meta = &pod.metadata;
        let pod = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..Default::default()
        };
        let reason = "DeviceTaintManagerEviction";
        let recorder = &self.ctx.recorder;
        recorder.event_about(NAME, pod, Normal, reason, message.to_owned());
    }

    async fn evict(&self, pod: &Pod) -> Result<()> {
        self.record_event(pod, "Marking for deletion");
        let text = "Device Taint manager: deleting due to NoExecute taint";
        let reason = "DeletionByDeviceTaintManager";
        let condition = conditions::disruption(pod, reason, text, self.ctx.now());
        let patch = Patch::Strategic(conditions::patch(pod, condition));
        let store = &self.ctx.informers.pods;
        let meta = &pod.metadata;
        optional(self.ctx.patch(store, meta, Some("status"), &patch).await)?;
        optional(self.ctx.delete(store, meta, &Deletion::default()).await)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_delay_evictions() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |seconds: i64| Some(start + jiff::SignedDuration::from_secs(seconds));
        let taint = json!({"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": start.to_string()});
        let tolerate = |seconds: serde_json::Value| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        for (taints, tolerations, want) in [
            (json!([]), json!([]), None),
            (
                json!([{"key": "k", "effect": "NoSchedule"}]),
                json!([]),
                None,
            ),
            (json!([taint]), json!([]), after(0)),
            (json!([taint]), json!([tolerate(json!(null))]), None),
            (
                json!([taint]),
                json!([tolerate(json!(30)), tolerate(json!(20))]),
                after(20),
            ),
            (json!([taint]), json!([tolerate(json!(-5))]), after(0)),
            // Only tolerations of this very effect count.
            (json!([taint]), json!([{"operator": "Exists"}]), after(0)),
        ] {
            let device = json!({"name": "d", "taints": taints});
            let result = json!({"request": "r", "driver": "x", "pool": "p", "device": "d", "tolerations": tolerations});
            let device: Device = serde_json::from_value(device).unwrap();
            let result = serde_json::from_value(result).unwrap();
            assert_eq!(end(&device, &result, start), want, "{taints} {tolerations}");
        }
    }

    #[test]
    fn the_newest_generation_counts() {
        let slice = |generation: i64, taint: &str| -> std::sync::Arc<ResourceSlice> {
            let slice = json!({"metadata": {"name": format!("s{generation}")}, "spec": {
                "driver": "x", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                "devices": [{"name": "d", "taints": [{"key": taint, "effect": "NoExecute"}]}]}});
            std::sync::Arc::new(serde_json::from_value(slice).unwrap())
        };
        let slices = [slice(2, "new"), slice(1, "old")];
        let result = json!({"request": "r", "driver": "x", "pool": "p", "device": "d"});
        let result = serde_json::from_value(result).unwrap();
        let found = device(&slices, &result).unwrap();
        assert_eq!(no_execute(found).next().unwrap().key, "new");
    }
}
