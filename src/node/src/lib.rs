//! The node agent: kubelet, kube-proxy and cluster DNS of a node in one process.
//!
//! - [`registration`] maintains the `Node` object and its lease.
//! - [`pods`] runs one worker per pod: sandbox, volumes, images, containers, probes and status.
//!   Pure functions plan the next steps; the worker executes them.
//! - [`static_pods`] reads pods from files of the node and shows them in the API.
//! - [`volumes`] fills and refreshes the volumes of pods.
//! - [`policies`] feeds the rules of network policies.
//! - [`services`] feeds the service proxy, the DNS server and the routes.
//! - [`plugins`] connects pods with device plugins and drivers of dynamic resources.
//! - [`server`] is the HTTPS endpoint behind `kubectl logs`, `exec` and `port-forward`.
//! - [`eviction`], [`gc`] and [`logrotate`] keep memory and disk available.
//!
//! Each task takes only the parts of the node that it needs; [`run`] connects them. Changes arrive
//! by watches and events, not by polling. Containers outlive the agent: when it starts, it adopts
//! the running ones.

// Links the API types' serializers that `rkube_client` instantiates, instead of compiling them
// again.
use rkube_client as _;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use kube::Api;
use rkube_config::{NodeConfig, paths, ports};
use rkube_runtime::{Runtime, RuntimeConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

mod allocatable;
mod client;
mod corefile;
mod delay;
mod disk;
mod eviction;
mod gc;
mod host;
mod kinds;
mod load_balancers;
mod log_line;
mod logrotate;
mod machine;
mod network;
mod node_object;
mod objects;
mod plugins;
mod pods;
mod policies;
mod pressure;
mod recorder;
mod registration;
mod resources;
mod server;
mod service_env;
mod services;
mod static_pods;
mod volumes;
mod watching;

use gc::ImageCollector;
use host::Host;
use node_object::NodeObject;
use objects::Objects;
use pods::context::PodContext;
use pods::images::ImagePuller;
use pods::table::PodTable;
use pressure::Pressure;
use recorder::Recorder;

/// Name of the agent in the user agent header of its requests.
const AGENT_NAME: &str = "kubelet";

/// Runs the node agent until it fails or the future is dropped.
///
/// Containers keep running afterwards; the next agent adopts them.
///
/// # Errors
///
/// Fails if the runtime, the network or the endpoint cannot be set up, or if any task ends.
pub async fn run(config: NodeConfig) -> anyhow::Result<()> {
    // Errors only if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let identities = Identities::read()?;
    let pki = identities.agent.clone();
    let clients = identities.connect(&config)?;
    let client = clients.agent;
    let (runtime, network) = tokio::try_join!(open_runtime(&config), network::open(&config))?;
    let objects = watch_objects(client.clone(), config.clone(), pki.clone());

    let host = Arc::new(Host::read(config)?);
    let resources = Arc::new(resources::NodeResources::start(&host)?);
    let recorder = Recorder::start(client.clone(), host.name());
    let pods = Arc::new(PodTable::default());
    let images = Arc::new(ImagePuller::new(runtime.clone(), recorder.clone()));
    let node = NodeObject::default();
    let pressure = watch::Sender::default();
    let sizes = Arc::<disk::Sizes>::default();
    let environment = watch::Sender::new(None);
    let (policies, notices) = policies::Policies::channel();
    let (plugins, requests) = plugins::Plugins::open()?;

    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    // Started first: a node that is Ready must serve `kubectl logs`.
    let endpoint = server::Endpoint {
        host: host.clone(),
        runtime: runtime.clone(),
        network: network.clone(),
        pods: pods.clone(),
        access: Arc::new(server::Access::new(client.clone(), host.name())),
        certificates: Arc::new(identities.certificates()?),
        started: jiff::Timestamp::now(),
        rates: Arc::default(),
        sizes: sizes.clone(),
    };
    tasks.spawn(server::Server::bind(endpoint, &pki).await?.run());
    tasks.spawn(serve_ssh(host.clone()));
    tasks.spawn(registration::run(registration::Registrar {
        host: host.clone(),
        api: Api::all(client.clone()),
        runtime: runtime.clone(),
        recorder: recorder.clone(),
        node: node.clone(),
        pressure: pressure.subscribe(),
        images: images.changes(),
        plugins: plugins.clone(),
    }));
    tasks.spawn(plugins::run(
        plugins.clone(),
        requests,
        pods.clone(),
        client.clone(),
        node.clone(),
        host.name().to_owned(),
    ));
    tasks.spawn(registration::renew_lease(
        client.clone(),
        host.clone(),
        node.clone(),
    ));
    let services = environment.subscribe();
    tasks.spawn(services::run(services::ServiceFeed {
        host: host.clone(),
        client: clients.proxy,
        network: network.clone(),
        environment,
        recorder: recorder.clone(),
    }));
    tasks.spawn(policies::run(policies::PolicyFeed {
        host: host.clone(),
        client: clients.policies,
        notices,
        adopted: policies::adopted(&runtime, &network, &host.config),
    }));
    tasks.spawn(pods::run(Arc::new(PodContext {
        host: host.clone(),
        client,
        runtime: runtime.clone(),
        network,
        policies,
        recorder: recorder.clone(),
        objects: Arc::new(objects),
        images: images.clone(),
        services,
        node,
        pods: pods.clone(),
        pressure: pressure.subscribe(),
        plugins,
        resources: resources.clone(),
    })));
    let upkeep = Upkeep {
        host: host.clone(),
        runtime,
        recorder,
        pods,
        images,
        pressure,
        sizes,
        resources,
    };
    upkeep.spawn(&mut tasks);
    info!(node = %host.name(), "node agent runs");

    first_end(tasks).await
}

/// What keeps the node in order.
struct Upkeep {
    host: Arc<Host>,
    runtime: Runtime,
    recorder: Recorder,
    pods: Arc<PodTable>,
    images: Arc<ImagePuller>,
    pressure: watch::Sender<Pressure>,
    sizes: Arc<disk::Sizes>,
    resources: Arc<resources::NodeResources>,
}

impl Upkeep {
    fn spawn(self, tasks: &mut JoinSet<anyhow::Result<()>>) {
        let (runtime, pods) = (self.runtime, self.pods);
        tasks.spawn(resources::run(
            self.resources,
            runtime.clone(),
            pods.clone(),
        ));
        tasks.spawn(resources::enforce(
            self.host.clone(),
            runtime.clone(),
            self.recorder.clone(),
        ));
        let collector = Arc::new(ImageCollector::new(
            self.host.name(),
            runtime.clone(),
            self.recorder.clone(),
            self.images,
        ));
        tasks.spawn(gc::run(pods.clone(), collector.clone()));
        tasks.spawn(logrotate::run(runtime.clone(), pods.clone()));
        tasks.spawn(eviction::run(eviction::Evictor {
            host: self.host,
            runtime,
            recorder: self.recorder,
            pods,
            pressure: self.pressure,
            images: collector,
            sizes: self.sizes,
        }));
    }
}

/// Waits for a task to end. None should; if one does, the agent exits, and the node's init restarts
/// it.
async fn first_end(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    match tasks.join_next().await {
        Some(Ok(Ok(()))) => anyhow::bail!("a part of the node agent ended"),
        Some(Ok(Err(e))) => Err(e),
        Some(Err(e)) => Err(anyhow::Error::new(e).context("a part of the node agent panicked")),
        None => anyhow::bail!("the node agent has nothing to do"),
    }
}

/// Identities of the agent's parts at the API server.
struct Identities {
    agent: Arc<client::Pki>,
    /// The node authorizer lets a node read only what its pods use. The service proxy needs all
    /// services, endpoint slices and nodes, so it has a separate identity.
    proxy: client::Pki,
    /// Both may not read the pods of other nodes, which network policies depend on. As on other
    /// clusters, the program that enforces them has an identity for it.
    policies: client::Pki,
}

impl Identities {
    fn read() -> anyhow::Result<Self> {
        let read = |name| client::Pki::read(paths::PKI.as_ref(), paths::RENEWED.as_ref(), name);
        Ok(Self {
            agent: Arc::new(read("agent")?),
            proxy: read("service-proxy")?,
            policies: read("network-policy")?,
        })
    }

    /// Returns a client for each identity.
    fn connect(&self, config: &NodeConfig) -> anyhow::Result<Clients> {
        Ok(Clients {
            agent: client::connect(config, &self.agent, AGENT_NAME)?,
            proxy: client::connect(config, &self.proxy, "kube-proxy")?,
            policies: client::connect(config, &self.policies, "rkube-network-policy")?,
        })
    }

    /// Returns the certificates that the control plane may renew.
    fn certificates(&self) -> anyhow::Result<server::Certificates> {
        Ok(server::Certificates {
            all: vec![
                ("agent", self.agent.identity.clone()),
                ("service-proxy", self.proxy.identity.clone()),
                ("network-policy", self.policies.identity.clone()),
            ],
            roots: self.agent.roots()?,
            folder: paths::RENEWED.into(),
        })
    }
}

/// Clients of the agent's parts for the API server.
struct Clients {
    agent: kube::Client,
    proxy: kube::Client,
    policies: kube::Client,
}

/// Returns the watches of the objects that pods refer to. They open further connections as needed.
fn watch_objects(client: kube::Client, config: NodeConfig, pki: Arc<client::Pki>) -> Objects {
    let connect = move || client::connect(&config, &pki, AGENT_NAME);
    Objects::new(client, Box::new(connect))
}

/// Opens the container runtime and installs the built-in images.
async fn open_runtime(config: &NodeConfig) -> anyhow::Result<Runtime> {
    let runtime = RuntimeConfig::new(
        paths::RUNTIME,
        paths::IMAGES,
        PathBuf::from(paths::RUN).join("runtime"),
        paths::BINARY,
    )
    .with_registries_of(config);
    let runtime = Runtime::open(runtime)
        .await
        .context("opening the container runtime")?;
    runtime
        .install_builtin_image(
            "rkube/kubia",
            &["/rkube", "demo", "kubia"],
            &["8080/tcp"],
            paths::BINARY.as_ref(),
        )
        .await
        .context("installing the demo image")?;
    Ok(runtime)
}

/// Serves SSH to the node; does nothing if there is no host key.
async fn serve_ssh(host: Arc<Host>) -> anyhow::Result<()> {
    let dir = PathBuf::from(paths::SSH);
    let host_key_path = dir.join("ssh_host_ed25519_key");
    if !host_key_path.exists() {
        warn!(
            "no {}: the node takes no SSH connections",
            host_key_path.display()
        );
        return std::future::pending().await;
    }
    let config = &host.config;
    rkube_ssh::serve(rkube_ssh::SshConfig {
        // A virtual machine is reached through another network interface than its peers use.
        listen: (config.any_address(), ports::SSH).into(),
        host_key_path,
        authorized_keys_path: dir.join("authorized_keys"),
        shell: "/bin/bash".into(),
        env: vec![("RKUBE_NODE".into(), config.name.clone())],
        motd: Some(format!(
            "rkube node {} of cluster {} ({})\n",
            config.name,
            config.cluster.name,
            rkube_config::version()
        )),
    })
    .await
    .context("serving SSH")
}
