//! Compiles the readers and writers of typed objects once.
//!
//! `serde`'s functions are generic, so every crate that reads a `Pod` compiles the
//! code for all types a pod consists of, several thousand lines. Crates built with
//! `opt-level` `s` or lower reuse instances that a crate they depend on has compiled
//! already. The tables below make this crate that one: it lists the kinds that
//! clients read and write, with every reader and writer that `kube` and our own
//! informers use. A crate profits as soon as it names this one, if only by
//! `use rkube_client as _;`.

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::{
    CSINode, StorageClass, VolumeAttachment, VolumeAttributesClass,
};
use kube::api::WatchEvent;
use kube::core::{DynamicObject, ObjectList, PartialObjectMeta};
use serde_json::{Result, Value};

/// The readers of one kind.
pub struct Decode<K: Clone> {
    /// One object, from JSON text.
    pub text: fn(&str) -> Result<K>,
    /// One object, from bytes.
    pub bytes: fn(&[u8]) -> Result<K>,
    /// A list, from JSON text.
    pub list: fn(&str) -> Result<ObjectList<K>>,
    /// An event of a watch, from bytes.
    pub event: fn(&[u8]) -> Result<WatchEvent<K>>,
}

/// The writers of one kind.
pub struct Encode<K> {
    /// JSON text as bytes.
    pub bytes: fn(&K) -> Result<Vec<u8>>,
    /// A tree.
    pub tree: fn(&K) -> Result<Value>,
}

macro_rules! instances {
    ($($name:ident: $kind:ty,)*) => {
        $(
            #[doc = concat!("Readers and writers of [`", stringify!($kind), "`].")]
            pub static $name: (Decode<$kind>, Encode<$kind>) = (
                Decode {
                    text: |text| serde_json::from_str(text),
                    bytes: |bytes| serde_json::from_slice(bytes),
                    list: |text| serde_json::from_str(text),
                    event: |bytes| serde_json::from_slice(bytes),
                },
                Encode {
                    bytes: serde_json::to_vec,
                    tree: |object| serde_json::to_value(object),
                },
            );
        )*
    };
}

instances! {
    CLUSTER_ROLE: ClusterRole,
    CLUSTER_ROLE_BINDING: ClusterRoleBinding,
    CONFIG_MAP: ConfigMap,
    CONTROLLER_REVISION: ControllerRevision,
    CRON_JOB: CronJob,
    CSI_NODE: CSINode,
    CSR: CertificateSigningRequest,
    DAEMON_SET: DaemonSet,
    DEPLOYMENT: Deployment,
    DYNAMIC: DynamicObject,
    ENDPOINTS: Endpoints,
    ENDPOINT_SLICE: EndpointSlice,
    EVENT: Event,
    EVICTION: Eviction,
    HPA: HorizontalPodAutoscaler,
    INGRESS: Ingress,
    JOB: Job,
    LEASE: Lease,
    METADATA: PartialObjectMeta<Pod>,
    NAMESPACE: Namespace,
    NETWORK_POLICY: NetworkPolicy,
    NODE: Node,
    PDB: PodDisruptionBudget,
    POD: Pod,
    PRIORITY_CLASS: PriorityClass,
    PV: PersistentVolume,
    PVC: PersistentVolumeClaim,
    QUOTA: ResourceQuota,
    REPLICATION_CONTROLLER: ReplicationController,
    REPLICA_SET: ReplicaSet,
    ROLE: Role,
    ROLE_BINDING: RoleBinding,
    SCALE: Scale,
    SECRET: Secret,
    SERVICE: Service,
    SERVICE_ACCOUNT: ServiceAccount,
    STATEFUL_SET: StatefulSet,
    STORAGE_CLASS: StorageClass,
    SUBJECT_ACCESS_REVIEW: SubjectAccessReview,
    TOKEN_REQUEST: TokenRequest,
    TOKEN_REVIEW: TokenReview,
    VOLUME_ATTACHMENT: VolumeAttachment,
    VOLUME_ATTRIBUTES_CLASS: VolumeAttributesClass,
}
