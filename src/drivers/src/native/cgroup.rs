//! Control groups of nodes: version 1, version 2, and hybrid setups.
//!
//! Every node has one group per hierarchy, `rkube/<profile>/<node>`, which is the root of its
//! processes' cgroup namespace.

use std::path::Path;
use std::time::Duration;

use rkube_cgroups::{Hierarchy, HostGroups};

/// The group that contains all clusters, in each hierarchy.
const TOP: &str = "rkube";

/// Returns the groups of a cluster, or of one node. Creates nothing.
pub fn groups<'a>(
    hierarchies: &'a [Hierarchy],
    profile: &str,
    node: Option<&str>,
) -> HostGroups<'a> {
    let cluster = Path::new(TOP).join(profile);
    let path = node.map_or_else(|| cluster.clone(), |node| cluster.join(node));
    HostGroups::new(hierarchies, path)
}

/// Removes the groups of the cluster, or of one node. They must contain no processes; busy groups
/// are retried until `limit` has passed.
pub fn remove(
    hierarchies: &[Hierarchy],
    profile: &str,
    node: Option<&str>,
    limit: Duration,
) -> rkube_cgroups::Result<()> {
    groups(hierarchies, profile, node).remove(limit)?;
    // The common group is removed with the last cluster; until then it has children.
    HostGroups::new(hierarchies, TOP).remove_if_empty();
    Ok(())
}

/// Lets all nodes of a cluster go on, also those that no plan has any more.
pub fn thaw(
    hierarchies: &[Hierarchy],
    profile: &str,
    limit: Duration,
) -> rkube_cgroups::Result<()> {
    for node in groups(hierarchies, profile, None).children() {
        groups(hierarchies, profile, Some(&node)).set_frozen(false, limit)?;
    }
    Ok(())
}
