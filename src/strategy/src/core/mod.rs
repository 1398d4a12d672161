//! The core group: pods and related kinds.

pub(crate) mod claims;
mod config;
mod container_env;
mod container_probes;
mod container_security;
mod container_types;
pub(crate) mod containers;
mod endpoints;
mod event;
mod image_names;
mod namespace;
mod node;
mod persistent_volumes;
pub(crate) mod pod;
pub(crate) mod pod_affinity;
mod pod_allowances;
mod pod_annotations;
mod pod_claims;
pub(crate) mod pod_defaults;
pub(crate) mod pod_drops;
mod pod_host;
mod pod_os;
mod pod_resize;
mod pod_status;
mod pod_sysctls;
mod pod_update;
pub(crate) mod pod_validation;
mod pod_volumes;
pub(crate) mod pod_warnings;
mod pod_windows;
mod quota;
mod replication_controller;
pub(crate) mod requirements;
pub(crate) mod service;
mod service_validation;
pub use service_validation::cluster_ip_errors;
mod service_warnings;
mod shown;
mod volume_projections;
pub(crate) mod volume_sources;
mod volume_warnings;

use crate::Strategy;

/// Returns the strategy of a kind of the group `events.k8s.io`, whose events are those of the core
/// group.
pub(crate) fn strategy_of_events(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "Event").then_some(&event::Event { strict: true })
}

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Pod" => &pod::Pod,
        "Service" => &service::Service,
        "Node" => &node::Node,
        "Namespace" => &namespace::Namespace,
        "ConfigMap" => &config::CONFIG_MAP,
        "Secret" => &config::Secret,
        "ServiceAccount" => &config::ServiceAccount,
        "PersistentVolumeClaim" => &claims::Claim,
        "PersistentVolume" => &persistent_volumes::Volume,
        "LimitRange" => &quota::LIMIT_RANGE,
        "ResourceQuota" => &quota::ResourceQuota,
        "Endpoints" => &endpoints::Endpoints,
        "Event" => &event::Event { strict: false },
        "ReplicationController" => &replication_controller::ReplicationController,
        "PodTemplate" => &replication_controller::PodTemplate,
        _ => return None,
    })
}
