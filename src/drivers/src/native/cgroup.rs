//! Control groups of nodes: version 1, version 2, and hybrid setups.
//!
//! Every node has one group per hierarchy, `rkube/<profile>/<node>`, which is the root of its
//! processes' cgroup namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkube_init::cgroup::{Hierarchy, enable_controllers};

/// The group that contains all clusters, in each hierarchy.
const TOP: &str = "rkube";

/// CPU and memory limits of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// CPU limit in millicores.
    pub cpu_millis: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
}

/// The period of the CPU bandwidth controller, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Creates a node's groups and sets their limits.
pub fn create(
    hierarchies: &[Hierarchy],
    profile: &str,
    node: &str,
    limits: Limits,
) -> anyhow::Result<()> {
    for hierarchy in hierarchies {
        let top = hierarchy.mount_point.join(TOP);
        let cluster = top.join(profile);
        let group = cluster.join(node);
        if hierarchy.unified {
            fs::create_dir_all(&group)
                .with_context(|| format!("cannot create {}", group.display()))?;
            for parent in [&hierarchy.mount_point, &top, &cluster] {
                enable_controllers(parent);
            }
        } else {
            for level in [&top, &cluster, &group] {
                fs::create_dir_all(level)
                    .with_context(|| format!("cannot create {}", level.display()))?;
                // Also if the group exists: a concurrent process may not have filled it yet.
                if hierarchy.has("cpuset") {
                    fill_cpuset(level)?;
                }
            }
        }
        set_limits(hierarchy, &group, limits)?;
    }
    Ok(())
}

/// Copies the parent's CPUs and memory nodes to a version 1 cpuset, which accepts no process
/// without them. `clone_children` does the same for groups below it.
fn fill_cpuset(group: &Path) -> anyhow::Result<()> {
    let parent = group.parent().context("a control group has a parent")?;
    let read = |path: PathBuf| {
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(group.join(file))?.trim().is_empty() {
            write(&group.join(file), read(parent.join(file))?.trim())?;
        }
    }
    write(&group.join("cgroup.clone_children"), "1")
}

fn set_limits(hierarchy: &Hierarchy, group: &Path, limits: Limits) -> anyhow::Result<()> {
    let quota = limits.cpu_millis.map(|millis| millis * CPU_PERIOD / 1000);
    if hierarchy.unified {
        // In a hybrid setup, the version 2 hierarchy has no resource controllers.
        if let Some(quota) = quota
            && group.join("cpu.max").exists()
        {
            write(&group.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?;
        }
        if let Some(bytes) = limits.memory_bytes
            && group.join("memory.max").exists()
        {
            write(&group.join("memory.max"), &bytes.to_string())?;
        }
        return Ok(());
    }
    if hierarchy.has("cpu")
        && let Some(quota) = quota
    {
        write(&group.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
        write(&group.join("cpu.cfs_quota_us"), &quota.to_string())?;
    }
    if hierarchy.has("memory")
        && let Some(bytes) = limits.memory_bytes
    {
        write(&group.join("memory.limit_in_bytes"), &bytes.to_string())?;
    }
    Ok(())
}

/// Moves `pid` into the node's group of every hierarchy.
pub fn join(hierarchies: &[Hierarchy], profile: &str, node: &str, pid: Pid) -> anyhow::Result<()> {
    for hierarchy in hierarchies {
        let procs = hierarchy
            .mount_point
            .join(TOP)
            .join(profile)
            .join(node)
            .join("cgroup.procs");
        write(&procs, &pid.to_string())?;
    }
    Ok(())
}

/// Kills all processes in the groups of the cluster, or of one node. Fails if any is left after
/// `limit`.
pub fn kill_all(
    hierarchies: &[Hierarchy],
    profile: &str,
    node: Option<&str>,
    limit: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let mut left = 0;
        for hierarchy in hierarchies {
            for group in groups(&group_path(hierarchy, profile, node)) {
                for pid in processes(&group) {
                    left += 1;
                    // The process may have exited in the meantime.
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
        }
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            anyhow::bail!("{left} processes of the cluster do not die");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the groups of the cluster, or of one node. They must contain no processes; busy groups
/// are retried until `limit` has passed.
pub fn remove(
    hierarchies: &[Hierarchy],
    profile: &str,
    node: Option<&str>,
    limit: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    for hierarchy in hierarchies {
        let top = group_path(hierarchy, profile, node);
        // A group can stay busy for a moment after its last process died.
        while top.exists() {
            // Deepest first: `groups` lists a parent before its children.
            for group in groups(&top).into_iter().rev() {
                match fs::remove_dir(&group) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e)
                        if Instant::now() < deadline && e.raw_os_error() == Some(libc::EBUSY) => {}
                    Err(e) => {
                        return Err(e)
                            .with_context(|| format!("cannot remove {}", group.display()));
                    }
                }
            }
            if top.exists() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // The common group is removed with the last cluster; until then this fails.
        let _ = fs::remove_dir(hierarchy.mount_point.join(TOP));
    }
    Ok(())
}

fn group_path(hierarchy: &Hierarchy, profile: &str, node: Option<&str>) -> PathBuf {
    let cluster = hierarchy.mount_point.join(TOP).join(profile);
    match node {
        Some(node) => cluster.join(node),
        None => cluster,
    }
}

/// Returns `top` and all groups below it, parents first; empty if `top` does not exist.
fn groups(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![top.to_path_buf()];
    while let Some(group) = open.pop() {
        let Ok(entries) = fs::read_dir(&group) else {
            continue;
        };
        found.push(group);
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found
}

fn processes(group: &Path) -> Vec<Pid> {
    fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        // 0 means a process outside of this PID namespace.
        .filter(|pid| *pid > 0)
        .map(Pid::from_raw)
        .collect()
}

fn write(path: &Path, value: &str) -> anyhow::Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write '{value}' to {}", path.display()))
}
