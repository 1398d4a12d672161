//! Which devices there are and who has which: pure decisions, without sockets or clocks.
//!
//! Rules, order of checks and messages are those of upstream's device manager.

use std::collections::BTreeMap;

use super::types::{Allocation, Capacity, Device, Ids, Options, Request, ResourceHealth, Role};
use super::{NO_NUMA, options};
use crate::api::device_plugin::{self as api, ContainerAllocateResponse};

/// A resource and its plugin.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// All devices of the last list.
    pub devices: BTreeMap<String, Device>,
    /// Devices that can be allocated.
    pub healthy: Ids,
    /// Devices that count for the capacity only.
    pub unhealthy: Ids,
    /// What the plugin wants to be asked; `None` if it is not connected.
    pub options: Option<api::DevicePluginOptions>,
    /// Number of the plugin's connection; later ones have higher numbers.
    pub connection: u64,
}

/// Allocations of a container by resource.
type OfContainer = BTreeMap<String, Allocation>;

/// A choice that is not final: the plugin is being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    pod: String,
    resource: String,
    ids: Ids,
}

/// All devices of a node.
#[derive(Clone, Debug, Default)]
pub struct State {
    resources: BTreeMap<String, Resource>,
    /// Allocations by pod UID and container.
    allocations: BTreeMap<String, BTreeMap<String, OfContainer>>,
    pending: Vec<Pending>,
    connections: u64,
}

/// Devices that init containers of a pod leave to later containers, by resource.
pub type Reusable = BTreeMap<String, Ids>;

/// What to do for a container's request of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nothing: it needs none, or has its devices.
    Nothing,
    /// Allocate these devices.
    Devices(Ids),
    /// Ask the plugin which are best, then decide with [`State::choose_with`].
    Ask {
        /// The devices to choose from.
        available: Ids,
        /// Devices that the container gets in any case.
        must_include: Ids,
    },
}

impl State {
    /// Returns the resource.
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.get(name)
    }

    /// Adds a resource's plugin, or replaces it. Returns the number of the connection.
    pub fn connect(&mut self, resource: &str, options: api::DevicePluginOptions) -> u64 {
        self.connections += 1;
        let known = self.resources.entry(resource.to_owned()).or_default();
        known.options = Some(options);
        known.connection = self.connections;
        self.connections
    }

    /// Notes that a plugin is gone: its devices cannot be used. Returns whether that is news; the
    /// connection may have been replaced.
    pub fn disconnect(&mut self, resource: &str, connection: u64) -> bool {
        let Some(known) = self.resources.get_mut(resource) else {
            return false;
        };
        if known.connection != connection || known.options.is_none() {
            return false;
        }
        known.options = None;
        known.unhealthy.append(&mut known.healthy);
        true
    }

    /// Removes a resource whose plugin did not come back.
    pub fn remove(&mut self, resource: &str, connection: u64) -> bool {
        let gone = self
            .resources
            .get(resource)
            .is_some_and(|r| r.connection == connection && r.options.is_none());
        if gone {
            self.resources.remove(resource);
        }
        gone
    }

    /// Takes over a plugin's list of devices. Returns the UIDs of the pods that have a device whose
    /// health changed; `None` if the list is of an earlier connection.
    pub fn update(
        &mut self,
        resource: &str,
        connection: u64,
        devices: Vec<api::Device>,
    ) -> Option<Vec<String>> {
        let known = self.resources.get_mut(resource)?;
        if known.connection != connection {
            return None;
        }
        let old = std::mem::take(&mut known.devices);
        (known.healthy, known.unhealthy) = Default::default();
        let mut changed = Ids::new();
        for device in devices {
            let healthy = device.health == api::HEALTHY;
            // A device that was away may still belong to a pod.
            if old.get(&device.id).is_none_or(|old| old.healthy != healthy) {
                changed.insert(device.id.clone());
            }
            known.healthy.remove(&device.id);
            known.unhealthy.remove(&device.id);
            if healthy {
                known.healthy.insert(device.id.clone());
            } else {
                known.unhealthy.insert(device.id.clone());
            }
            let nodes = device.topology.map(|t| t.nodes).unwrap_or_default();
            let numa = nodes.into_iter().map(|node| node.id).collect();
            known.devices.insert(device.id, Device { healthy, numa });
        }
        let holds = |containers: &BTreeMap<String, OfContainer>| {
            let of_resource = containers.values().filter_map(|c| c.get(resource));
            let mut ids = of_resource.flat_map(|a| a.ids.values().flatten());
            ids.any(|id| changed.contains(id))
        };
        let pods = self.allocations.iter().filter(|(_, c)| holds(c));
        Some(pods.map(|(uid, _)| uid.clone()).collect())
    }

    /// Returns the numbers of devices, for the node's status.
    pub fn capacity(&self) -> Capacity {
        let count = |r: &Resource| {
            let healthy = r.healthy.len() as u64;
            (healthy + r.unhealthy.len() as u64, healthy)
        };
        let counts = self
            .resources
            .iter()
            .map(|(name, r)| (name.clone(), count(r)));
        Capacity {
            resources: counts.collect(),
            removed: Default::default(),
        }
    }

    /// Returns whether a resource is a device plugin's: there is a plugin, was one lately, or its
    /// devices are in use.
    pub fn is_device(&self, resource: &str) -> bool {
        let used = || {
            let of_containers = self.allocations.values().flat_map(BTreeMap::values);
            let mut used = of_containers.flat_map(BTreeMap::keys);
            used.any(|name| name == resource)
        };
        self.resources.contains_key(resource) || used()
    }

    /// Returns the devices of a resource that are allocated or being allocated.
    fn used(&self, resource: &str) -> Ids {
        let of_containers = self.allocations.values().flat_map(BTreeMap::values);
        let held = of_containers.filter_map(|c| c.get(resource));
        let pending = self.pending.iter().filter(|p| p.resource == resource);
        held.flat_map(Allocation::devices)
            .chain(pending.flat_map(|p| p.ids.iter().cloned()))
            .collect()
    }

    /// Returns the devices of a container; `None` if none was ever allocated to it.
    pub fn of_container(&self, pod: &str, container: &str, resource: &str) -> Option<Ids> {
        let allocation = self.allocations.get(pod)?.get(container)?.get(resource)?;
        Some(allocation.devices())
    }

    /// Decides which devices a container gets.
    ///
    /// # Errors
    ///
    /// Returns upstream's message if there are not enough.
    pub fn choose(
        &self,
        pod: &str,
        container: &str,
        resource: &str,
        required: usize,
        reusable: &Ids,
    ) -> Result<Choice, String> {
        let held = self.of_container(pod, container, resource);
        if let Some(held) = &held
            && held.len() != required
        {
            return Err(format!(
                "pod {pod:?} container {container:?} changed request for resource {resource:?} from {} to {required}",
                held.len()
            ));
        }
        let Some(known) = self.resources.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        if known.healthy.is_empty() {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {resource}"
            ));
        }
        if !held.iter().flatten().all(|id| known.healthy.contains(id)) {
            return Err(format!(
                "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            ));
        }
        if held.is_some() || required == 0 {
            return Ok(Choice::Nothing);
        }
        let taken: Ids = reusable.iter().take(required).cloned().collect();
        let needed = required - taken.len();
        if needed == 0 {
            return Ok(Choice::Devices(taken));
        }
        let available = self.available(resource);
        if available.len() < needed {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}",
                available.len()
            ));
        }
        let asks = |options: &api::DevicePluginOptions| options.get_preferred_allocation_available;
        if known.options.as_ref().is_some_and(asks) {
            return Ok(Choice::Ask {
                available: &available | &taken,
                must_include: taken,
            });
        }
        Ok(Choice::Devices(fill(taken, required, &available)))
    }

    /// Returns the healthy devices that nobody has.
    fn available(&self, resource: &str) -> Ids {
        let healthy = self.resources.get(resource).map(|r| &r.healthy);
        healthy.map_or_else(Ids::new, |healthy| healthy - &self.used(resource))
    }

    /// Decides which devices a container gets after the plugin named the best. Those that it may not
    /// have are passed over. Others may have got devices meanwhile.
    ///
    /// # Errors
    ///
    /// Returns upstream's message if there are not enough.
    pub fn choose_with(
        &self,
        resource: &str,
        required: usize,
        must_include: Ids,
        preferred: &Ids,
    ) -> Result<Ids, String> {
        let available = self.available(resource);
        let best = fill(must_include, required, &(preferred & &available));
        let all = fill(best, required, &available);
        if all.len() < required {
            return Err(format!(
                "unexpectedly allocated less resources than required. Requested: {required}, Got: {}",
                all.len()
            ));
        }
        Ok(all)
    }

    /// Keeps devices for a pod while its plugin is asked.
    pub fn reserve(&mut self, pod: &str, resource: &str, ids: &Ids) {
        self.pending.push(Pending {
            pod: pod.to_owned(),
            resource: resource.to_owned(),
            ids: ids.clone(),
        });
    }

    /// Ends the reservation of [`State::reserve`].
    pub fn release(&mut self, pod: &str, resource: &str) {
        self.pending
            .retain(|p| p.pod != pod || p.resource != resource);
    }

    /// Gives devices to a container.
    pub fn insert(
        &mut self,
        pod: &str,
        container: &str,
        resource: &str,
        ids: &Ids,
        response: ContainerAllocateResponse,
    ) {
        let devices = self.resources.get(resource).map(|r| &r.devices);
        let mut by_numa: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            let numa = devices.and_then(|d| d.get(id)).map(|d| d.numa.as_slice());
            match numa {
                None | Some([]) => by_numa.entry(NO_NUMA).or_default().push(id.clone()),
                Some(nodes) => {
                    for node in nodes {
                        by_numa.entry(*node).or_default().push(id.clone());
                    }
                }
            }
        }
        let allocation = Allocation {
            ids: by_numa,
            response,
        };
        self.restore(pod, container, resource, allocation);
    }

    /// Takes over an allocation of an earlier agent.
    pub fn restore(&mut self, pod: &str, container: &str, resource: &str, allocation: Allocation) {
        let containers = self.allocations.entry(pod.to_owned()).or_default();
        let resources = containers.entry(container.to_owned()).or_default();
        resources.insert(resource.to_owned(), allocation);
    }

    /// Takes over a resource of an earlier agent. It has no devices until its plugin comes back.
    pub fn restore_resource(&mut self, resource: &str) {
        self.resources.entry(resource.to_owned()).or_default();
    }

    /// Changes what a pod's later containers can reuse after a container got its devices.
    pub fn pass_on(&self, pod: &str, request: &Request, reusable: &mut Reusable) {
        let containers = self.allocations.get(pod);
        for (resource, held) in containers
            .and_then(|c| c.get(&request.container))
            .into_iter()
            .flatten()
        {
            let left = reusable.entry(resource.clone()).or_default();
            match request.role {
                Role::Init => left.extend(held.devices()),
                Role::Lasting => *left = &*left - &held.devices(),
            }
        }
    }

    /// Takes a pod's devices back; returns whether it had any.
    pub fn free(&mut self, pod: &str) -> bool {
        self.pending.retain(|p| p.pod != pod);
        self.allocations.remove(pod).is_some()
    }

    /// Returns the UIDs of the pods that have devices.
    pub fn pods(&self) -> Vec<String> {
        self.allocations.keys().cloned().collect()
    }

    /// Returns all allocations: pod, container, resource, devices.
    pub fn allocations(&self) -> impl Iterator<Item = (&str, &str, &str, &Allocation)> {
        self.allocations.iter().flat_map(|(pod, containers)| {
            containers.iter().flat_map(move |(container, resources)| {
                let of_container = resources.iter();
                of_container.map(move |(r, a)| (pod.as_str(), container.as_str(), r.as_str(), a))
            })
        })
    }

    /// Returns the resources and their devices.
    pub fn resources(&self) -> impl Iterator<Item = (&str, &Resource)> {
        self.resources.iter().map(|(name, r)| (name.as_str(), r))
    }

    /// Returns the allocations of a container by resource.
    pub fn held(&self, pod: &str, container: &str) -> impl Iterator<Item = (&str, &Allocation)> {
        let containers = self.allocations.get(pod);
        let held = containers
            .and_then(|c| c.get(container))
            .into_iter()
            .flatten();
        held.map(|(resource, allocation)| (resource.as_str(), allocation))
    }

    /// Returns what the runtime does for a container's devices.
    pub fn options(&self, pod: &str, container: &str) -> Options {
        options::combined(self.held(pod, container).map(|(_, a)| &a.response))
    }

    /// Returns the health of a container's devices. Those that are not known are healthy, as
    /// upstream says.
    pub fn health(&self, pod: &str, container: &str) -> Vec<ResourceHealth> {
        let health = |(resource, allocation): (&str, &Allocation)| {
            let known = self.resources.get(resource);
            let healthy = |id: &String| match known.and_then(|r| r.devices.get(id)) {
                Some(device) => device.healthy && !known.is_some_and(|r| r.unhealthy.contains(id)),
                None => true,
            };
            let ids = allocation.devices().into_iter();
            ResourceHealth {
                resource: resource.to_owned(),
                devices: ids.map(|id| (id.clone(), healthy(&id))).collect(),
            }
        };
        self.held(pod, container).map(health).collect()
    }
}

/// Adds devices of `from` to `ids` until there are `required`.
fn fill(mut ids: Ids, required: usize, from: &Ids) -> Ids {
    for id in from {
        if ids.len() >= required {
            break;
        }
        ids.insert(id.clone());
    }
    ids
}
