//! What every part of the agent shares.

use std::sync::Arc;

use parking_lot::RwLock;
use rkube_config::NodeConfig;
use rkube_network::NodeNetwork;
use rkube_runtime::Runtime;
use tokio::sync::watch;

use crate::kinds::Node;
use crate::machine::Machine;
use crate::objects::Objects;
use crate::pods::{ImagePuller, PodTable};
use crate::recorder::Recorder;
use crate::services::ServiceEnv;

/// The agent's shared parts. One a process, always behind an [`Arc`].
pub(crate) struct Agent {
    pub config: NodeConfig,
    /// With the node's identity.
    pub client: kube::Client,
    /// With the service proxy's identity.
    pub proxy_client: kube::Client,
    pub runtime: Runtime,
    pub network: NodeNetwork,
    pub machine: Machine,
    pub recorder: Recorder,
    /// Watched config maps and secrets.
    pub objects: Objects,
    /// Pods on this node and their workers.
    pub pods: PodTable,
    pub images: ImagePuller,
    /// Services as containers' environments show them; `None` before the first list.
    pub services: watch::Sender<Option<ServiceEnv>>,
    /// The node as the API server last told it.
    pub node: RwLock<Option<Arc<Node>>>,
    /// Conditions that eviction sets; [`crate::registration`] reports them.
    pub pressure: watch::Sender<crate::eviction::Pressure>,
}

impl Agent {
    pub(crate) fn new(
        config: NodeConfig,
        client: kube::Client,
        proxy_client: kube::Client,
        objects: Objects,
        runtime: Runtime,
        network: NodeNetwork,
    ) -> anyhow::Result<Arc<Self>> {
        let machine = Machine::read(&config)?;
        Ok(Arc::new(Self {
            recorder: Recorder::start(client.clone(), &config.name),
            objects,
            pods: PodTable::default(),
            images: ImagePuller::default(),
            services: watch::Sender::new(None),
            node: RwLock::new(None),
            pressure: watch::Sender::new(Default::default()),
            config,
            client,
            proxy_client,
            runtime,
            network,
            machine,
        }))
    }

    /// The node's labels, empty before it is registered.
    pub(crate) fn node_labels(&self) -> std::collections::BTreeMap<String, String> {
        self.node
            .read()
            .as_ref()
            .and_then(|n| n.metadata.labels.clone())
            .unwrap_or_default()
    }
}
