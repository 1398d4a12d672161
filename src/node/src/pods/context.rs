//! Dependencies that the workers of all pods share.

use std::sync::Arc;

use rkube_network::NodeNetwork;
use rkube_runtime::Runtime;
use tokio::sync::watch;

use super::images::ImagePuller;
use super::table::PodTable;
use crate::host::Host;
use crate::node_object::NodeObject;
use crate::objects::Objects;
use crate::policies::Policies;
use crate::pressure::Pressure;
use crate::recorder::Recorder;
use crate::resources::NodeResources;
use crate::service_env::ServiceEnvReceiver;

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
    /// CPUs and memory of NUMA nodes that pods have alone.
    pub resources: Arc<NodeResources>,
}
