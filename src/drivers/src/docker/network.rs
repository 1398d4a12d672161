//! The network of a cluster's nodes: a bridge of the engine with the profile's address range.

use std::collections::HashMap;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{ListNetworksOptions, ListNetworksOptionsBuilder};
use ipnet::Ipv4Net;
use rkube_failure::Failure;

use super::engine::{Engine, failure, is_missing};
use super::objects::{PROFILE_LABEL, labels, ours};
use crate::types::ClusterPlan;

/// Whether the cluster's network exists.
pub async fn exists(engine: &Engine, plan: &ClusterPlan) -> Result<bool, Failure> {
    Ok(find(engine, plan).await?.is_some())
}

async fn find(engine: &Engine, plan: &ClusterPlan) -> Result<Option<String>, Failure> {
    let options = ListNetworksOptionsBuilder::default()
        .filters(&ours(plan))
        .build();
    let found = engine
        .docker
        .list_networks(Some(options))
        .await
        .map_err(|e| failure("cannot list the engine's networks", &e))?;
    Ok(found.into_iter().find_map(|n| n.id))
}

/// Creates the cluster's network unless it exists. Returns its ID.
pub async fn ensure(engine: &Engine, plan: &ClusterPlan) -> Result<String, Failure> {
    if let Some(id) = find(engine, plan).await? {
        return Ok(id);
    }
    let request = NetworkCreateRequest {
        name: format!("rkube-{}", plan.name),
        driver: Some("bridge".into()),
        ipam: Some(Ipam {
            driver: Some("default".into()),
            config: Some(ipam_configs(plan)),
            ..Ipam::default()
        }),
        enable_ipv6: plan.ipv6.map(|_| true),
        labels: Some(labels(plan, None)),
        ..NetworkCreateRequest::default()
    };
    engine
        .docker
        .create_network(request)
        .await
        .map(|answer| answer.id)
        .map_err(|e| failure("cannot create the nodes' network", &e))
}

/// Returns the network's ranges: that of IPv4 and, if the cluster has it, that of IPv6.
fn ipam_configs(plan: &ClusterPlan) -> Vec<IpamConfig> {
    let ipv4 = IpamConfig {
        subnet: Some(plan.node_cidr.to_string()),
        gateway: Some(plan.gateway().to_string()),
        // The engine gives other containers no addresses of load balancers.
        ip_range: engine_range(plan.node_cidr).map(|range| range.to_string()),
        ..IpamConfig::default()
    };
    let ipv6 = plan.ipv6.map(|range| IpamConfig {
        subnet: Some(range.to_string()),
        gateway: plan.ipv6_of(plan.gateway()).map(|ip| ip.addr().to_string()),
        ..IpamConfig::default()
    });
    std::iter::once(ipv4).chain(ipv6).collect()
}

/// Returns the part of the nodes' range from which the engine may choose addresses by itself: the
/// lower half. Nodes and load balancers have fixed addresses.
fn engine_range(nodes: Ipv4Net) -> Option<Ipv4Net> {
    nodes.subnets(nodes.prefix_len() + 1).ok()?.next()
}

/// Removes the networks that match a filter.
pub async fn remove(
    engine: &Engine,
    filters: &HashMap<&'static str, Vec<String>>,
) -> Result<(), Failure> {
    let options = ListNetworksOptionsBuilder::default()
        .filters(filters)
        .build();
    let found = engine
        .docker
        .list_networks(Some(options))
        .await
        .map_err(|e| failure("cannot list the engine's networks", &e))?;
    for id in found.into_iter().filter_map(|n| n.id) {
        match engine.docker.remove_network(&id).await {
            Ok(()) => {}
            Err(e) if is_missing(&e) => {}
            Err(e) => {
                return Err(failure("cannot remove the nodes' network", &e).advise(
                    "take other containers off it first: docker network inspect, docker network disconnect",
                ));
            }
        }
    }
    Ok(())
}

/// Returns the address ranges of the engine's networks with their owners.
pub async fn ranges(engine: &Engine) -> Result<Vec<(Ipv4Net, Owner)>, Failure> {
    let networks = engine
        .docker
        .list_networks(None::<ListNetworksOptions>)
        .await
        .map_err(|e| failure("cannot list the engine's networks", &e))?;
    let mut found = Vec::new();
    for network in networks {
        let owner = Owner {
            profile: network.labels.and_then(|mut l| l.remove(PROFILE_LABEL)),
            network: network.name.unwrap_or_default(),
        };
        for config in network.ipam.and_then(|i| i.config).unwrap_or_default() {
            if let Some(Ok(net)) = config.subnet.map(|s| s.parse::<Ipv4Net>()) {
                found.push((net, owner.clone()));
            }
        }
    }
    Ok(found)
}

/// The owner of an address range.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The profile, if the network belongs to a cluster.
    pub profile: Option<String>,
    /// The network's name.
    pub network: String,
}

/// Returns a failure if the plan's range overlaps with another network of the engine.
pub async fn conflict(engine: &Engine, plan: &ClusterPlan) -> Result<Option<Failure>, Failure> {
    let hit = ranges(engine).await?.into_iter().find(|(net, owner)| {
        owner.profile.as_deref() != Some(&plan.name)
            && (net.contains(&plan.node_cidr) || plan.node_cidr.contains(net))
    });
    Ok(hit.map(|(net, owner)| {
        crate::ranges::taken(
            plan,
            &format!(" by the engine's network {} ({net})", owner.network),
        )
    }))
}
