//! What the endpoint's handlers read.

use std::sync::Arc;

use rkube_network::NodeNetwork;
use rkube_runtime::Runtime;

use crate::host::Host;
use crate::pods::instance;
use crate::pods::table::PodTable;

/// The node's parts that the endpoint shows.
pub(crate) struct Endpoint {
    pub host: Arc<Host>,
    pub runtime: Runtime,
    pub network: NodeNetwork,
    pub pods: Arc<PodTable>,
}

impl Endpoint {
    /// Returns the ID of a running container.
    ///
    /// # Errors
    ///
    /// Fails when the pod or a running container does not exist.
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
