//! Dependencies of the endpoint's handlers.

use std::sync::Arc;

use jiff::Timestamp;
use rkube_network::NodeNetwork;
use rkube_runtime::Runtime;

use super::stats::Rates;
use super::{Access, Certificates};
use crate::disk::Sizes;
use crate::host::Host;
use crate::pods::instance;
use crate::pods::table::PodTable;

/// Handles to the parts of the node that the endpoint exposes.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub host: Arc<Host>,
    pub runtime: Runtime,
    pub network: NodeNetwork,
    pub pods: Arc<PodTable>,
    pub access: Arc<Access>,
    pub certificates: Arc<Certificates>,
    /// Start time of the agent.
    pub started: Timestamp,
    /// CPU usage at earlier requests.
    pub rates: Arc<Rates>,
    /// Sizes of directories, shared with the eviction manager.
    pub sizes: Arc<Sizes>,
}

impl Endpoint {
    /// Returns the ID of a running container.
    ///
    /// # Errors
    ///
    /// Fails if the pod is not on this node or the container is not running.
    pub(super) fn running_container(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        container: &str,
    ) -> Result<String, String> {
        let found = self
            .pods
            .find(namespace, pod, uid)
            .ok_or_else(|| format!("pod does not exist: {namespace}/{pod}"))?;
        instance::latest(&found.instances, container)
            .filter(|i| i.running())
            .map(|i| i.id.clone())
            .ok_or_else(|| format!("container not found (\"{container}\")"))
    }
}
