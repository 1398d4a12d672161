//! Hierarchies and their controllers.

use std::fs;
use std::path::{Path, PathBuf};

use crate::types::{Context, Result};

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its mount point.
    pub mount_point: PathBuf,
    /// Controllers and `name=…`; empty for version 2.
    pub controllers: Vec<String>,
    /// Whether it is version 2.
    pub unified: bool,
}

impl Hierarchy {
    /// Returns whether `controller` is bound to it.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// Returns the hierarchies that are mounted in the caller's mount namespace.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .context(|| "cannot read /proc/self/mountinfo".into())?;
    Ok(parse_mountinfo(&text))
}

/// Names of the version 1 controllers, to distinguish them from other mount options.
const V1_CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// Parses the hierarchies out of the text of a `mountinfo` file. A hierarchy that is
/// mounted twice is returned once, with its first mount point.
pub fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else {
            continue;
        };
        let Some(mount_point) = left.split(' ').nth(4) else {
            continue;
        };
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => continue,
        };
        let controllers: Vec<String> = options
            .split(',')
            .filter(|o| V1_CONTROLLERS.contains(o) || o.starts_with("name="))
            .filter(|_| !unified)
            .map(str::to_owned)
            .collect();
        if found
            .iter()
            .all(|h| h.unified != unified || h.controllers != controllers)
        {
            found.push(Hierarchy {
                mount_point: PathBuf::from(mount_point),
                controllers,
                unified,
            });
        }
    }
    found
}

/// Enables every controller that `group` has for its children, on version 2. A
/// controller that cannot be enabled (a threaded or busy one) is left out: setting limits
/// of it fails later, with an error of that file.
pub fn enable_controllers(group: &Path) {
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    let enabled = read("cgroup.subtree_control");
    for controller in read("cgroup.controllers").split_ascii_whitespace() {
        if !enabled.split_ascii_whitespace().any(|e| e == controller) {
            let _ = fs::write(
                group.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_both_versions_and_named_hierarchies() {
        let text = "\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
26 24 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
27 24 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
28 24 0:23 / /mnt/again rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n";
        let found = parse_mountinfo(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(found[1].controllers, ["name=systemd"]);
        assert!(found[2].unified && found[2].controllers.is_empty());
    }
}
