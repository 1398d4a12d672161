//! Control groups of nodes: version 1, version 2, and hybrid setups.
//!
//! Every node has one group per hierarchy, `rkube/<profile>/<node>`, which is the root of its
//! processes' cgroup namespace.

use std::path::Path;
use std::time::Duration;

use rkube_cgroups::devices::{self, DeviceRule};
use rkube_cgroups::{Hierarchy, HostGroups, Limits};

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

/// Returns the devices that processes of nodes may use, besides `declared` ones: those of all
/// containers, terminals, FUSE and network tunnels. Others can be created but not opened, so that
/// root in a node does not reach the host's disks.
fn allowed(declared: Vec<DeviceRule>) -> Vec<DeviceRule> {
    let mut rules = devices::defaults();
    rules.extend([
        DeviceRule::character(10, Some(200)),
        DeviceRule::character(10, Some(229)),
    ]);
    rules.extend(declared);
    rules
}

/// Creates the group of a cluster and restricts the devices of its nodes, which is only possible
/// while it has none. A node's own group would not do: root in the node could extend its rules.
pub fn create_cluster(
    hierarchies: &[Hierarchy],
    profile: &str,
    declared: Vec<DeviceRule>,
) -> rkube_cgroups::Result<()> {
    let cluster = groups(hierarchies, profile, None);
    cluster.create(Limits::default())?;
    if let Err(e) = cluster.restrict_devices(&allowed(declared)) {
        rkube_fsutil::say!(
            "supervisor: root in a node can open the host's devices, its disks included: {e}"
        );
    }
    Ok(())
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
    // Containers that were paused by themselves.
    groups(hierarchies, profile, None).thaw_below()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_open_no_disks_and_no_memory() {
        let rules = allowed(Vec::new());
        let opens = |rule: &&DeviceRule| rule.access.contains(['r', 'w']);
        assert!(
            rules
                .iter()
                .filter(opens)
                .all(|rule| !rule.block && rule.major.is_some())
        );
        let has = |major, minor| rules.contains(&DeviceRule::character(major, Some(minor)));
        // null, zero, full, random, urandom, tty, console, ptmx, tun, fuse
        for (major, minor) in [
            (1, 3),
            (1, 5),
            (1, 7),
            (1, 8),
            (1, 9),
            (5, 0),
            (5, 1),
            (5, 2),
        ] {
            assert!(has(major, minor), "{major}:{minor}");
        }
        assert!(has(10, 200) && has(10, 229));
        // mem, kmem, port, kmsg, kvm
        for (major, minor) in [(1, 1), (1, 2), (1, 4), (1, 11), (10, 232)] {
            assert!(!has(major, minor), "{major}:{minor}");
        }
    }
}
