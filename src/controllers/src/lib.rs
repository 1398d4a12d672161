//! The controllers: what upstream's kube-controller-manager runs.
//!
//! Each controller watches through shared informers ([`informers`]), decides by
//! pure functions what is to be done, and does it through the API. One file or
//! folder is one controller; [`run`] starts them all.

// Reuses the readers and writers of typed objects that are compiled there.
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

/// What the controllers are told of their cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's CA certificate, PEM: published in every namespace, and what
    /// certificates are signed with.
    pub ca_cert_pem: String,
    /// The CA's key, PEM (PKCS#8). Without it no certificate is signed.
    pub ca_key_pem: Option<String>,
    /// Where the pod ranges of nodes without one come from.
    pub pod_cidr: Ipv4Net,
    /// Prefix length of a node's pod range.
    pub node_cidr_mask: u8,
    /// The API server's address as it is published to nodes that join.
    pub api_server_ip: Ipv4Addr,
    /// The API server's port as it is published to nodes that join.
    pub api_server_port: u16,
    /// Whether the storage class `standard` is made when there is no class.
    pub default_storage_class: bool,
    /// Where volumes of the built-in provisioner live, on each node.
    pub volumes: PathBuf,
    /// How long a node may be silent before it counts as unreachable.
    pub node_grace_period: Duration,
    /// Finished pods that are kept at most.
    pub terminated_pods: usize,
    /// How long an issued certificate is valid at most.
    pub certificate_lifetime: Duration,
}

impl Config {
    /// Upstream's defaults for a cluster with this CA and pod range.
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

/// Runs every controller until the future is dropped; it only ends by itself
/// when a controller's task dies, with an error that names the reason.
pub async fn run(client: kube::Client, config: Config) -> anyhow::Result<()> {
    let (recorder, events) = Recorder::new(client.clone());
    let ctx = Context {
        client: client.clone(),
        config: Arc::new(config),
        informers: Arc::new(Informers::new()),
        recorder,
    };
    // Controllers register their handlers before the first object comes in.
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
