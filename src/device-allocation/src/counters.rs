//! Counters that the devices of a pool share: partitions of one physical device.

use std::collections::HashMap;

use k8s_openapi::api::resource::v1::Device;
use rkube_api::quantity::Quantity;

use crate::pools::Pool;
use crate::state::{AllocatedState, amount};

/// A counter: the names of its set and itself.
type Name<'a> = (&'a str, &'a str);

/// The counters of one pool during a search.
#[derive(Debug)]
pub(crate) struct Counters<'a> {
    /// What each counter has left beside the devices that claims hold; can be negative.
    available: HashMap<Name<'a>, Quantity>,
    /// What the devices of the search consume.
    consumed: HashMap<Name<'a>, Quantity>,
}

fn uses(device: &Device) -> impl Iterator<Item = (Name<'_>, Quantity)> {
    device.consumes_counters.iter().flatten().flat_map(|from| {
        from.counters.iter().map(|(name, counter)| {
            (
                (from.counter_set.as_str(), name.as_str()),
                amount(&counter.value),
            )
        })
    })
}

impl<'a> Counters<'a> {
    /// Computes what the counters of a pool have left.
    pub(crate) fn new(pool: &Pool<'a>, allocated: &AllocatedState) -> Self {
        let mut available: HashMap<Name<'a>, Quantity> = HashMap::new();
        for (set, counters) in &pool.counter_sets {
            for (name, counter) in *counters {
                available.insert((set, name), amount(&counter.value));
            }
        }
        for (id, device) in pool.all_devices() {
            if !allocated.holds(id) {
                continue;
            }
            for (name, used) in uses(device) {
                if let Some(left) = available.get_mut(&name) {
                    *left = *left - used;
                }
            }
        }
        Self {
            available,
            consumed: HashMap::new(),
        }
    }

    /// Consumes what a device needs. Returns false, and consumes nothing, if it is not left. A
    /// counter that claims have overdrawn blocks the whole pool.
    pub(crate) fn consume(&mut self, device: &'a Device) -> bool {
        for (name, used) in uses(device) {
            let sum = self.consumed.entry(name).or_insert(Quantity::ZERO);
            *sum = *sum + used;
        }
        let enough = self.available.iter().all(|(name, left)| {
            let used = self.consumed.get(name).copied();
            used.unwrap_or(Quantity::ZERO) <= *left
        });
        if !enough {
            self.release(device);
        }
        enough
    }

    /// Takes back what [`Self::consume`] has consumed.
    pub(crate) fn release(&mut self, device: &'a Device) {
        for (name, used) in uses(device) {
            if let Some(sum) = self.consumed.get_mut(&name) {
                *sum = *sum - used;
            }
        }
    }
}
