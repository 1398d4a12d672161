//! Dependencies that the workers of all pods share.

use std::collections::BTreeMap;
use std::sync::Arc;

use rkube_component_helpers::resource::is_extended;
use rkube_network::NodeNetwork;
use rkube_runtime::Runtime;
use tokio::sync::watch;

use super::images::ImagePuller;
use super::table::PodTable;
use crate::host::Host;
use crate::kinds::quantity_value;
use crate::node_object::NodeObject;
use crate::objects::Objects;
use crate::plugins::Plugins;
use crate::policies::Policies;
use crate::pressure::Pressure;
use crate::recorder::Recorder;
use crate::resources::NodeResources;
use crate::service_env::ServiceEnvReceiver;

impl PodContext {
    /// Returns the extended resources that the node offers but no device plugin: someone has written
    /// them into its status.
    pub(crate) fn extended_resources(&self) -> BTreeMap<String, i64> {
        let node = self.node.get();
        let status = node.as_ref().and_then(|n| n.status.as_ref());
        let offered = status
            .into_iter()
            .flat_map(|s| s.allocatable.iter().flatten());
        offered
            .filter(|(name, _)| is_extended(name) && !self.plugins.devices.is_device(name))
            .map(|(name, amount)| (name.clone(), quantity_value(amount)))
            .collect()
    }
}

/// Handles to the parts of the node that pod workers use.
///
/// Workers hold the whole context; functions that they call take single fields.
pub(crate) struct PodContext {
    pub host: Arc<Host>,
    /// Client with the node's identity.
    pub client: kube::Client,
    pub runtime: Runtime,
    pub network: NodeNetwork,
    pub policies: Policies,
    pub recorder: Recorder,
    /// Watched config maps and secrets.
    pub objects: Arc<Objects>,
    pub images: Arc<ImagePuller>,
    pub services: ServiceEnvReceiver,
    pub node: NodeObject,
    pub pods: Arc<PodTable>,
    /// Resources that the node is short of.
    pub pressure: watch::Receiver<Pressure>,
    /// Device plugins and drivers of dynamic resources.
    pub plugins: Arc<Plugins>,
    /// CPUs and memory of NUMA nodes that pods have alone.
    pub resources: Arc<NodeResources>,
}
