//! Ranges of cluster IPs: reports those that are ready, and keeps those that are still needed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use rkube_component_helpers::conditions::set_condition;
use rkube_component_helpers::label_selector;

use crate::common::pods::until;
use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::Key;
use crate::queue::Queue;

/// Finalizer of ranges.
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Label of addresses that the API server has allocated.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// Seconds from the deletion of a range until its finalizer is removed. By then no API server
/// allocates from it.
const GRACE_SECONDS: i64 = 10;

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let spec = cidr.spec.as_ref();
    let cidrs = spec.and_then(|spec| spec.cidrs.as_ref());
    let parsed = cidrs.into_iter().flatten().filter_map(|c| c.parse().ok());
    parsed.collect()
}

/// Returns whether nothing is lost with a range: others contain it, or all allocated addresses in it.
fn is_needless(cidr: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others: Vec<IpNet> = all
        .iter()
        .filter(|other| other.metadata.name != cidr.metadata.name)
        .flat_map(|other| ranges(other))
        .collect();
    let own = ranges(cidr);
    if own
        .iter()
        .all(|range| others.iter().any(|other| other.contains(range)))
    {
        return true;
    }
    let allocated = addresses.iter().filter(|address| {
        let labels = label_selector::labels_or_empty(address.metadata.labels.as_ref());
        labels.get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR)
    });
    let mut numbers = allocated.filter_map(|a| a.metadata.name.as_ref()?.parse::<IpAddr>().ok());
    let within = |ranges: &[IpNet], ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
    !numbers.any(|ip| within(&own, &ip) && !within(&others, &ip))
}

/// Returns the condition `Ready`.
fn condition(ready: bool, now: Timestamp) -> Condition {
    let (status, reason, message) = if ready {
        ("True", "", "Kubernetes Service CIDR is ready")
    } else {
        (
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        )
    };
    Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    }
}

/// The controller of the ranges of cluster IPs.
pub struct ServiceCidrController {
    ctx: Context,
    queue: Queue<Key>,
}

impl ServiceCidrController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }

    async fn report(&self, cidr: &ServiceCIDR, ready: bool) -> Result<()> {
        let mut changed = cidr.clone();
        let conditions = changed
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        set_condition(conditions, condition(ready, self.ctx.now()));
        if changed.status == cidr.status {
            return Ok(());
        }
        let store = &self.ctx.informers.service_cidrs;
        optional(self.ctx.update_status(store, &changed).await).map(drop)
    }

    async fn finalizers(&self, cidr: &ServiceCIDR, held: bool) -> Result<Option<Arc<ServiceCIDR>>> {
        let mut changed = cidr.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if held {
            finalizers.push(FINALIZER.into());
        }
        let store = &self.ctx.informers.service_cidrs;
        optional(self.ctx.update(store, &changed).await)
    }
}

impl Controller for ServiceCidrController {
    type Item = Key;

    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        // A range may become needless when another one is added, or an address is released.
        let all = informers.service_cidrs.clone();
        watches.watches(&informers.service_cidrs, move |change, queue| {
            queue.add(Key::of(&change.object().metadata));
            for cidr in all.list() {
                if cidr.metadata.deletion_timestamp.is_some() {
                    queue.add(Key::of(&cidr.metadata));
                }
            }
        });
        let all = informers.service_cidrs.clone();
        watches.watches(&informers.ip_addresses, move |change, queue| {
            for cidr in all.list() {
                if change.is_deletion() && cidr.metadata.deletion_timestamp.is_some() {
                    queue.add(Key::of(&cidr.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let informers = &self.ctx.informers;
        let Some(mut cidr) = informers.service_cidrs.by_key(&key) else {
            return Ok(());
        };
        let finalizers = cidr.metadata.finalizers.as_deref().unwrap_or_default();
        let held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        if let Some(deleted) = cidr.metadata.deletion_timestamp.clone() {
            let all = informers.service_cidrs.list();
            if !is_needless(&cidr, &all, &informers.ip_addresses.list()) {
                return self.report(&cidr, false).await;
            }
            let left = until(deleted.0, GRACE_SECONDS, self.ctx.now());
            if !left.is_zero() {
                self.queue
                    .add_after(key, left.max(Duration::from_millis(10)));
            } else if held {
                self.finalizers(&cidr, false).await?;
            }
            return Ok(());
        }
        if !held {
            let Some(updated) = self.finalizers(&cidr, true).await? else {
                return Ok(());
            };
            cidr = updated;
        }
        self.report(&cidr, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_with_addresses_stay() {
        let cidr = |name: &str, range: &str| {
            let value = json!({"metadata": {"name": name}, "spec": {"cidrs": [range]}});
            Arc::new(serde_json::from_value::<ServiceCIDR>(value).unwrap())
        };
        let address = |ip: &str, by: &str| {
            let value = json!({"metadata": {"name": ip, "labels": {MANAGED_BY: by}}});
            Arc::new(serde_json::from_value::<IPAddress>(value).unwrap())
        };
        let (small, large) = (cidr("s", "10.0.1.0/24"), cidr("l", "10.0.0.0/16"));
        let alone = [small.clone()];
        let both = [small.clone(), large.clone()];
        let used = [address("10.0.1.7", ALLOCATOR)];
        assert!(is_needless(&small, &alone, &[]));
        assert!(!is_needless(&small, &alone, &used));
        assert!(is_needless(&small, &alone, &[address("10.0.1.7", "me")]));
        assert!(is_needless(&small, &both, &used));
        // The small range has the only address of the large one.
        assert!(is_needless(&large, &both, &used));
        assert!(!is_needless(
            &large,
            &both,
            &[address("10.0.2.7", ALLOCATOR)]
        ));
    }
}
