//! The kinds for which controllers share informers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;

use crate::informers::{Object, Source, Store, reflect};
use crate::served::Served;
use rkube_client::supervise::supervise;

/// Name of the config map with the cluster's CA certificate in every namespace.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// Namespace of the nodes' leases.
pub const LEASES: &str = "kube-node-lease";

/// Plural names of the cluster-scoped kinds below.
const CLUSTER_SCOPED: &[&str] = &[
    "certificatesigningrequests",
    "clusterroles",
    "ipaddresses",
    "namespaces",
    "nodes",
    "persistentvolumes",
    "resourceslices",
    "servicecidrs",
    "storageclasses",
    "volumeattributesclasses",
];

/// A callback that receives an object's resource, its metadata and whether it was deleted.
pub type MetadataSink = Arc<dyn Fn(&Arc<Served>, &ObjectMeta, bool) + Send + Sync>;

fn feed<K: Object>(store: &Store<K>, sink: MetadataSink) -> Arc<Served> {
    let plural = K::plural(&()).into_owned();
    let served = Arc::new(Served {
        group: K::group(&()).into_owned(),
        version: K::version(&()).into_owned(),
        namespaced: !CLUSTER_SCOPED.contains(&plural.as_str()),
        plural,
        kind: K::kind(&()).into_owned(),
        verbs: Vec::new(),
    });
    let fed = served.clone();
    store.on_change(move |change| sink(&served, change.object().metadata(), change.is_deletion()));
    fed
}

type Reflector = Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! informers {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $store:expr, $namespace:expr, $fields:expr;)*) => {
        /// The shared informers: one store per kind.
        pub struct Informers {
            $($(#[$doc])* pub $field: Store<$kind>,)*
        }

        impl Informers {
            /// Returns empty stores.
            pub fn new() -> Self {
                Self { $($field: $store,)* }
            }

            /// Waits until all initial lists have been received.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }

            /// Registers `sink` for the metadata of all kinds that are watched without namespace or
            /// field selector, and returns their resources.
            pub fn feed(&self, sink: &MetadataSink) -> Vec<Arc<Served>> {
                let mut fed = Vec::new();
                $(
                    let (namespace, fields): (Option<&str>, Option<&str>) = ($namespace, $fields);
                    if namespace.is_none() && fields.is_none() {
                        fed.push(feed(&self.$field, sink.clone()));
                    }
                )*
                fed
            }

            /// Returns one reflector future per store. Each must be polled for its store to stay up
            /// to date.
            pub fn reflectors(&self, client: &Client) -> Vec<Reflector> {
                vec![$(reflector(client, &self.$field, $namespace, $fields),)*]
            }
        }
    };
}

fn reflector<K: Object>(
    client: &Client,
    store: &Store<K>,
    namespace: Option<&str>,
    fields: Option<&str>,
) -> Reflector {
    let source = Source {
        fields: fields.map(str::to_owned),
        ..Source::of::<K>(namespace)
    };
    let (client, store) = (client.clone(), store.clone());
    Box::pin(supervise(source.path.clone(), move || {
        reflect(client.clone(), source.clone(), store.clone())
    }))
}

informers! {
    /// Pods, indexed by node name.
    pods: Pod = Store::indexed_by(|pod| pod.spec.as_ref()?.node_name.clone()), None, None;
    /// Replica sets.
    replica_sets: ReplicaSet = Store::new(), None, None;
    /// Deployments.
    deployments: Deployment = Store::new(), None, None;
    /// Replication controllers.
    replication_controllers: ReplicationController = Store::new(), None, None;
    /// Stateful sets.
    stateful_sets: StatefulSet = Store::new(), None, None;
    /// Daemon sets.
    daemon_sets: DaemonSet = Store::new(), None, None;
    /// Controller revisions.
    revisions: ControllerRevision = Store::new(), None, None;
    /// Jobs.
    jobs: Job = Store::new(), None, None;
    /// Cron jobs.
    cron_jobs: CronJob = Store::new(), None, None;
    /// Namespaces.
    namespaces: Namespace = Store::new(), None, None;
    /// Nodes.
    nodes: Node = Store::new(), None, None;
    /// Node heartbeats.
    leases: Lease = Store::new(), Some(LEASES), None;
    /// Services.
    services: Service = Store::new(), None, None;
    /// Endpoints.
    endpoints: Endpoints = Store::new(), None, None;
    /// Endpoint slices, indexed by `namespace/service`.
    endpoint_slices: EndpointSlice = Store::indexed_by(|slice| {
        let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
        Some(format!("{}/{service}", slice.metadata.namespace.as_deref()?))
    }), None, None;
    /// Service accounts.
    service_accounts: ServiceAccount = Store::new(), None, None;
    /// Config maps named [`ROOT_CA`].
    root_cas: ConfigMap = Store::new(), None, Some("metadata.name=kube-root-ca.crt");
    /// Bootstrap tokens.
    bootstrap_tokens: Secret = Store::new(), Some("kube-system"), Some("type=bootstrap.kubernetes.io/token");
    /// Secrets with tokens of service accounts, indexed by `namespace/account`.
    account_tokens: Secret = Store::indexed_by(|secret| {
        let account = secret.metadata.annotations.as_ref()?.get("kubernetes.io/service-account.name")?;
        Some(format!("{}/{account}", secret.metadata.namespace.as_deref()?))
    }), None, Some("type=kubernetes.io/service-account-token");
    /// Resource quotas.
    quotas: ResourceQuota = Store::new(), None, None;
    /// Horizontal pod autoscalers.
    autoscalers: HorizontalPodAutoscaler = Store::new(), None, None;
    /// Disruption budgets.
    budgets: PodDisruptionBudget = Store::new(), None, None;
    /// Cluster roles.
    cluster_roles: ClusterRole = Store::new(), None, None;
    /// Certificate signing requests.
    signing_requests: CertificateSigningRequest = Store::new(), None, None;
    /// Persistent volume claims.
    claims: PersistentVolumeClaim = Store::new(), None, None;
    /// Persistent volumes.
    volumes: PersistentVolume = Store::new(), None, None;
    /// Storage classes.
    storage_classes: StorageClass = Store::new(), None, None;
    /// Volume attributes classes.
    attribute_classes: VolumeAttributesClass = Store::new(), None, None;
    /// Resource claims.
    device_claims: ResourceClaim = Store::new(), None, None;
    /// Templates of resource claims.
    claim_templates: ResourceClaimTemplate = Store::new(), None, None;
    /// Slices of devices.
    resource_slices: ResourceSlice = Store::new(), None, None;
    /// Ranges of cluster IPs.
    service_cidrs: ServiceCIDR = Store::new(), None, None;
    /// Cluster IPs.
    ip_addresses: IPAddress = Store::new(), None, None;
}

impl Default for Informers {
    fn default() -> Self {
        Self::new()
    }
}
