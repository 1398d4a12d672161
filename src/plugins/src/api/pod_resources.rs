//! `v1.PodResourcesLister` and `v1alpha1.PodResourcesLister`.

/// Method `List` of version `v1`.
pub const LIST: &str = "/v1.PodResourcesLister/List";
/// Method `GetAllocatableResources`.
pub const ALLOCATABLE: &str = "/v1.PodResourcesLister/GetAllocatableResources";
/// Method `Get`.
pub const GET: &str = "/v1.PodResourcesLister/Get";
/// Method `List` of version `v1alpha1`. Its messages have the first fields of those of `v1`.
pub const LIST_ALPHA: &str = "/v1alpha1.PodResourcesLister/List";

crate::message! {
    /// Asks for what can be allocated.
    struct AllocatableResourcesRequest {}
    /// What can be allocated.
    struct AllocatableResourcesResponse {
        /// Healthy devices.
        1 => devices: Vec<ContainerDevices>,
        /// Processors.
        2 => cpu_ids: Vec<i64>,
        /// Memory.
        3 => memory: Vec<ContainerMemory>,
    }
    /// Asks for all pods.
    struct ListPodResourcesRequest {}
    /// The resources of pods.
    struct ListPodResourcesResponse {
        /// The pods.
        1 => pod_resources: Vec<PodResources>,
    }
    /// The resources of a pod.
    struct PodResources {
        /// The pod's name.
        1 => name: String,
        /// Its namespace.
        2 => namespace: String,
        /// Its containers.
        3 => containers: Vec<ContainerResources>,
    }
    /// The resources of a container.
    struct ContainerResources {
        /// The container's name.
        1 => name: String,
        /// Its devices.
        2 => devices: Vec<ContainerDevices>,
        /// Its exclusive processors.
        3 => cpu_ids: Vec<i64>,
        /// Its exclusive memory.
        4 => memory: Vec<ContainerMemory>,
        /// Its claims.
        5 => dynamic_resources: Vec<DynamicResource>,
    }
    /// Memory of a NUMA node.
    struct ContainerMemory {
        /// `memory` or the name of huge pages.
        1 => memory_type: String,
        /// Its size in bytes.
        2 => size: u64,
        /// Where it is.
        3 => topology: Option<TopologyInfo>,
    }
    /// Devices of one resource.
    struct ContainerDevices {
        /// The resource.
        1 => resource_name: String,
        /// The devices.
        2 => device_ids: Vec<String>,
        /// Where they are.
        3 => topology: Option<TopologyInfo>,
    }
    /// NUMA nodes.
    struct TopologyInfo {
        /// The nodes.
        1 => nodes: Vec<NumaNode>,
    }
    /// A NUMA node.
    struct NumaNode {
        /// Its number.
        1 => id: i64,
    }
    /// A claim.
    struct DynamicResource {
        /// Its name.
        2 => claim_name: String,
        /// Its namespace.
        3 => claim_namespace: String,
        /// Its devices.
        4 => claim_resources: Vec<ClaimResource>,
    }
    /// A device of a claim.
    struct ClaimResource {
        /// Its names in the Container Device Interface.
        1 => cdi_devices: Vec<CdiDevice>,
        /// Its driver.
        2 => driver_name: String,
        /// Its pool.
        3 => pool_name: String,
        /// Its name.
        4 => device_name: String,
        /// The share of a device that several claims use.
        5 => share_id: Option<String>,
    }
    /// A device of the Container Device Interface.
    struct CdiDevice {
        /// Its qualified name.
        1 => name: String,
    }
    /// Asks for one pod.
    struct GetPodResourcesRequest {
        /// Its name.
        1 => pod_name: String,
        /// Its namespace.
        2 => pod_namespace: String,
    }
    /// The resources of one pod.
    struct GetPodResourcesResponse {
        /// The pod.
        1 => pod_resources: Option<PodResources>,
    }
}
