//! What device plugins offer, and what containers ask for and get.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::device_plugin::ContainerAllocateResponse;

/// IDs of devices.
pub type Ids = BTreeSet<String>;

/// The NUMA node of devices that are close to none, in checkpoints and answers.
pub const NO_NUMA: i64 = -1;

/// A device as its plugin last described it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Whether it can be used.
    pub healthy: bool,
    /// The NUMA nodes that are close to it.
    pub numa: Vec<i64>,
}

/// The devices of a container, of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    /// IDs by NUMA node; a device may be close to several. [`NO_NUMA`] if to none.
    pub ids: BTreeMap<i64, Vec<String>>,
    /// What the plugin said the container needs.
    pub response: ContainerAllocateResponse,
}

impl Allocation {
    /// Returns the IDs of all devices.
    pub fn devices(&self) -> Ids {
        self.ids.values().flatten().cloned().collect()
    }
}

/// The role of a container, which decides how long it holds devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It ends before later containers start, which can have its devices.
    Init,
    /// It runs as long as the pod: a main container or a sidecar.
    Lasting,
}

/// A container's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name of the container.
    pub container: String,
    /// Its role.
    pub role: Role,
    /// Amounts of the resources that it may use, by name, without those that claims provide.
    pub limits: BTreeMap<String, i64>,
}

/// What the runtime does for a container's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Variables: name and value.
    pub env: BTreeMap<String, String>,
    /// Device files.
    pub devices: Vec<DeviceFile>,
    /// Mounts.
    pub mounts: Vec<HostMount>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Qualified names of the Container Device Interface, each once.
    pub cdi: Vec<String>,
}

/// A device file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFile {
    /// Path on the node.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Allowed access, of `r`, `w` and `m`.
    pub permissions: String,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMount {
    /// Path on the node.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// Numbers of devices for the node's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Resource, number of devices, number of healthy ones.
    pub resources: BTreeMap<String, (u64, u64)>,
    /// Resources whose plugins are gone for good.
    pub removed: BTreeSet<String>,
}

/// The health of a container's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceHealth {
    /// The resource.
    pub resource: String,
    /// IDs of devices, and whether they are healthy.
    pub devices: Vec<(String, bool)>,
}
