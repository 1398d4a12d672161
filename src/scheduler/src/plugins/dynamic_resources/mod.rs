//! DynamicResources: chooses devices for the resource claims of pods, and nodes on which the devices
//! are.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceClass, DeviceRequestAllocationResult, ResourceClaim, ResourceSlice,
};
use rkube_component_helpers::node_affinity::{NodeTerm, node_terms};
use rkube_device_allocation::{AllocatedState, Allocator, Failure, MAX_ALTERNATIVES, Node, World};

use super::types::{Plugin, Rejection};
use crate::cluster::Cluster;
use crate::devices::{Devices, Reservation, allocation, full_name};
use crate::model::{NodeInfo, PodInfo};

/// How long the search for devices may take.
const FILTER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long devices may take to get ready before a pod is bound.
pub const BINDING_TIMEOUT: Duration = Duration::from_secs(600);

fn refuse(why: impl Into<std::borrow::Cow<'static, str>>) -> Rejection {
    Rejection::unresolvable(Plugin::DynamicResources, why)
}

/// A claim of the pod.
struct Wanted {
    claim: Arc<ResourceClaim>,
    /// The nodes on which its devices are, of which one term must match; `None` for all.
    places: Option<Vec<NodeTerm>>,
    /// Whether its devices failed to get ready.
    failed: bool,
}

/// What is computed once per pod if one of its claims has no devices.
struct Search<'a> {
    devices: &'a Devices,
    /// When it is given up, on all nodes together: they are tried one after another.
    deadline: Instant,
    slices: Vec<Arc<ResourceSlice>>,
    allocated: AllocatedState,
    /// What was found, by node.
    found: RefCell<HashMap<String, Vec<AllocationResult>>>,
}

/// Filter state that is computed once per pod.
#[derive(Default)]
pub struct Filter<'a> {
    wanted: Vec<Wanted>,
    search: Option<Search<'a>>,
    /// The claims that rejected a node although they have devices.
    unavailable: RefCell<BTreeSet<usize>>,
}

struct Timed<'a> {
    devices: &'a Devices,
    deadline: Instant,
}

impl World for Timed<'_> {
    fn class(&self, name: &str) -> Option<&DeviceClass> {
        self.devices.classes.get(name)
    }

    fn new_uid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

impl<'a> Filter<'a> {
    /// Looks up the pod's resource claims.
    ///
    /// # Errors
    ///
    /// Rejects the pod on all nodes if a claim does not exist, is being deleted, is of another pod,
    /// is being allocated, or asks for an unknown class.
    pub fn new(pod: &PodInfo, cluster: &'a Cluster) -> Result<Self, Rejection> {
        if pod.device_claims.is_empty() {
            return Ok(Self::default());
        }
        let devices = &cluster.devices;
        let claims = devices.claims_of(pod).map_err(refuse)?;
        let mut searches = false;
        let mut wanted = Vec::with_capacity(claims.len());
        for claim in claims {
            let (mut places, mut failed) = (None, false);
            match allocation(&claim) {
                Some(found) => {
                    places = found.node_selector.as_ref().map(node_terms);
                    failed = match readiness(&claim) {
                        Readiness::Failed(_) => true,
                        Readiness::Waiting => is_overdue(&claim, Timestamp::now()),
                        Readiness::Ready => false,
                    };
                }
                None => {
                    if devices.is_pending(&claim) {
                        let name = full_name(&claim);
                        return Err(refuse(format!(
                            "resource claim {name} is in the process of being allocated"
                        )));
                    }
                    check_classes(&claim, devices)?;
                    searches = true;
                }
            }
            wanted.push(Wanted {
                claim,
                places,
                failed,
            });
        }
        let search = searches.then(|| Search {
            devices,
            deadline: Instant::now() + FILTER_TIMEOUT,
            slices: devices.slices.values().cloned().collect(),
            allocated: devices.allocated(),
            found: RefCell::default(),
        });
        Ok(Self {
            wanted,
            search,
            unavailable: RefCell::default(),
        })
    }

    /// Rejects nodes where the allocated devices are not, and where free devices do not suffice.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let elsewhere = |wanted: &Wanted| {
            let terms = wanted.places.as_ref();
            let here = terms.is_none_or(|t| t.iter().any(|t| t.matches(&node.name, &node.labels)));
            !here || wanted.failed
        };
        let unavailable = self.wanted.iter().enumerate().filter(|(_, w)| elsewhere(w));
        let unavailable: Vec<usize> = unavailable.map(|(i, _)| i).collect();
        if let Some(search) = &self.search {
            let claims = self.wanted.iter().map(|wanted| &*wanted.claim);
            let claims: Vec<_> = claims.filter(|c| allocation(c).is_none()).collect();
            let found = search.allocate(node, &claims)?;
            if unavailable.is_empty() {
                search.found.borrow_mut().insert(node.name.clone(), found);
            }
        }
        if unavailable.is_empty() {
            return Ok(());
        }
        self.unavailable.borrow_mut().extend(unavailable);
        Err(refuse("resourceclaim not available on the node"))
    }

    /// Returns what is to be written for the pod's claims before it can run on the node.
    pub fn reservations(&self, node: &NodeInfo) -> Vec<Reservation> {
        let found = self.search.as_ref().map(|search| search.found.borrow());
        let found = found.as_ref().and_then(|found| found.get(&node.name));
        let mut found = found.into_iter().flatten().cloned();
        self.wanted
            .iter()
            .map(|wanted| Reservation {
                claim: Arc::clone(&wanted.claim),
                allocation: match allocation(&wanted.claim) {
                    Some(_) => None,
                    None => found.next(),
                },
            })
            .collect()
    }

    /// Returns the claim that gives up its devices after no node was found: one that kept the pod
    /// from a node and that nobody else uses.
    pub fn to_deallocate(&self, pod: &PodInfo) -> Option<Arc<ResourceClaim>> {
        let unavailable = self.unavailable.borrow();
        let mut claims = unavailable.iter().map(|i| &self.wanted[*i].claim);
        let unused = claims.find(|claim| {
            let users = claim
                .status
                .as_ref()
                .and_then(|s| s.reserved_for.as_deref());
            users
                .unwrap_or_default()
                .iter()
                .all(|user| user.uid == pod.uid)
        });
        unused.cloned()
    }

    /// Returns whether the pod has claims that need devices or have them.
    pub fn has_claims(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Returns how well the alternatives that were chosen suit the pod, for each node: those that
    /// come first in a request count most.
    pub fn scores(&self, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let search = self.search.as_ref()?;
        let found = search.found.borrow();
        let score = |node: &&NodeInfo| {
            let Some(found) = found.get(&node.name) else {
                return 0;
            };
            let mut found = found.iter();
            let claims = self.wanted.iter();
            claims
                .map(|wanted| match allocation(&wanted.claim) {
                    Some(known) => score(&wanted.claim, known),
                    None => found.next().map_or(0, |new| score(&wanted.claim, new)),
                })
                .sum()
        };
        Some(nodes.iter().map(score).collect())
    }
}

impl Search<'_> {
    fn allocate(
        &self,
        node: &NodeInfo,
        claims: &[&ResourceClaim],
    ) -> Result<Vec<AllocationResult>, Rejection> {
        if let Some(known) = self.found.borrow().get(&node.name) {
            return Ok(known.clone());
        }
        let world = Timed {
            devices: self.devices,
            deadline: self.deadline,
        };
        let allocator = Allocator {
            slices: &self.slices,
            allocated: &self.allocated,
            selectors: &self.devices.selectors,
        };
        let place = Node {
            name: &node.name,
            labels: &node.labels,
        };
        let fatal = |why: String| Rejection::fatal(Plugin::DynamicResources, why);
        match allocator.allocate(&world, place, claims) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(refuse("cannot allocate all claims")),
            Err(Failure::OnNode(why)) => Err(refuse(why)),
            Err(Failure::Fatal(why)) => Err(fatal(why)),
            Err(Failure::TimedOut) => Err(fatal(format!(
                "node {}: timed out trying to allocate devices",
                node.name
            ))),
        }
    }
}

/// Rejects a claim with a class that does not exist.
fn check_classes(claim: &ResourceClaim, devices: &Devices) -> Result<(), Rejection> {
    let requests = claim
        .spec
        .devices
        .as_ref()
        .and_then(|d| d.requests.as_ref());
    for request in requests.into_iter().flatten() {
        let mut classes = Vec::new();
        if let Some(exact) = &request.exactly {
            classes.push((request.name.clone(), &exact.device_class_name));
        }
        for sub in request.first_available.iter().flatten() {
            classes.push((
                format!("{}/{}", request.name, sub.name),
                &sub.device_class_name,
            ));
        }
        if classes.is_empty() {
            let (claim, request) = (full_name(claim), &request.name);
            return Err(refuse(format!(
                "resource claim {claim}, request {request}: unknown request type"
            )));
        }
        for (name, class) in classes {
            if !devices.classes.contains_key(class) {
                return Err(refuse(format!(
                    "request {name}: device class {class} does not exist"
                )));
            }
        }
    }
    Ok(())
}

fn results(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let devices = allocation.devices.as_ref();
    devices
        .and_then(|d| d.results.as_ref())
        .into_iter()
        .flatten()
}

fn score(claim: &ResourceClaim, allocation: &AllocationResult) -> i64 {
    let chosen: BTreeSet<&str> = results(allocation).map(|r| r.request.as_str()).collect();
    let requests = claim
        .spec
        .devices
        .as_ref()
        .and_then(|d| d.requests.as_ref());
    let mut score = 0;
    for request in requests.into_iter().flatten() {
        for (i, sub) in request.first_available.iter().flatten().enumerate() {
            if chosen.contains(format!("{}/{}", request.name, sub.name).as_str()) {
                score += MAX_ALTERNATIVES as i64 - i as i64;
            }
        }
    }
    score
}

/// Whether the devices of a claim are prepared for a pod to be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// They are.
    Ready,
    /// Some conditions are not true yet.
    Waiting,
    /// A condition tells that they never will be; why, in upstream's words.
    Failed(String),
}

/// Returns whether a claim has devices that must be prepared before a pod is bound.
pub fn is_bound_late(claim: &ResourceClaim) -> bool {
    allocation(claim).is_some_and(|found| {
        let mut devices = results(found);
        devices.any(|d| d.binding_conditions.as_ref().is_some_and(|c| !c.is_empty()))
    })
}

/// Returns whether the devices of a claim with devices are prepared.
pub fn readiness(claim: &ResourceClaim) -> Readiness {
    let Some(found) = allocation(claim) else {
        return Readiness::Waiting;
    };
    let known = claim.status.as_ref().and_then(|s| s.devices.as_deref());
    for device in results(found) {
        let wanted = device.binding_conditions.as_deref().unwrap_or_default();
        if wanted.is_empty() {
            continue;
        }
        let status = known.unwrap_or_default().iter().find(|status| {
            (&status.driver, &status.pool, &status.device)
                == (&device.driver, &device.pool, &device.device)
        });
        let Some(status) = status else {
            return Readiness::Waiting;
        };
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let of_type = |kind: &String| {
            conditions
                .iter()
                .find(|c| c.type_ == *kind && c.status == "True")
        };
        let failures = device.binding_failure_conditions.as_deref();
        if let Some(failed) = failures.unwrap_or_default().iter().find_map(of_type) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let (reason, message) = (&failed.reason, &failed.message);
            return Readiness::Failed(format!(
                "device binding failed: claim={name}, reason={reason}, message={message:?}"
            ));
        }
        if !wanted.iter().all(|kind| of_type(kind).is_some()) {
            return Readiness::Waiting;
        }
    }
    Readiness::Ready
}

/// Returns whether the devices of a claim take too long to get ready.
pub fn is_overdue(claim: &ResourceClaim, now: Timestamp) -> bool {
    let since = allocation(claim).and_then(|found| found.allocation_timestamp.as_ref());
    is_bound_late(claim)
        && since.is_some_and(|since| {
            now.as_second().saturating_sub(since.0.as_second()) > BINDING_TIMEOUT.as_secs() as i64
        })
}

#[cfg(test)]
mod tests;
