//! Checks the native driver's requirements before anything is created.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use rkube_failure::{Failure, Kind, Source};

use super::network;
use crate::types::{ClusterPlan, Problem};

/// Minimum free disk space for the profile, in bytes.
const DISK_MIN: u64 = 1 << 30;
/// Minimum `fs.inotify.max_user_instances` per node.
const INOTIFY_PER_NODE: u64 = 16;
/// The oldest supported kernel: the first with `CLOSE_RANGE_CLOEXEC`.
const KERNEL_MIN: (u32, u32) = (5, 11);

/// Checks all requirements; returns an empty list if a cluster can be created.
pub fn check(plan: &ClusterPlan) -> Vec<Problem> {
    let fatal = |failure| Problem {
        failure,
        fatal: true,
    };
    if !nix::unistd::geteuid().is_root() {
        // The other checks need root.
        return vec![fatal(
            Failure::new(
                Source::Host,
                Kind::Permission,
                "the native driver needs root to create namespaces, network interfaces and mounts",
            )
            .advise(sudo_advice()),
        )];
    }
    let mut problems = Vec::new();
    problems.extend(kernel().map(fatal));
    problems.extend(namespaces().map(fatal));
    problems.extend(file_systems().map(fatal));
    problems.extend(cgroups().map(fatal));
    problems.extend(home(&plan.dir).map(fatal));
    problems.extend(disk(&plan.dir).map(fatal));
    problems.extend(range(plan).map(fatal));
    problems.extend(inotify(plan.nodes.len() as u64).map(|failure| Problem {
        failure,
        fatal: false,
    }));
    problems
}

/// Fails unless this process is root.
pub fn require_root(command: &str) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(
        Source::Host,
        Kind::Permission,
        format!("the native driver needs root to {command} nodes"),
    )
    .advise(sudo_advice()))
}

/// Returns the advice to run the current command line as root.
fn sudo_advice() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("run it as root: sudo rkube {}", args.join(" "))
}

fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Source::Host, Kind::Unsupported, message)
}

fn kernel() -> Option<Failure> {
    let release = nix::sys::utsname::uname()
        .ok()?
        .release()
        .to_string_lossy()
        .into_owned();
    let version = parse_release(&release)?;
    (version < KERNEL_MIN).then(|| {
        unsupported(format!(
            "the kernel is {release}, {}.{} is the oldest that works",
            KERNEL_MIN.0, KERNEL_MIN.1
        ))
        .advise("update the kernel, or use --driver qemu")
    })
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn namespaces() -> Option<Failure> {
    let missing: Vec<&str> = ["mnt", "pid", "net", "uts", "ipc", "cgroup"]
        .into_iter()
        .filter(|n| !Path::new("/proc/self/ns").join(n).exists())
        .collect();
    (!missing.is_empty()).then(|| {
        unsupported(format!(
            "the kernel lacks namespaces: {}",
            missing.join(", ")
        ))
        .advise("boot a kernel built with CONFIG_NAMESPACES and its options")
    })
}

fn file_systems() -> Option<Failure> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|l| l.split_whitespace().last() == Some("overlay"))
    {
        return None;
    }
    Some(
        unsupported("the kernel does not know the overlay file system")
            .advise("load it: modprobe overlay"),
    )
}

fn cgroups() -> Option<Failure> {
    let hierarchies = match rkube_cgroups::hierarchies() {
        Ok(hierarchies) => hierarchies,
        Err(e) => return Some(Failure::new(Source::Host, Kind::Error, format!("{e:#}"))),
    };
    let mut available: Vec<String> = hierarchies
        .iter()
        .flat_map(|h| h.controllers.iter().cloned())
        .collect();
    for unified in hierarchies.iter().filter(|h| h.unified) {
        let text =
            fs::read_to_string(unified.mount_point.join("cgroup.controllers")).unwrap_or_default();
        available.extend(text.split_whitespace().map(str::to_owned));
    }
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|c| !available.iter().any(|a| a == c))
        .collect();
    (!missing.is_empty()).then(|| {
        unsupported(format!(
            "no control group controller for {}",
            missing.join(", ")
        ))
        .advise("mount cgroup2 on /sys/fs/cgroup with these controllers enabled")
    })
}

/// Fails if the profile is on an overlay, which cannot be the upper layer of another overlay.
fn home(dir: &Path) -> Option<Failure> {
    let existing = dir.ancestors().find(|d| d.exists())?;
    let kind = statfs(existing).ok()?.filesystem_type();
    (kind == OVERLAYFS_SUPER_MAGIC).then(|| {
        unsupported(format!(
            "{} is on an overlay file system, where nodes cannot keep their roots",
            existing.display()
        ))
        .advise(
            "set RKUBE_HOME to a directory on a real file system (ext4, xfs, btrfs) or on a tmpfs",
        )
    })
}

fn disk(dir: &Path) -> Option<Failure> {
    let existing = dir.ancestors().find(|d| d.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    let free = stat.blocks_available() * stat.fragment_size();
    (free < DISK_MIN).then(|| {
        Failure::new(
            Source::Resource,
            Kind::Unsupported,
            format!(
                "{} has {} MiB free, a cluster needs {} MiB",
                existing.display(),
                free >> 20,
                DISK_MIN >> 20
            ),
        )
        .advise("free some space, or set RKUBE_HOME to a directory on another disk")
    })
}

fn range(plan: &ClusterPlan) -> Option<Failure> {
    let own = network::host(plan).link_name();
    match rkube_network::host::range_conflict(plan.node_cidr, &[&own]) {
        Ok(None) => None,
        Ok(Some(what)) => Some(crate::ranges::taken(plan, &format!(": {what}"))),
        Err(e) => Some(Failure::new(
            Source::LocalNetwork,
            Kind::Error,
            e.to_string(),
        )),
    }
}

fn inotify(nodes: u64) -> Option<Failure> {
    let limit: u64 = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances")
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let needed = nodes * INOTIFY_PER_NODE;
    (limit < needed).then(|| {
        Failure::new(
            Source::Resource,
            Kind::Config,
            format!("fs.inotify.max_user_instances is {limit}; programs in {nodes} nodes may run out of them"),
        )
        .advise(format!("raise it: sysctl fs.inotify.max_user_instances={}", needed.max(512)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.18.44-fc"), Some((6, 18)));
        assert_eq!(parse_release("5.4.0-generic"), Some((5, 4)));
        assert!(parse_release("5.4.0").unwrap() < KERNEL_MIN);
        assert_eq!(parse_release("weird"), None);
    }
}
