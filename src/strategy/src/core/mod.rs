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
mod namespace;
mod node;
pub(crate) mod pod;
pub(crate) mod pod_affinity;
mod pod_claims;
pub(crate) mod pod_defaults;
mod pod_host;
mod pod_os;
mod pod_update;
pub(crate) mod pod_validation;
mod pod_volumes;
pub(crate) mod pod_warnings;
mod quota;
mod replication_controller;
pub(crate) mod service;
mod service_validation;
mod service_warnings;

use crate::Strategy;

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Pod" => &pod::Pod,
        "Service" => &service::Service,
        "Node" => &node::Node,
        "Namespace" => &namespace::Namespace,
        "ConfigMap" => &config::CONFIG_MAP,
        "Secret" => &config::Secret,
        "ServiceAccount" => &config::SERVICE_ACCOUNT,
        "PersistentVolumeClaim" => &claims::Claim,
        "PersistentVolume" => &claims::Volume,
        "LimitRange" => &quota::LIMIT_RANGE,
        "ResourceQuota" => &quota::ResourceQuota,
        "Endpoints" => &endpoints::ENDPOINTS,
        "Event" => &event::Event,
        "ReplicationController" => &replication_controller::ReplicationController,
        "PodTemplate" => &replication_controller::PodTemplate,
        _ => return None,
    })
}
