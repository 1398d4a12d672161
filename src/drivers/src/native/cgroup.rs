//! Control groups of nodes: version 1, version 2, and hybrid setups.
//!
//! Every node has one group per hierarchy, `rkube/<profile>/<node>`, which is the root of its
//! processes' cgroup namespace.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
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

/// How often a group is looked at that is being frozen.
const FREEZE_POLL_PERIOD: Duration = Duration::from_millis(5);

/// The file that freezes a node's group, and what is written to it.
struct Freezer {
    file: PathBuf,
    words: [&'static str; 2],
    /// The file that tells whether all processes are frozen, and how.
    state: (PathBuf, &'static str),
}

impl Freezer {
    /// Returns the freezer of a node: that of version 1 if the host has it, because only one of
    /// both can thaw what it froze. Returns `None` if the node has no groups.
    fn of(hierarchies: &[Hierarchy], profile: &str, node: &str) -> Option<Self> {
        let path = Path::new(TOP).join(profile).join(node);
        let version_1 = hierarchies.iter().find(|h| h.has("freezer"));
        let hierarchy = version_1.or_else(|| hierarchies.iter().find(|h| h.unified))?;
        let group = hierarchy.mount_point.join(path);
        let (file, words, state) = match hierarchy.unified {
            true => ("cgroup.freeze", ["0", "1"], ("cgroup.events", "frozen 1")),
            false => (
                "freezer.state",
                ["THAWED", "FROZEN"],
                ("freezer.state", "FROZEN"),
            ),
        };
        let freezer = Self {
            file: group.join(file),
            words,
            state: (group.join(state.0), state.1),
        };
        freezer.file.exists().then_some(freezer)
    }

    /// Whether the group is frozen, or is about to be.
    fn is_on(&self) -> bool {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        // Version 1 says FREEZING until all processes are frozen.
        !text.is_empty() && text.trim() != self.words[0]
    }

    fn set(&self, on: bool, limit: Duration) -> anyhow::Result<()> {
        let word = self.words[usize::from(on)];
        let shown = self.file.display();
        std::fs::write(&self.file, word).with_context(|| format!("cannot write {shown}"))?;
        if !on {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        loop {
            let text = std::fs::read_to_string(&self.state.0)
                .with_context(|| format!("cannot read {}", self.state.0.display()))?;
            if text.lines().any(|line| line.trim() == self.state.1) {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the processes of {shown} do not freeze"
            );
            std::thread::sleep(FREEZE_POLL_PERIOD);
        }
    }
}

/// Freezes the processes of a node, or lets them go on. Does nothing if the node has no groups or is
/// in that state already. A node whose processes are not all frozen within `limit` goes on.
pub fn set_frozen(
    hierarchies: &[Hierarchy],
    profile: &str,
    node: &str,
    frozen: bool,
    limit: Duration,
) -> anyhow::Result<()> {
    let Some(freezer) = Freezer::of(hierarchies, profile, node) else {
        return Ok(());
    };
    if freezer.is_on() == frozen {
        return Ok(());
    }
    freezer.set(frozen, limit).inspect_err(|_| {
        // The caller reports the failure that led here.
        let _ = freezer.set(false, limit);
    })
}

/// Lets all nodes of a cluster go on, also those that no plan has any more.
pub fn thaw(hierarchies: &[Hierarchy], profile: &str, limit: Duration) -> anyhow::Result<()> {
    for hierarchy in hierarchies {
        let group = hierarchy.mount_point.join(TOP).join(profile);
        // Without the group there is nothing to thaw.
        for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
            if let Some(node) = entry.file_name().to_str() {
                set_frozen(hierarchies, profile, node, false, limit)?;
            }
        }
    }
    Ok(())
}

/// Whether a node's processes are frozen.
pub fn is_frozen(hierarchies: &[Hierarchy], profile: &str, node: &str) -> bool {
    Freezer::of(hierarchies, profile, node).is_some_and(|freezer| freezer.is_on())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(mount_point: &Path, controllers: &[&str]) -> Hierarchy {
        Hierarchy {
            mount_point: mount_point.to_owned(),
            controllers: controllers.iter().map(ToString::to_string).collect(),
            unified: controllers.is_empty(),
        }
    }

    #[test]
    fn one_hierarchy_freezes_a_node() {
        // Plain files behave like the kernel's, except that they keep what is written.
        let dir = tempfile::tempdir().unwrap();
        let (v1, v2) = (dir.path().join("freezer"), dir.path().join("unified"));
        for path in [&v1, &v2] {
            std::fs::create_dir_all(path.join("rkube/p/n")).unwrap();
        }
        let old = v1.join("rkube/p/n/freezer.state");
        let new = v2.join("rkube/p/n/cgroup.freeze");
        std::fs::write(&old, "THAWED\n").unwrap();
        std::fs::write(&new, "0\n").unwrap();
        let both = [hierarchy(&v2, &[]), hierarchy(&v1, &["freezer"])];
        let limit = Duration::from_millis(20);
        assert!(!is_frozen(&both, "p", "n"));
        set_frozen(&both, "p", "n", true, limit).unwrap();
        assert!(is_frozen(&both, "p", "n"));
        assert_eq!(std::fs::read_to_string(&new).unwrap(), "0\n");
        set_frozen(&both, "p", "n", false, limit).unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "THAWED");
        set_frozen(&both, "p", "n", true, limit).unwrap();
        thaw(&both, "p", limit).unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "THAWED");
        // A node that is not there is not frozen, and need not be.
        set_frozen(&both, "p", "other", true, limit).unwrap();

        let unified = [hierarchy(&v2, &[])];
        let events = v2.join("rkube/p/n/cgroup.events");
        std::fs::write(&events, "populated 1\nfrozen 0\n").unwrap();
        assert!(set_frozen(&unified, "p", "n", true, limit).is_err());
        assert!(!is_frozen(&unified, "p", "n"));
        std::fs::write(&events, "populated 1\nfrozen 1\n").unwrap();
        set_frozen(&unified, "p", "n", true, limit).unwrap();
        assert!(is_frozen(&unified, "p", "n"));
    }
}
