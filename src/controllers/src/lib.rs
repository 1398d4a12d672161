//! The controllers: the equivalent of upstream's kube-controller-manager.
//!
//! Each controller observes objects through shared [`informers`], decides with pure
//! functions and acts through the API. Each file or directory is one controller, that is, an
//! implementation of [`controller::Controller`]; [`run`] starts all of them.

pub mod account_tokens;
pub mod autoscaler;
pub mod bootstrap_tokens;
pub mod certificates;
pub mod cluster_roles;
pub mod common;
mod config;
pub mod context;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod device_claims;
pub mod device_taints;
pub mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod events;
pub mod gc;
pub mod job;
pub mod kinds;
pub mod load_balancers;
pub mod namespace;
pub mod nodes;
pub mod pod_gc;
pub mod quota;
pub mod replicaset;
pub mod served;
pub mod service_accounts;
pub mod service_cidrs;
pub mod statefulset;
pub mod volumes;

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use rkube_auth::token::{LEGACY_ISSUER, TokenSigner};
use rkube_client::supervise::supervise;
use tokio::task::JoinSet;

pub use config::Config;
use context::Context;
use controller::start;
use events::Recorder;
use kinds::Informers;
use replicaset::ReplicatorController;
pub use rkube_client::{controller, informers, queue};

/// The identities under which requests are sent.
pub struct Clients {
    /// The controller manager: informers, discovery and events.
    pub manager: kube::Client,
    /// A controller, by the name of its service account in the namespace `kube-system`.
    pub account: Box<dyn Fn(&str) -> kube::Client + Send + Sync>,
    /// Creates the objects that every cluster starts with.
    pub setup: kube::Client,
}

impl From<kube::Client> for Clients {
    /// Returns one identity for everything. It needs the rights of a cluster administrator.
    fn from(client: kube::Client) -> Self {
        let (manager, setup) = (client.clone(), client.clone());
        Self {
            manager,
            account: Box::new(move |_| client.clone()),
            setup,
        }
    }
}

/// Runs all controllers until the future is dropped.
///
/// A part that ends or panics is started again while the others continue.
///
/// # Errors
///
/// The key for tokens cannot be read, or the supervision itself fails.
pub async fn run(clients: impl Into<Clients>, config: Config) -> anyhow::Result<()> {
    let clients = clients.into();
    let client = &clients.manager;
    let (recorder, events) = Recorder::new(client.clone(), events::settings());
    let ctx = Context {
        client: client.clone(),
        config: Arc::new(config),
        informers: Arc::new(Informers::new()),
        recorder,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(events);
    if let Some(key) = &ctx.config.token_key_pem {
        let signer = TokenSigner::from_pem(key.as_bytes(), LEGACY_ISSUER)?;
        tasks.spawn(start(account_tokens::AccountTokens::new(&ctx, signer)));
    }
    // Handlers must be registered before the first object arrives.
    let others = controllers(&ctx, &clients);
    for controller in others.into_iter().chain(volume_controllers(&ctx, &clients)) {
        tasks.spawn(controller);
    }
    for reflector in ctx.informers.reflectors(client) {
        tasks.spawn(reflector);
    }
    drop(ctx);
    match tasks.join_next().await {
        Some(Err(error)) => Err(anyhow::anyhow!("a controller died: {error}")),
        _ => Err(anyhow::anyhow!("a controller ended")),
    }
}

fn controllers(ctx: &Context, clients: &Clients) -> Vec<BoxFuture<'static, ()>> {
    let collector = gc::Collector::default();
    let collector = &collector;
    // Upstream's names of the controllers' service accounts.
    let by = |account: &str| ctx.acting_as((clients.account)(account));
    let node = by("node-controller");
    let garbage = by("generic-garbage-collector");
    let monitors = Arc::new(gc::Monitors::new(&garbage, collector));
    let garbage_collector = gc::GarbageCollector::new(&garbage, collector, &monitors);
    let watches = supervise("the garbage collector's watches", move || {
        let monitors = monitors.clone();
        async move { monitors.run().await }
    });
    vec![
        Box::pin(watches),
        start(garbage_collector),
        start(service_accounts::ServiceAccountController::new(&by(
            "service-account-controller",
        ))),
        start(service_accounts::RootCaPublisher::new(&by(
            "root-ca-cert-publisher",
        ))),
        start(service_cidrs::ServiceCidrController::new(&by(
            "service-cidrs-controller",
        ))),
        start(endpoints::legacy::EndpointsController::new(&by(
            "endpoint-controller",
        ))),
        start(endpoints::slices::SliceController::new(&by(
            "endpointslice-controller",
        ))),
        start(endpoints::mirror::MirrorController::new(&by(
            "endpointslicemirroring-controller",
        ))),
        start(nodes::lifecycle::LifecycleController::new(&node)),
        start(nodes::eviction::EvictionController::new(&node)),
        start(nodes::ipam::RangeAllocator::new(&node)),
        start(nodes::ttl::TtlController::new(&by("ttl-controller"))),
        start(pod_gc::PodCollector::new(&by("pod-garbage-collector"))),
        start(namespace::NamespaceController::new(
            &by("namespace-controller"),
            collector,
        )),
        start(deployment::DeploymentController::new(&by(
            "deployment-controller",
        ))),
        start(ReplicatorController::<ReplicaSet>::new(&by(
            "replicaset-controller",
        ))),
        start(ReplicatorController::<ReplicationController>::new(&by(
            "replication-controller",
        ))),
        start(daemonset::DaemonSetController::new(&by(
            "daemon-set-controller",
        ))),
        start(statefulset::StatefulSetController::new(&by(
            "statefulset-controller",
        ))),
        start(job::JobController::new(&by("job-controller"))),
        start(job::ttl::TtlController::new(&by(
            "ttl-after-finished-controller",
        ))),
        start(cronjob::CronJobController::new(&by("cronjob-controller"))),
        start(cluster_roles::ClusterRoleController::new(&by(
            "clusterrole-aggregation-controller",
        ))),
        start(disruption::DisruptionController::new(
            &by("disruption-controller"),
            collector,
        )),
        start(quota::QuotaController::new(
            &by("resourcequota-controller"),
            collector,
        )),
        start(certificates::CertificateController::new(&by(
            "certificate-controller",
        ))),
        start(load_balancers::LoadBalancerController::new(&by(
            "service-controller",
        ))),
        start(device_claims::DeviceClaimController::new(&by(
            "resource-claim-controller",
        ))),
        start(device_taints::DeviceTaintController::new(&by(
            "device-taint-eviction-controller",
        ))),
        start(bootstrap_tokens::TokenCleaner::new(&by("token-cleaner"))),
        start(autoscaler::AutoscalerController::new(
            &by("horizontal-pod-autoscaler"),
            collector,
        )),
    ]
}

fn volume_controllers(ctx: &Context, clients: &Clients) -> Vec<BoxFuture<'static, ()>> {
    let by = |account: &str| ctx.acting_as((clients.account)(account));
    let setup = ctx.acting_as(clients.setup.clone());
    vec![
        start(volumes::Binder::new(
            &by("persistent-volume-binder"),
            clients.setup.clone(),
        )),
        start(volumes::expand::ExpandController::new(&by(
            "expand-controller",
        ))),
        start(volumes::provisioner::DefaultClassController::new(&setup)),
        start(volumes::protection::ClaimProtection::new(&by(
            "pvc-protection-controller",
        ))),
        start(volumes::protection::VolumeProtection::new(&by(
            "pv-protection-controller",
        ))),
        start(volumes::protection::ClassProtection::new(&by(
            "volumeattributesclass-protection-controller",
        ))),
        start(volumes::ephemeral::EphemeralController::new(&by(
            "ephemeral-volume-controller",
        ))),
    ]
}
