//! The engine's objects that belong to a cluster, found by their labels.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as Summary};
use bollard::query_parameters::ListContainersOptionsBuilder;
use rkube_failure::Failure;

use super::engine::{Engine, failure};
use crate::types::ClusterPlan;

/// Label of everything that belongs to a cluster: the profile's name.
pub const PROFILE_LABEL: &str = "io.rkube.profile";
/// Label beside it: the profile's directory, since each RKUBE_HOME has names of its own.
pub const HOME_LABEL: &str = "io.rkube.home";
/// Label of a node's container and volumes: the node's name.
pub const NODE_LABEL: &str = "io.rkube.node";

/// Labels that make something part of the cluster.
pub fn labels(plan: &ClusterPlan, node: Option<&str>) -> HashMap<String, String> {
    let mut labels = HashMap::from([
        (PROFILE_LABEL.to_owned(), plan.name.clone()),
        (HOME_LABEL.to_owned(), plan.dir.display().to_string()),
    ]);
    labels.extend(node.map(|n| (NODE_LABEL.to_owned(), n.to_owned())));
    labels
}

/// A filter of the engine's lists for what belongs to the cluster.
pub fn ours(plan: &ClusterPlan) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([(
        "label",
        vec![
            format!("{PROFILE_LABEL}={}", plan.name),
            format!("{HOME_LABEL}={}", plan.dir.display()),
        ],
    )])
}

/// Containers that a filter finds, running or not.
pub async fn containers(
    engine: &Engine,
    filters: &HashMap<&'static str, Vec<String>>,
) -> Result<Vec<ContainerSummary>, Failure> {
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(filters)
        .build();
    engine
        .docker
        .list_containers(Some(options))
        .await
        .map_err(|e| failure("cannot list the engine's containers", &e))
}

pub fn label<'a>(container: &'a ContainerSummary, name: &str) -> Option<&'a str> {
    Some(container.labels.as_ref()?.get(name)?.as_str())
}

/// The cluster's containers by node.
pub async fn by_node(
    engine: &Engine,
    plan: &ClusterPlan,
) -> Result<BTreeMap<String, ContainerSummary>, Failure> {
    Ok(containers(engine, &ours(plan))
        .await?
        .into_iter()
        .filter_map(|c| Some((label(&c, NODE_LABEL)?.to_owned(), c)))
        .collect())
}

pub fn runs(container: &ContainerSummary) -> bool {
    matches!(
        container.state,
        Some(Summary::RUNNING | Summary::RESTARTING | Summary::PAUSED)
    )
}
