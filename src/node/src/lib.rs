//! The node agent: what kubelet, kube-proxy and the DNS add-on do on each node.
//!
//! - [`registration`] keeps the `Node` object and its lease.
//! - [`pods`] runs one worker a pod: sandbox, volumes, images, containers, probes,
//!   status. What to do next is decided by pure functions; the worker carries it out.
//! - [`volumes`] fills and refreshes a pod's volumes.
//! - [`services`] feeds the service proxy, the name server and the routes.
//! - [`server`] is the HTTPS endpoint behind `kubectl logs`, `exec`, `port-forward`.
//!
//! Nothing polls what a watch or an event can tell. Containers outlive the agent:
//! on its start it adopts what runs.

// Reuses the readers and writers of typed objects that are compiled there.
use rkube_client as _;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use rkube_config::{NodeConfig, paths, ports};
use rkube_network::{NetworkConfig, NodeNetwork};
use rkube_runtime::{Runtime, RuntimeConfig};
use tokio::task::JoinSet;
use tracing::{info, warn};

mod agent;
mod client;
mod eviction;
mod gc;
mod kinds;
mod logrotate;
mod machine;
mod objects;
mod pods;
mod recorder;
mod registration;
mod server;
mod services;
mod volumes;
mod watching;

use agent::Agent;
use objects::Objects;

/// Name of the node's bridge for pods.
const BRIDGE: &str = "rk0";
/// The node's link to its peers.
const UPLINK: &str = "eth0";
/// Largest packet on pod links, in bytes.
const MTU: u32 = 1500;

/// Runs the node agent until it fails or its future is dropped.
///
/// Containers keep running afterwards; the next agent adopts them.
pub async fn run(config: NodeConfig) -> anyhow::Result<()> {
    // The whole process speaks TLS with ring; a second call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pki = Arc::new(client::Pki::read(paths::PKI.as_ref(), "agent")?);
    let client = client::connect(&config, &pki, "kubelet")?;
    // Nodes may read only what concerns their own pods; the service proxy reads
    // all services, endpoints and nodes, and has an identity for that.
    let proxy = client::Pki::read(paths::PKI.as_ref(), "service-proxy")?;
    let proxy_client = client::connect(&config, &proxy, "kube-proxy")?;
    let (runtime, network) = tokio::try_join!(open_runtime(&config), open_network(&config))?;
    let objects = Objects::new(client.clone(), {
        let (config, pki) = (config.clone(), pki.clone());
        Box::new(move || client::connect(&config, &pki, "kubelet"))
    });
    let agent = Agent::new(config, client, proxy_client, objects, runtime, network)?;

    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    // The endpoint first: a node that says Ready must answer `kubectl logs`.
    let endpoint = server::Server::bind(agent.clone(), &pki).await?;
    tasks.spawn(endpoint.run());
    tasks.spawn(ssh(agent.clone()));
    tasks.spawn(registration::run(agent.clone()));
    tasks.spawn(registration::renew_lease(agent.clone()));
    tasks.spawn(services::run(agent.clone()));
    tasks.spawn(pods::run(agent.clone()));
    tasks.spawn(gc::run(agent.clone()));
    tasks.spawn(logrotate::run(agent.clone()));
    tasks.spawn(eviction::run(agent.clone()));
    info!(node = %agent.config.name, "node agent runs");

    // Every task runs for ever; the first to end takes the agent down, and the
    // node's init starts it again.
    match tasks.join_next().await {
        Some(Ok(Ok(()))) => anyhow::bail!("a part of the node agent ended"),
        Some(Ok(Err(e))) => Err(e),
        Some(Err(e)) => Err(anyhow::Error::new(e).context("a part of the node agent panicked")),
        None => anyhow::bail!("the node agent has nothing to do"),
    }
}

async fn open_runtime(config: &NodeConfig) -> anyhow::Result<Runtime> {
    let mut runtime = RuntimeConfig::new(
        paths::RUNTIME,
        paths::IMAGES,
        PathBuf::from(paths::RUN).join("runtime"),
        paths::BINARY,
    );
    runtime.insecure_registries = config.insecure_registries.clone();
    runtime.loopback_gateway = config.host_ip.map(Into::into);
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

async fn open_network(config: &NodeConfig) -> anyhow::Result<NodeNetwork> {
    let cluster = &config.cluster;
    let network = NetworkConfig {
        node_ip: config.ip,
        node_cidr: cluster.node_cidr,
        pod_cidr: config.pod_cidr,
        cluster_cidr: cluster.pod_cidr,
        service_cidr: cluster.service_cidr,
        bridge: BRIDGE.into(),
        mtu: MTU,
        uplink: UPLINK.into(),
        state_dir: PathBuf::from(paths::STATE).join("network"),
    };
    let dns_ip = cluster.dns_ip;
    tokio::task::spawn_blocking(move || {
        let network = NodeNetwork::new(network)?;
        network.setup()?;
        network.add_local_address(dns_ip)?;
        Ok::<_, rkube_network::NetworkError>(network)
    })
    .await?
    .context("setting up the node's network")
}

async fn ssh(agent: Arc<Agent>) -> anyhow::Result<()> {
    let dir = PathBuf::from(paths::SSH);
    let host_key_path = dir.join("ssh_host_ed25519_key");
    if !host_key_path.exists() {
        warn!(
            "no {}: the node takes no SSH connections",
            host_key_path.display()
        );
        return std::future::pending().await;
    }
    let config = &agent.config;
    rkube_ssh::serve(rkube_ssh::SshConfig {
        // A virtual machine is reached over another link than its peers use.
        listen: (std::net::Ipv4Addr::UNSPECIFIED, ports::SSH).into(),
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
