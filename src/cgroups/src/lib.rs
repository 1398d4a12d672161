//! Control groups, version 1, version 2 and the mix of both.
//!
//! - [`Hierarchy`]: the hierarchies that are mounted, read from `mountinfo`.
//! - [`HostGroups`]: the same group in every hierarchy of a host, with limits.
//! - [`node`]: groups below `/sys/fs/cgroup` of a node: limits, statistics, removal.
//! - [`details`]: everything that the kernel accounts for a group.
//! - [`devices`]: the devices that a group's processes may use.
//! - [`group`]: one group's directory.
//!
//! Everything is synchronous file I/O. Functions with a timeout block the thread.

#![warn(missing_docs)]

pub mod details;
pub mod devices;
mod freezer;
pub mod group;
mod hierarchy;
mod host;
pub mod node;
mod types;

pub use hierarchy::{Hierarchy, enable_controllers, hierarchies, parse_mountinfo};
pub use host::{HostGroups, Limits};
pub use types::{Error, Resources, Result, Stats};
