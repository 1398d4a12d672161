//! `v1beta1.Registration` and `v1beta1.DevicePlugin`.

use std::collections::BTreeMap;

/// The only version of the API.
pub const VERSION: &str = "v1beta1";
/// Health of a device that can be used.
pub const HEALTHY: &str = "Healthy";

/// Method `Register` of the kubelet.
pub const REGISTER: &str = "/v1beta1.Registration/Register";
/// Method `GetDevicePluginOptions`.
pub const GET_OPTIONS: &str = "/v1beta1.DevicePlugin/GetDevicePluginOptions";
/// Method `ListAndWatch`.
pub const LIST_AND_WATCH: &str = "/v1beta1.DevicePlugin/ListAndWatch";
/// Method `GetPreferredAllocation`.
pub const GET_PREFERRED: &str = "/v1beta1.DevicePlugin/GetPreferredAllocation";
/// Method `Allocate`.
pub const ALLOCATE: &str = "/v1beta1.DevicePlugin/Allocate";
/// Method `PreStartContainer`.
pub const PRE_START: &str = "/v1beta1.DevicePlugin/PreStartContainer";

crate::message! {
    /// No content.
    struct Empty {}
    /// Which optional methods a plugin wants to be called.
    struct DevicePluginOptions {
        /// `PreStartContainer` before each start of a container.
        1 => pre_start_required: bool,
        /// `GetPreferredAllocation` before devices are chosen.
        2 => get_preferred_allocation_available: bool,
    }
    /// A plugin registers a resource.
    struct RegisterRequest {
        /// Version of the API.
        1 => version: String,
        /// Name of the plugin's socket in the directory of the kubelet's.
        2 => endpoint: String,
        /// Name of the resource.
        3 => resource_name: String,
        /// The plugin's options; those of `GetDevicePluginOptions` count.
        4 => options: Option<DevicePluginOptions>,
    }
    /// All devices of a plugin.
    struct ListAndWatchResponse {
        /// The devices.
        1 => devices: Vec<Device>,
    }
    /// The NUMA nodes that are close to a device.
    struct TopologyInfo {
        /// The nodes.
        1 => nodes: Vec<NumaNode>,
    }
    /// A NUMA node.
    struct NumaNode {
        /// Its number.
        1 => id: i64,
    }
    /// A device.
    struct Device {
        /// Its ID.
        1 => id: String,
        /// [`HEALTHY`] if it can be used.
        2 => health: String,
        /// Where it is.
        3 => topology: Option<TopologyInfo>,
    }
    /// A container with these devices is about to start.
    struct PreStartContainerRequest {
        /// The devices.
        1 => devices_ids: Vec<String>,
    }
    /// The answer of `PreStartContainer`.
    struct PreStartContainerResponse {}
    /// Asks which devices are best.
    struct PreferredAllocationRequest {
        /// One request per container.
        1 => container_requests: Vec<ContainerPreferredAllocationRequest>,
    }
    /// What a container needs.
    struct ContainerPreferredAllocationRequest {
        /// The devices to choose from.
        1 => available_device_ids: Vec<String>,
        /// Devices that the container has already.
        2 => must_include_device_ids: Vec<String>,
        /// Number of devices, including these.
        3 => allocation_size: i32,
    }
    /// Which devices are best.
    struct PreferredAllocationResponse {
        /// One answer per container.
        1 => container_responses: Vec<ContainerPreferredAllocationResponse>,
    }
    /// Which devices are best for a container.
    struct ContainerPreferredAllocationResponse {
        /// The devices.
        1 => device_ids: Vec<String>,
    }
    /// Devices are given to containers.
    struct AllocateRequest {
        /// One request per container.
        1 => container_requests: Vec<ContainerAllocateRequest>,
    }
    /// Devices are given to a container.
    struct ContainerAllocateRequest {
        /// The devices.
        1 => devices_ids: Vec<String>,
    }
    /// A device of the Container Device Interface.
    struct CdiDevice {
        /// Its qualified name, `vendor/class=name`.
        1 => name: String,
    }
    /// What containers need for their devices.
    struct AllocateResponse {
        /// One answer per container.
        1 => container_responses: Vec<ContainerAllocateResponse>,
    }
    /// What a container needs for its devices.
    struct ContainerAllocateResponse {
        /// Variables.
        1 => envs: BTreeMap<String, String>,
        /// Mounts.
        2 => mounts: Vec<Mount>,
        /// Device files.
        3 => devices: Vec<DeviceSpec>,
        /// Annotations for the runtime.
        4 => annotations: BTreeMap<String, String>,
        /// Devices of the Container Device Interface.
        5 => cdi_devices: Vec<CdiDevice>,
    }
    /// A bind mount.
    struct Mount {
        /// Path in the container.
        1 => container_path: String,
        /// Path on the node.
        2 => host_path: String,
        /// Whether it is read-only.
        3 => read_only: bool,
    }
    /// A device file.
    struct DeviceSpec {
        /// Path in the container.
        1 => container_path: String,
        /// Path on the node.
        2 => host_path: String,
        /// Allowed access, of `r`, `w` and `m`.
        3 => permissions: String,
    }
}
