//! The controllers: the equivalent of upstream's kube-controller-manager.
//!
//! Each controller observes objects through shared informers ([`informers`]), decides with pure
//! functions and acts through the API. Each file or directory is one controller; [`run`] starts all
//! of them.

// Linked for the serializers of typed objects, which are compiled once in that crate.
use rkube_client as _;

pub mod autoscaler;
pub mod bootstrap_tokens;
pub mod certificates;
pub mod cluster_roles;
pub mod common;
pub mod context;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod events;
pub mod gc;
pub mod informers;
pub mod job;
pub mod kinds;
pub mod namespace;
pub mod nodes;
pub mod pod_gc;
pub mod queue;
pub mod quota;
pub mod replicaset;
pub mod service_accounts;
pub mod statefulset;
pub mod volumes;

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use tokio::task::JoinSet;

use context::Context;
use events::Recorder;
use kinds::Informers;

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's CA certificate in PEM, published in every namespace and used to sign
    /// certificates.
    pub ca_cert_pem: String,
    /// The CA key in PEM (PKCS#8). Without it no certificates are signed.
    pub ca_key_pem: Option<String>,
    /// Range from which nodes without a pod CIDR get one.
    pub pod_cidr: Ipv4Net,
    /// Prefix length of a node's pod CIDR.
    pub node_cidr_mask: u8,
    /// IP address of the API server, published for joining nodes.
    pub api_server_ip: Ipv4Addr,
    /// Port of the API server, published for joining nodes.
    pub api_server_port: u16,
    /// Whether to create the storage class `standard` if no class exists.
    pub default_storage_class: bool,
    /// Directory on each node for volumes of the built-in provisioner.
    pub volumes: PathBuf,
    /// Time without heartbeats after which a node is considered unreachable.
    pub node_grace_period: Duration,
    /// Maximum number of terminated pods that are kept.
    pub terminated_pods: usize,
    /// Maximum lifetime of issued certificates.
    pub certificate_lifetime: Duration,
}

impl Config {
    /// Returns the default settings for a cluster with this CA and pod CIDR. Time and count limits
    /// are upstream's.
    pub fn new(ca_cert_pem: String, ca_key_pem: Option<String>, pod_cidr: Ipv4Net) -> Self {
        Self {
            ca_cert_pem,
            ca_key_pem,
            pod_cidr,
            node_cidr_mask: 24,
            api_server_ip: Ipv4Addr::LOCALHOST,
            api_server_port: 8443,
            default_storage_class: true,
            volumes: PathBuf::from("/var/lib/rkube/volumes"),
            node_grace_period: Duration::from_secs(40),
            terminated_pods: 12_500,
            certificate_lifetime: Duration::from_secs(365 * 24 * 3600),
        }
    }
}

type Controller = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs all controllers until the future is dropped.
///
/// # Errors
///
/// Returns only if a task ends or panics, with an error that contains the reason.
pub async fn run(client: kube::Client, config: Config) -> anyhow::Result<()> {
    let (recorder, events) = Recorder::new(client.clone());
    let ctx = Context {
        client: client.clone(),
        config: Arc::new(config),
        informers: Arc::new(Informers::new()),
        recorder,
    };
    // Handlers must be registered before the first object arrives.
    let controllers: Vec<Controller> = controllers(&ctx);
    let mut tasks = JoinSet::new();
    tasks.spawn(events);
    for reflector in ctx.informers.reflectors(&client) {
        tasks.spawn(reflector);
    }
    for controller in controllers {
        tasks.spawn(controller);
    }
    drop(ctx);
    match tasks.join_next().await {
        Some(Err(error)) => Err(anyhow::anyhow!("a controller died: {error}")),
        _ => Err(anyhow::anyhow!("a controller ended")),
    }
}

fn controllers(ctx: &Context) -> Vec<Controller> {
    let collector = gc::Collector::default();
    vec![
        Box::pin(service_accounts::start(ctx)),
        Box::pin(service_accounts::publish_root_ca(ctx)),
        Box::pin(endpoints::legacy::start(ctx)),
        Box::pin(endpoints::slices::start(ctx)),
        Box::pin(endpoints::mirror::start(ctx)),
        Box::pin(nodes::lifecycle::start(ctx)),
        Box::pin(nodes::eviction::start(ctx)),
        Box::pin(nodes::ipam::start(ctx)),
        Box::pin(pod_gc::start(ctx)),
        Box::pin(namespace::start(ctx, &collector)),
        Box::pin(gc::start(ctx, &collector)),
        Box::pin(deployment::start(ctx)),
        Box::pin(replicaset::start::<ReplicaSet>(ctx)),
        Box::pin(replicaset::start::<ReplicationController>(ctx)),
        Box::pin(daemonset::start(ctx)),
        Box::pin(statefulset::start(ctx)),
        Box::pin(job::start(ctx)),
        Box::pin(job::ttl::start(ctx)),
        Box::pin(cronjob::start(ctx)),
        Box::pin(cluster_roles::start(ctx)),
        Box::pin(disruption::start(ctx, &collector)),
        Box::pin(quota::start(ctx, &collector)),
        Box::pin(certificates::start(ctx)),
        Box::pin(bootstrap_tokens::start(ctx)),
        Box::pin(autoscaler::start(ctx, &collector)),
        Box::pin(volumes::start(ctx)),
        Box::pin(volumes::protection::claims(ctx)),
        Box::pin(volumes::protection::volumes(ctx)),
        Box::pin(volumes::protection::classes(ctx)),
        Box::pin(volumes::ephemeral::start(ctx)),
    ]
}
