//! Connects pods with the plugins of the node: device plugins and drivers of dynamic resources.
//!
//! `rkube-plugins` speaks the protocols; this module says which pods there are and what they ask
//! for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use rkube_config::paths;
use rkube_plugins::claims::{Manager as Claims, Notices};
use rkube_plugins::devices::Manager as Devices;
use rkube_plugins::{grpc, pod_resources, registry};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

mod claims;
mod inject;
mod pods;
mod requests;
mod slices;
mod status;

use crate::node_object::NodeObject;
use crate::pods::table::{PodTable, WorkerEvent};

pub(crate) use inject::inject;
pub(crate) use requests::{request, requests};

/// Time between two looks for claims of pods that are gone.
const RECONCILE_PERIOD: Duration = Duration::from_secs(60);

/// The plugins of the node.
pub(crate) struct Plugins {
    pub devices: Arc<Devices>,
    pub claims: Arc<Claims>,
    /// UIDs of the node's pods that cannot be read at present; `None` before pods are known.
    unreadable: Mutex<Option<HashSet<String>>>,
}

/// What plugins ask of the node.
pub(crate) struct Requests {
    devices: mpsc::UnboundedReceiver<String>,
    claims: Notices,
}

/// Returns the directory of the kubelet that plugins know.
fn kubelet(name: &str) -> PathBuf {
    Path::new(paths::KUBELET).join(name)
}

impl Plugins {
    /// Makes the directories of plugins, and takes over what an earlier agent gave to pods.
    pub(crate) fn open() -> anyhow::Result<(Arc<Self>, Requests)> {
        // Drivers keep their own sockets there, and mount it from the node.
        std::fs::create_dir_all(kubelet("plugins")).context("making the directory of plugins")?;
        let (devices, affected) = Devices::open(
            &kubelet("device-plugins"),
            paths::PLUGINS.as_ref(),
            Default::default(),
        )
        .context("opening the device plugins")?;
        let (claims, notices) = Claims::open(paths::PLUGINS.as_ref(), Default::default())
            .context("opening the drivers of dynamic resources")?;
        let plugins = Arc::new(Self {
            devices,
            claims,
            unreadable: Mutex::default(),
        });
        let requests = Requests {
            devices: affected,
            claims: notices,
        };
        Ok((plugins, requests))
    }

    /// Notes which pods of the node cannot be read: they keep what they have.
    pub(crate) fn set_unreadable(&self, uids: &HashSet<String>) {
        *self.unreadable.lock() = Some(uids.clone());
    }
}

/// Serves the plugins of the node until the future is dropped.
pub(crate) async fn run(
    plugins: Arc<Plugins>,
    requests: Requests,
    table: Arc<PodTable>,
    client: kube::Client,
    object: NodeObject,
    node: String,
) -> anyhow::Result<()> {
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let lister = pod_resources::Lister {
        pods: Box::new(pods::OfTable(table.clone())),
        devices: plugins.devices.clone(),
        claims: plugins.claims.clone(),
    };
    let socket = grpc::listen(&kubelet("pod-resources/kubelet.sock"))
        .context("making the socket of pod resources")?;
    tasks.spawn(async move {
        pod_resources::serve(socket, lister).await;
        Ok(())
    });
    let devices = plugins.devices.clone();
    tasks.spawn(async move {
        let served = devices.serve().await;
        served.context("making the socket of device plugins")
    });
    let handlers = registry::Handlers {
        devices: plugins.devices.clone(),
        claims: plugins.claims.clone(),
    };
    tasks.spawn(async move {
        let registry = registry::run(&kubelet("plugins_registry"), handlers).await;
        registry.context("watching for plugins")
    });
    tasks.spawn(forward(requests.devices, table.clone()));
    tasks.spawn(forward(requests.claims.affected, table.clone()));
    tasks.spawn(slices::remove_all(
        client,
        object,
        node,
        requests.claims.wipes,
    ));
    tasks.spawn(reconcile(plugins, table));
    crate::first_end(tasks).await
}

/// Has the workers of pods whose devices changed report their status.
async fn forward(
    mut affected: mpsc::UnboundedReceiver<String>,
    table: Arc<PodTable>,
) -> anyhow::Result<()> {
    while let Some(uid) = affected.recv().await {
        table.send(&uid, WorkerEvent::DevicesChanged);
    }
    anyhow::bail!("the plugins ended")
}

/// Unprepares the claims of pods that were removed from the API by force.
async fn reconcile(plugins: Arc<Plugins>, table: Arc<PodTable>) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(RECONCILE_PERIOD).await;
        let Some(mut known) = plugins.unreadable.lock().clone() else {
            continue;
        };
        known.extend(table.uids());
        plugins.claims.reconcile(|uid| known.contains(uid)).await;
    }
}
