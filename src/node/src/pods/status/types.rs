//! Types that the parts of a status share.

use std::collections::HashMap;

use super::super::instance::{Instance, Instances};
use super::super::reason::Reason;
use crate::kinds::*;

/// State of a container's probes, for its status.
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
    /// A granted resize that is not in effect everywhere, with its error if there is one.
    pub in_progress: Option<Option<String>>,
}

/// What a pod's status is generated from.
pub(crate) struct Facts<'a> {
    pub pod: &'a Pod,
    pub instances: &'a Instances,
    /// Why containers wait, by name of the container.
    pub waiting: &'a HashMap<String, Reason>,
    pub health: &'a dyn Fn(&str) -> Health,
    pub node_ip: std::net::IpAddr,
    pub pod_ip: Option<std::net::IpAddr>,
    /// The current sandbox, once its network is attached.
    pub sandbox: Option<&'a str>,
    /// Whether all containers have stopped and none is restarted.
    pub terminal: bool,
    /// Why the node rejected, evicted or failed the pod.
    pub failure: Option<&'a Reason>,
    pub resizing: Resizing,
    /// Returns the resources that a container runs with.
    pub resources: &'a dyn Fn(&Instance) -> Option<ResourceRequirements>,
    pub now: Time,
}

/// Returns the status of a container.
pub(super) fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}
