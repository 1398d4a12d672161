//! Chooses devices for resource claims, as upstream's structured allocator
//! (`k8s.io/dynamic-resource-allocation/structured`) does with the features that Kubernetes 1.36
//! enables by default.
//!
//! [`Allocator::allocate`] is a pure function of the claims, the classes, the slices, what is
//! allocated already and a node. It searches exhaustively and takes the first solution. Pools,
//! slices and devices are tried in the order of their names, so drivers can express a preference.

mod allocator;
mod capacity;
mod constraint;
mod counters;
mod pools;
mod request;
mod result;
mod search;
mod selector;
mod state;
mod taints;
#[cfg(test)]
mod tests;

pub use allocator::{Allocator, Failure, Node, World};
pub use selector::{MAX_COST, Selectors, device_type, environment};
pub use state::{AllocatedState, DeviceId};
pub use taints::{is_tolerated, tolerates};

/// Most devices that can be allocated to one claim.
pub const MAX_RESULTS: usize = 32;
/// Most devices and claims of one pod that are searched for: the search is recursive.
pub(crate) const MAX_DEPTH: usize = 256;
/// Most alternatives of one request.
pub const MAX_ALTERNATIVES: usize = 8;
/// The finalizer of claims with devices.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
