//! Control group hierarchies as a node sees them, version 1, version 2 and the
//! mix of both.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};

/// One mounted hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where the host has it mounted.
    pub mount_point: PathBuf,
    /// Controllers and `name=`; empty for version 2.
    pub controllers: Vec<String>,
    /// Whether it is version 2.
    pub unified: bool,
}

impl Hierarchy {
    /// Whether it binds `controller`.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The hierarchies that this process can see.
pub fn hierarchies() -> anyhow::Result<Vec<Hierarchy>> {
    let text =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse_mountinfo(&text))
}

/// Controllers that a version 1 hierarchy may bind; other mount options are not.
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

fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
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
        // The same hierarchy may be mounted twice; the first place is enough.
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

/// Hands every controller that `group` has down to its children. A controller
/// that refuses (a threaded or busy one) is left out: limits by it fail later
/// with their own message.
pub fn enable_controllers(group: &Path) {
    let Ok(available) = fs::read_to_string(group.join("cgroup.controllers")) else {
        return;
    };
    for controller in available.split_whitespace() {
        let _ = fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// Mounts the hierarchies at `/sys/fs/cgroup` under `root`, as seen from the
/// cgroup namespace that the caller has just entered.
pub fn mount_all(hierarchies: &[Hierarchy], root: &Path) -> anyhow::Result<()> {
    let base = root.join("sys/fs/cgroup");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let [only] = hierarchies
        && only.unified
    {
        return mount(Some("cgroup2"), &base, Some("cgroup2"), flags, None::<&str>)
            .with_context(|| format!("cannot mount cgroup2 on {}", base.display()));
    }
    mount(Some("tmpfs"), &base, Some("tmpfs"), flags, Some("mode=755"))
        .with_context(|| format!("cannot mount tmpfs on {}", base.display()))?;
    for hierarchy in hierarchies {
        let place = match hierarchy.mount_point.file_name() {
            Some(_) if hierarchy.unified => base.join("unified"),
            Some(name) => base.join(name),
            None => continue,
        };
        fs::create_dir_all(&place)?;
        let (kind, data) = if hierarchy.unified {
            ("cgroup2", None)
        } else {
            let named = hierarchy.controllers.iter().any(|c| c.starts_with("name="));
            let none = if named { "none," } else { "" };
            (
                "cgroup",
                Some(CString::new(format!(
                    "{none}{}",
                    hierarchy.controllers.join(",")
                ))?),
            )
        };
        mount(Some(kind), &place, Some(kind), flags, data.as_deref())
            .with_context(|| format!("cannot mount {kind} on {}", place.display()))?;
        // `cpu,cpuacct` is also known as `cpu` and as `cpuacct`.
        if !hierarchy.unified && hierarchy.controllers.len() > 1 {
            for controller in &hierarchy.controllers {
                let alias = base.join(controller);
                if !alias.exists()
                    && let Some(target) = place.file_name()
                {
                    std::os::unix::fs::symlink(target, &alias)?;
                }
            }
        }
    }
    Ok(())
}

/// On version 1 every group below the node's gets the node's CPUs and memory
/// nodes by itself, else it would take no process.
pub fn share_cpuset(root: &Path) -> anyhow::Result<()> {
    let file = root.join("sys/fs/cgroup/cpuset/cgroup.clone_children");
    if file.exists() {
        write(&file, "1")?;
    }
    Ok(())
}

/// On version 2 no group may hold processes and hand controllers down at once:
/// moves the caller to a leaf of its own and enables everything for siblings.
pub fn make_room(root: &Path) -> anyhow::Result<()> {
    let base = root.join("sys/fs/cgroup");
    if !base.join("cgroup.controllers").exists() {
        return Ok(());
    }
    let leaf = base.join("init");
    fs::create_dir_all(&leaf)?;
    write(&leaf.join("cgroup.procs"), "0")?;
    enable_controllers(&base);
    Ok(())
}

fn write(path: &Path, value: &str) -> anyhow::Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write '{value}' to {}", path.display()))
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
