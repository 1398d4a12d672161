//! Compiles the readers and writers of typed objects once.
//!
//! `serde`'s functions are generic, so every crate that reads a `Pod` compiles the
//! code for all types a pod consists of, several thousand lines. Crates built with
//! `opt-level` `s` or lower reuse instances that a crate they depend on has compiled
//! already. The tables below make this crate that one. A crate profits as soon as it
//! names this one, if only by `use rkube_client as _;`.
//!
//! Every table costs compile time before any other crate can start, so a kind is listed
//! only if at least two crates use it, and only with the functions that they use:
//!
//! - All text is read with `serde_json::from_str`. `from_slice` and `from_value` have other
//!   readers, each of which would be compiled for all types again; use [`tree`] and
//!   `from_str` instead.
//! - The reader of watch events ([`reflector`](crate::reflector)) uses the reader of the object.

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::core::ObjectList;
use serde::Serialize;
use serde_json::{Result, Value};

/// The readers of one kind.
pub struct Read<K: Clone> {
    /// One object.
    pub object: fn(&str) -> Result<K>,
    /// A list.
    pub list: fn(&str) -> Result<ObjectList<K>>,
}

macro_rules! read {
    ($($name:ident: $kind:ty,)*) => {
        $(
            #[doc = concat!("Readers of [`", stringify!($kind), "`].")]
            pub static $name: Read<$kind> = Read {
                object: |text| serde_json::from_str(text),
                list: |text| serde_json::from_str(text),
            };
        )*
    };
}

macro_rules! written {
    ($($name:ident: $kind:ty,)*) => {
        $(
            #[doc = concat!("Writer of [`", stringify!($kind), "`].")]
            pub static $name: fn(&$kind) -> Result<Vec<u8>> = serde_json::to_vec;
        )*
    };
}

read! {
    CONFIG_MAP: ConfigMap,
    ENDPOINT_SLICE: EndpointSlice,
    EVENT: Event,
    LEASE: Lease,
    NAMESPACE: Namespace,
    NODE: Node,
    PDB: PodDisruptionBudget,
    POD: Pod,
    PV: PersistentVolume,
    PVC: PersistentVolumeClaim,
    REPLICATION_CONTROLLER: ReplicationController,
    REPLICA_SET: ReplicaSet,
    SECRET: Secret,
    SERVICE: Service,
    SERVICE_ACCOUNT: ServiceAccount,
    STATEFUL_SET: StatefulSet,
    STORAGE_CLASS: StorageClass,
}

written! {
    WRITTEN_CONFIG_MAP: ConfigMap,
    WRITTEN_EVENT: Event,
    WRITTEN_LEASE: Lease,
    WRITTEN_NODE: Node,
    WRITTEN_POD: Pod,
    WRITTEN_SERVICE: Service,
}

/// Converts a value to a tree.
///
/// Like `serde_json::to_value`, but with the writer that requests use, so that no further one is
/// compiled for the value's type.
///
/// # Errors
///
/// Fails if the value cannot be represented, for example because of a map with keys that are no
/// strings.
pub fn tree<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::from_slice(&serde_json::to_vec(value)?)
}
