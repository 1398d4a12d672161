//! Types shared by the modules that generate a status.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ResourceStatus;

use super::super::instance::{Instance, Instances};
use super::super::reason::Reason;
use crate::kinds::*;

/// Startup and readiness of a container, from its probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub started: bool,
    pub ready: bool,
}

/// Progress of a pod's resize.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resizing {
    /// Reason and message of a resize that the node has not granted.
    pub pending: Option<(String, String)>,
    /// Set while a granted resize is not fully applied; the inner value is its error.
    pub in_progress: Option<Option<String>>,
}

/// Inputs for a pod's status.
pub(crate) struct Facts<'a> {
    pub pod: &'a Pod,
    pub instances: &'a Instances,
    /// Waiting reasons by container name.
    pub waiting: &'a HashMap<String, Reason>,
    /// Number of the next attempt of containers that were removed to start the pod over.
    pub resets: &'a HashMap<String, u32>,
    pub health: &'a dyn Fn(&str) -> Health,
    /// The node's addresses, in the order of the families.
    pub node_ips: Vec<std::net::IpAddr>,
    /// The pod's addresses, in the same order; none before it has any.
    pub pod_ips: Vec<std::net::IpAddr>,
    /// ID of the current sandbox, once its network is attached.
    pub sandbox: Option<&'a str>,
    /// Whether all containers have stopped and none will be restarted.
    pub terminal: bool,
    /// Why the node rejected, evicted or failed the pod.
    pub failure: Option<&'a Reason>,
    /// Whether that failure is a disruption: the pod went for want of a resource.
    pub is_disrupted: bool,
    pub resizing: Resizing,
    /// Returns the resources that a container runs with.
    pub resources: &'a dyn Fn(&Instance) -> Option<ResourceRequirements>,
    /// Returns the health of the devices of a main container.
    pub devices: &'a dyn Fn(&str) -> Vec<ResourceStatus>,
    pub now: Time,
}

/// Returns the status of a container.
pub(super) fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}
