//! The engine's objects that belong to a cluster, found by their labels.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as Summary};
use bollard::query_parameters::ListContainersOptionsBuilder;
use rkube_failure::Failure;

use super::engine::{Engine, failure};
use crate::types::ClusterPlan;

/// Label of all objects of a cluster: the profile's name.
pub const PROFILE_LABEL: &str = "io.rkube.profile";
/// Label with the profile's directory: profile names are unique only within an RKUBE_HOME.
pub const HOME_LABEL: &str = "io.rkube.home";
/// Label of a node's container and volumes: the node's name.
pub const NODE_LABEL: &str = "io.rkube.node";

/// Returns the labels of an object of the cluster.
pub fn labels(plan: &ClusterPlan, node: Option<&str>) -> HashMap<String, String> {
    let mut labels = HashMap::from([
        (PROFILE_LABEL.to_owned(), plan.name.clone()),
        (HOME_LABEL.to_owned(), plan.dir.display().to_string()),
    ]);
    labels.extend(node.map(|n| (NODE_LABEL.to_owned(), n.to_owned())));
    labels
}

/// Returns a list filter that matches the cluster's objects.
pub fn ours(plan: &ClusterPlan) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([(
        "label",
        vec![
            format!("{PROFILE_LABEL}={}", plan.name),
            format!("{HOME_LABEL}={}", plan.dir.display()),
        ],
    )])
}

/// Returns the containers that match a filter, running or not.
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

/// Returns the value of a container's label.
pub fn label<'a>(container: &'a ContainerSummary, name: &str) -> Option<&'a str> {
    Some(container.labels.as_ref()?.get(name)?.as_str())
}

/// Returns the cluster's containers by node name.
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

/// Whether a container runs, restarts or is paused.
pub fn runs(container: &ContainerSummary) -> bool {
    matches!(
        container.state,
        Some(Summary::RUNNING | Summary::RESTARTING | Summary::PAUSED)
    )
}
