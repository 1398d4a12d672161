//! The pools of devices that a node can reach.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{Counter, Device, ResourceSlice};
use rkube_component_helpers::node_affinity::term_matches;

use crate::allocator::Node;
use crate::state::DeviceId;

/// A device, with where it comes from.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub id: DeviceId,
    pub device: &'a Device,
    pub slice: &'a ResourceSlice,
}

/// The counters of a set, by name.
pub(crate) type CounterSet<'a> = &'a BTreeMap<String, Counter>;

/// The devices of a pool that a node can reach.
#[derive(Debug, Default)]
pub(crate) struct Pool<'a> {
    pub driver: &'a str,
    pub name: &'a str,
    /// Whether slices are missing: the driver is about to publish them.
    pub incomplete: bool,
    /// Whether the slices contradict each other.
    pub invalid: bool,
    /// The devices of slices for this node, in order.
    pub devices: Vec<Candidate<'a>>,
    /// The devices of other slices. They matter if they use the same counters.
    others: Vec<Candidate<'a>>,
    pub counter_sets: BTreeMap<&'a str, CounterSet<'a>>,
}

impl<'a> Pool<'a> {
    /// Returns all devices that are known, whether the node can reach them or not.
    pub(crate) fn all_devices(&self) -> impl Iterator<Item = (&DeviceId, &'a Device)> {
        let all = self.devices.iter().chain(&self.others);
        all.map(|candidate| (&candidate.id, candidate.device))
    }

    fn is_bound_late(&self) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|candidate| candidate.device.binding_conditions.is_some())
    }
}

/// Returns whether a node is among those that a slice or device names.
pub(crate) fn node_matches(
    node: Node<'_>,
    name: Option<&str>,
    all: Option<bool>,
    selector: Option<&NodeSelector>,
) -> bool {
    match (name.unwrap_or_default(), all, selector) {
        ("", Some(true), _) => true,
        ("", _, Some(selector)) => selector
            .node_selector_terms
            .iter()
            .any(|term| term_matches(term, node.name, node.labels)),
        ("", _, None) => false,
        (name, ..) => name == node.name,
    }
}

/// Returns whether a node can reach a device whose slice leaves that to its devices.
pub(crate) fn reaches(node: Node<'_>, device: &Device) -> bool {
    let selector = device.node_selector.as_ref();
    node_matches(
        node,
        device.node_name.as_deref(),
        device.all_nodes,
        selector,
    )
}

fn has_counters(slice: &ResourceSlice) -> bool {
    slice
        .spec
        .shared_counters
        .as_ref()
        .is_some_and(|c| !c.is_empty())
}

/// Returns whether a slice matters for a node. Slices with counters always do.
fn is_relevant(node: Node<'_>, slice: &ResourceSlice) -> bool {
    let spec = &slice.spec;
    let named = spec
        .node_name
        .as_deref()
        .is_some_and(|name| !name.is_empty());
    if has_counters(slice) {
        true
    } else if named || spec.all_nodes == Some(true) || spec.node_selector.is_some() {
        let selector = spec.node_selector.as_ref();
        node_matches(node, spec.node_name.as_deref(), spec.all_nodes, selector)
    } else {
        let mut devices = spec.devices.iter().flatten();
        spec.per_device_node_selection == Some(true) && devices.any(|d| reaches(node, d))
    }
}

/// Collects the pools that a node can reach, in the order in which they are tried: those whose
/// devices need preparation before a pod is bound come last.
pub(crate) fn gather<'a>(slices: &'a [Arc<ResourceSlice>], node: Node<'_>) -> Vec<Pool<'a>> {
    let mut found: BTreeMap<(&str, &str), Vec<&'a ResourceSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| is_relevant(node, slice)) {
        let pool = &slice.spec.pool;
        let known = found.entry((&slice.spec.driver, &pool.name)).or_default();
        match known.first().map(|first| first.spec.pool.generation) {
            Some(generation) if pool.generation < generation => continue,
            Some(generation) if pool.generation > generation => known.clear(),
            _ => {}
        }
        known.push(slice);
    }
    let pools = found.into_iter().filter_map(|((driver, name), mut own)| {
        own.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        pool(driver, name, &own, slices)
    });
    let (late, mut pools): (Vec<_>, Vec<_>) = pools.partition(Pool::is_bound_late);
    pools.extend(late);
    pools
}

/// Returns a pool, `None` if a newer generation of it is not for this node.
fn pool<'a>(
    driver: &'a str,
    name: &'a str,
    own: &[&'a ResourceSlice],
    slices: &'a [Arc<ResourceSlice>],
) -> Option<Pool<'a>> {
    let mut pool = Pool {
        driver,
        name,
        ..Pool::default()
    };
    let first = &own.first()?.spec.pool;
    let mut all: Vec<&ResourceSlice> = own.to_vec();
    if own.len() as i64 != first.resource_slice_count {
        let of_pool = slices
            .iter()
            .map(|slice| &**slice)
            .filter(|s| s.spec.driver == driver && s.spec.pool.name == name);
        if of_pool
            .clone()
            .any(|s| s.spec.pool.generation > first.generation)
        {
            return None;
        }
        all = of_pool
            .filter(|s| s.spec.pool.generation == first.generation)
            .collect();
        if all.len() as i64 != first.resource_slice_count {
            pool.incomplete = true;
            return Some(pool);
        }
    }
    match counter_sets(own) {
        Some(sets) => pool.counter_sets = sets,
        None => {
            pool.invalid = true;
            return Some(pool);
        }
    }
    let is_own = |slice: &ResourceSlice| own.iter().any(|s| s.metadata.name == slice.metadata.name);
    let devices = own.iter().filter(|slice| !has_counters(slice));
    pool.devices = devices.flat_map(|slice| candidates(slice)).collect();
    let others = all.iter().filter(|slice| !is_own(slice));
    pool.others = others.flat_map(|slice| candidates(slice)).collect();
    let mut names = HashSet::new();
    let unique = pool.devices.iter().all(|c| names.insert(&c.device.name));
    let counted = pool
        .all_devices()
        .all(|(_, device)| counters_exist(&pool, device));
    if !unique || !counted {
        pool.invalid = true;
        pool.devices.clear();
    }
    Some(pool)
}

fn candidates(slice: &ResourceSlice) -> impl Iterator<Item = Candidate<'_>> {
    let devices = slice.spec.devices.iter().flatten();
    devices.map(move |device| Candidate {
        id: DeviceId::new(&slice.spec.driver, &slice.spec.pool.name, &device.name),
        device,
        slice,
    })
}

/// Returns the counter sets of the slices, `None` if two have the same name.
fn counter_sets<'a>(slices: &[&'a ResourceSlice]) -> Option<BTreeMap<&'a str, CounterSet<'a>>> {
    let mut sets = BTreeMap::new();
    for set in slices
        .iter()
        .flat_map(|s| s.spec.shared_counters.iter().flatten())
    {
        if sets.insert(set.name.as_str(), &set.counters).is_some() {
            return None;
        }
    }
    Some(sets)
}

fn counters_exist(pool: &Pool<'_>, device: &Device) -> bool {
    device.consumes_counters.iter().flatten().all(|from| {
        let set = pool.counter_sets.get(from.counter_set.as_str());
        set.is_some_and(|set| from.counters.keys().all(|name| set.contains_key(name)))
    })
}
