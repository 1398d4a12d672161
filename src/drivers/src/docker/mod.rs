//! Nodes as containers of a Docker-compatible engine.
//!
//! A node is a container with few limits, whose image consists of the binary only; `rkube docker-init`
//! sets up the rest inside. The engine restarts nodes: rkube leaves no process on the host.

mod archive;
mod blocking;
mod boot;
mod engine;
mod image;
mod layers;
mod network;
mod node;
mod objects;
mod preflight;
mod rights;

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::models::ContainerSummaryStateEnum as Summary;
use bollard::query_parameters::{
    ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
};
use bytes::Bytes;
use futures::Stream;
use futures::future::{BoxFuture, try_join_all};
use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};
use tokio_util::io::{StreamReader, SyncIoBridge};

use self::blocking::run_blocking;
use self::engine::{Engine, failure, is_missing};
use self::objects::{NODE_LABEL, PROFILE_LABEL, by_node, containers, ours, runs};
use crate::types::{ClusterPlan, Driver, Endpoints, Log, NodeState, Problem};

pub use boot::docker_init;

/// Maximum number of times that a start loads a node image that another one has removed.
const START_ATTEMPTS: u32 = 4;

/// The docker driver.
pub struct Docker;

/// An image of the engine that can be exported as an archive.
pub struct Export {
    /// The image's ID.
    pub id: String,
    engine: Engine,
    name: String,
    layers: Vec<String>,
}

/// A stream of an archive's content.
pub type Archive = Box<dyn Stream<Item = std::io::Result<Bytes>> + Send + Unpin>;

impl Export {
    /// Finds an image of the engine by name.
    pub async fn find(name: &str) -> Result<Self, Failure> {
        let engine = Engine::connect().await?;
        let (id, diff_ids) = image::inspect(&engine, name).await?;
        Ok(Self {
            id,
            engine,
            name: name.to_owned(),
            // The digests become arguments of a command on nodes.
            layers: match diff_ids.iter().all(|id| layers::is_digest(id)) {
                true => layers::chain_ids(&diff_ids),
                false => Vec::new(),
            },
        })
    }

    /// Returns the name by which the image was found.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the chain IDs of its layers, lowest first; empty if the engine's digests are
    /// invalid.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// Exports the image in the format of `docker save`, without the layers whose chain IDs are in
    /// `present`. The file `list` of the archive describes the skipped layers. Also returns the
    /// number of layers in the archive.
    pub async fn open(
        &self,
        present: &[String],
        list: &'static str,
    ) -> Result<(Archive, usize), Failure> {
        let whole = || image::export(&self.engine, &self.name);
        let present: Vec<bool> = self.layers.iter().map(|l| present.contains(l)).collect();
        let all = || Ok((Box::new(whole()) as Archive, present.len()));
        if !present.contains(&true) {
            return all();
        }
        let archive = SyncIoBridge::new(StreamReader::new(whole()));
        let there = present.clone();
        let skipped = run_blocking(move || Ok(layers::plan(archive, &there)?))
            .await
            .map_err(|f| f.context(format!("cannot read the image {}", self.name)))?;
        if skipped.is_empty() {
            return all();
        }
        let left = present.len() - skipped.len();
        let archive = SyncIoBridge::new(StreamReader::new(whole()));
        let (sender, mut receiver) = tokio::sync::mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            let out = std::io::BufWriter::with_capacity(PIECE, Sender(sender.clone()));
            if let Err(e) = layers::copy(archive, &skipped, list, out) {
                // If the receiver was dropped, the error has no reader.
                let _ = sender.blocking_send(Err(e));
            }
        });
        let pieces = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        Ok((Box::new(pieces), left))
    }
}

/// Size of the chunks that are sent, in bytes; [`PIECES`] of them are buffered.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// A writer that sends its data to a stream.
struct Sender(tokio::sync::mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Sender {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(data)))
            .map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Driver for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn preflight<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Vec<Problem>> {
        Box::pin(preflight::check(plan))
    }

    fn is_up<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            // If the engine does not respond, no node can be running.
            let Ok(engine) = Engine::connect().await else {
                return false;
            };
            by_node(&engine, plan)
                .await
                .is_ok_and(|nodes| nodes.values().any(runs))
        })
    }

    fn free_range<'a>(&'a self, taken: &'a [Ipv4Net]) -> BoxFuture<'a, Result<Ipv4Net, Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            let mut taken = taken.to_vec();
            taken.extend(
                network::ranges(&engine)
                    .await?
                    .into_iter()
                    .map(|(net, _)| net),
            );
            crate::ranges::free_on_host(&taken)
        })
    }

    fn publishes(&self) -> bool {
        true
    }

    /// Returns no servers: nodes use the engine's DNS, which follows changes of the host's.
    #[cfg(not(target_os = "linux"))]
    fn resolvers(&self) -> Option<Vec<std::net::IpAddr>> {
        Some(Vec::new())
    }

    fn endpoints(&self, plan: &ClusterPlan) -> Endpoints {
        Endpoints::published(plan, crate::ranges::is_ours(plan.gateway()))
    }

    fn binary(&self) -> BoxFuture<'_, Result<PathBuf, Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            crate::binary::for_nodes(engine.architecture())
        })
    }

    fn start<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            let mut attempts = START_ATTEMPTS;
            loop {
                attempts -= 1;
                let image = image::ensure(&engine, &plan.binary).await?;
                let network = network::ensure(&engine, plan).await?;
                let there = by_node(&engine, plan).await?;
                let starts = nodes.iter().map(|name| {
                    let existing = there.get(name);
                    node::start(&engine, plan, name, &image, &network, existing)
                });
                match try_join_all(starts).await {
                    Ok(_) => return image::prune(&engine, Some(&image)).await,
                    // Until a container uses the image, the end of another cluster removes it.
                    Err(_) if attempts > 0 && !image::is_there(&engine, &image).await? => {}
                    Err(failure) => return Err(failure),
                }
            }
        })
    }

    fn stop<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            let there = by_node(&engine, plan).await?;
            let running = nodes
                .iter()
                .filter_map(|name| there.get(name))
                .filter(|c| runs(c));
            try_join_all(running.map(|c| node::stop(&engine, c))).await?;
            Ok(())
        })
    }

    fn remove<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            for name in nodes {
                let mut filters = ours(plan);
                if let Some(labels) = filters.get_mut("label") {
                    labels.push(format!("{NODE_LABEL}={name}"));
                }
                remove_containers(&engine, &filters).await?;
                remove_volumes(&engine, &filters).await?;
                remove_folder(&plan.node_dir(name))?;
            }
            Ok(())
        })
    }

    fn states<'a>(
        &'a self,
        plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<NodeState>, Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            let there = by_node(&engine, plan).await?;
            let state = |name: &str| match there.get(name) {
                None => NodeState::Missing,
                Some(c) if c.state == Some(Summary::RUNNING) => NodeState::Running,
                Some(c) if c.state == Some(Summary::PAUSED) => NodeState::Paused,
                Some(_) => NodeState::Stopped,
            };
            Ok(plan.nodes.iter().map(|n| state(&n.name)).collect())
        })
    }

    fn logs<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        node: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            match by_node(&engine, plan).await?.remove(node) {
                Some(container) => node::logs(&engine, &container).await,
                None => Ok(Vec::new()),
            }
        })
    }

    fn set_paused<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
        paused: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            let there = by_node(&engine, plan).await?;
            let wanted = nodes.iter().filter_map(|name| there.get(name));
            try_join_all(wanted.map(|c| node::set_paused(&engine, c, paused))).await?;
            Ok(())
        })
    }

    fn destroy<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let engine = Engine::connect().await?;
            let filters = ours(plan);
            remove_containers(&engine, &filters).await?;
            remove_volumes(&engine, &filters).await?;
            network::remove(&engine, &filters).await?;
            // The image is removed with the last cluster that uses it.
            let any = HashMap::from([("label", vec![PROFILE_LABEL.to_owned()])]);
            if containers(&engine, &any).await?.is_empty() {
                image::prune(&engine, None).await?;
            }
            Ok(())
        })
    }
}

async fn remove_containers(
    engine: &Engine,
    filters: &HashMap<&'static str, Vec<String>>,
) -> Result<(), Failure> {
    let found = containers(engine, filters).await?;
    // Older engines do not kill paused containers.
    try_join_all(found.iter().map(|c| node::set_paused(engine, c, false))).await?;
    let removals = found.iter().filter_map(|c| c.id.as_deref()).map(|id| {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        async move {
            match engine.docker.remove_container(id, Some(options)).await {
                Ok(()) => Ok(()),
                Err(e) if is_missing(&e) => Ok(()),
                Err(e) => Err(failure("cannot remove a node's container", &e)),
            }
        }
    });
    try_join_all(removals).await?;
    Ok(())
}

async fn remove_volumes(
    engine: &Engine,
    filters: &HashMap<&'static str, Vec<String>>,
) -> Result<(), Failure> {
    let options = ListVolumesOptionsBuilder::default()
        .filters(filters)
        .build();
    let found = engine
        .docker
        .list_volumes(Some(options))
        .await
        .map_err(|e| failure("cannot list the engine's volumes", &e))?;
    for volume in found.volumes.unwrap_or_default() {
        match engine
            .docker
            .remove_volume(&volume.name, None::<RemoveVolumeOptions>)
            .await
        {
            Ok(()) => {}
            Err(e) if is_missing(&e) => {}
            Err(e) => {
                return Err(failure(
                    format!("cannot remove the volume {}", volume.name),
                    &e,
                ));
            }
        }
    }
    Ok(())
}

fn remove_folder(path: &std::path::Path) -> Result<(), Failure> {
    rkube_fsutil::remove_tree(path).map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot remove {}: {e}", path.display()),
        )
    })
}
