//! Groups below `/sys/fs/cgroup`: limits, statistics, out-of-memory kills, removal.
//!
//! Paths are relative to the root cgroup, which a node's cgroup namespace makes the root
//! of every mounted hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::freezer::Freezer;
use crate::group;
use crate::hierarchy::enable_controllers;
use crate::types::{Context, Error, Resources, Result, Stats};

/// Mount point of the hierarchies.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// Attempts to kill processes that fork meanwhile.
const MAX_KILL_ROUNDS: usize = 16;
/// Interval between attempts to remove a group on v1, which sends no notification.
const REMOVE_POLL_PERIOD: Duration = Duration::from_millis(2);
/// Lower bound of the values of `memory.limit_in_bytes` that mean no limit. The exact value
/// depends on the page size.
const V1_UNLIMITED: u64 = 1 << 62;

/// Returns whether the node has version 2 alone.
pub fn is_v2() -> bool {
    static V2: OnceLock<bool> = OnceLock::new();
    *V2.get_or_init(|| Path::new(ROOT).join("cgroup.controllers").exists())
}

/// Returns the freezer of a cgroup; `None` if the cgroup, or control over it, is not there.
fn freezer(cgroup: &str) -> Option<Freezer> {
    Freezer::at(&dir("freezer", cgroup), is_v2())
}

/// Freezes the processes of a cgroup, or lets them go on. Returns whether that was a change. If not all
/// processes are frozen within `limit`, they go on.
///
/// # Errors
///
/// Fails if the cgroup does not exist, or the kernel refuses.
pub fn set_frozen(cgroup: &str, frozen: bool, limit: Duration) -> Result<bool> {
    let freezer =
        freezer(cgroup).ok_or_else(|| Error::Invalid(format!("{cgroup} cannot be frozen")))?;
    if freezer.is_on() == frozen {
        return Ok(false);
    }
    freezer.set(frozen, limit).inspect_err(|_| {
        // The caller reports the failure that led here.
        let _ = freezer.set(false, limit);
    })?;
    Ok(true)
}

/// Returns whether the processes of a cgroup are frozen.
pub fn is_frozen(cgroup: &str) -> bool {
    freezer(cgroup).is_some_and(|freezer| freezer.is_on())
}

/// Lets all frozen processes of the node go on. On version 1, no signal ends a frozen process.
///
/// # Errors
///
/// Fails if the kernel refuses.
pub fn thaw_all() -> Result<()> {
    Freezer::thaw_below(&dir("freezer", "/"), is_v2())
}

/// Returns the v1 hierarchies' mount points; empty on v2.
pub fn v1_controllers() -> Vec<PathBuf> {
    if is_v2() {
        return Vec::new();
    }
    let mut out: Vec<PathBuf> = fs::read_dir(ROOT)
        .into_iter()
        .flatten()
        .flatten()
        // A controller's name may be a symbolic link to a hierarchy of several controllers.
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    out.sort();
    out
}

/// Returns the cgroup's directory in the hierarchy of `controller`.
fn dir(controller: &str, cgroup: &str) -> PathBuf {
    let relative = cgroup.trim_start_matches('/');
    if is_v2() {
        Path::new(ROOT).join(relative)
    } else {
        Path::new(ROOT).join(controller).join(relative)
    }
}

/// Returns the cgroup's directory in the hierarchy of `controller`.
pub(crate) fn directory(controller: &str, cgroup: &str) -> PathBuf {
    dir(controller, cgroup)
}

/// Returns the cgroup's directory in the unified hierarchy.
pub fn v2_dir(cgroup: &str) -> PathBuf {
    Path::new(ROOT).join(cgroup.trim_start_matches('/'))
}

/// Returns the cgroup's directory in every hierarchy.
fn dirs(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    if is_v2() {
        vec![Path::new(ROOT).join(relative)]
    } else {
        v1_controllers()
            .into_iter()
            .map(|c| c.join(relative))
            .collect()
    }
}

/// Returns whether the kernel accounts swap.
pub fn accounts_swap() -> bool {
    is_v2()
        || Path::new(ROOT)
            .join("memory/memory.memsw.limit_in_bytes")
            .exists()
}

/// Returns whether `controller` is mounted (v1) or available (v2).
pub fn has_controller(controller: &str) -> bool {
    if is_v2() {
        fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
            .is_ok_and(|text| text.split_ascii_whitespace().any(|c| c == controller))
    } else {
        Path::new(ROOT).join(controller).is_dir()
    }
}

/// Reads a file that holds one number.
fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(io::Error::other)
}

/// Reads one value of a file of `key value` lines; 0 if it is absent.
pub(crate) fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.split_once(' ').filter(|(k, _)| *k == key))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Returns the number of processes that the kernel has killed because the cgroup was out
/// of memory.
pub fn oom_kills(cgroup: &str) -> u64 {
    let file = if is_v2() {
        "memory.events"
    } else {
        "memory.oom_control"
    };
    fs::read_to_string(dir("memory", cgroup).join(file)).map_or(0, |text| keyed(&text, "oom_kill"))
}

/// Kills the processes of the cgroup and of those below it, including processes that they
/// fork meanwhile.
pub fn kill(cgroup: &str) {
    if is_v2() && fs::write(dir("", cgroup).join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let group = dir("pids", cgroup);
    for _ in 0..MAX_KILL_ROUNDS {
        let killed: usize = group::descendants(&group)
            .iter()
            .map(|group| group::kill(group))
            .sum();
        if killed == 0 {
            return;
        }
    }
}

/// Creates the cgroup in every hierarchy, enables every available controller for its
/// children, and sets its limits. On v2, such a cgroup can hold other cgroups but no
/// processes.
pub fn configure(cgroup: &str, resources: &Resources) -> Result<()> {
    let relative = cgroup.trim_matches('/');
    for dir in dirs(cgroup) {
        fs::create_dir_all(&dir).context(|| format!("cannot make cgroup {}", dir.display()))?;
    }
    if is_v2() {
        let mut level = PathBuf::from(ROOT);
        enable_controllers(&level);
        for name in relative.split('/') {
            level.push(name);
            enable_controllers(&level);
        }
    }
    update(cgroup, resources)
}

/// Removes the cgroup unless it has processes or children.
pub fn remove_empty(cgroup: &str) {
    if cgroup.trim_matches('/').is_empty() {
        return;
    }
    for dir in dirs(cgroup) {
        let _ = fs::remove_dir(dir);
    }
}

/// Removes the cgroup and those below it from every hierarchy. Returns whether the removal
/// succeeded everywhere. Does not remove the root cgroup.
pub fn remove(cgroup: &str) -> bool {
    if cgroup.trim_matches('/').is_empty() {
        return false;
    }
    let mut gone = true;
    for dir in dirs(cgroup) {
        gone &= group::remove(&dir).is_ok();
    }
    gone
}

/// Kills the cgroup's processes and removes it, retrying for at most `timeout`. Returns
/// whether it was removed. Blocks the thread.
pub fn destroy(cgroup: &str, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        kill(cgroup);
        if remove(cgroup) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(REMOVE_POLL_PERIOD);
    }
}

/// Reads the usage of CPU, memory and processes.
pub fn stats(cgroup: &str) -> Result<Stats> {
    let failed = || format!("cannot read statistics of cgroup {cgroup}");
    let memory = dir("memory", cgroup);
    let mut stats = Stats {
        timestamp: Timestamp::now(),
        ..Stats::default()
    };
    if is_v2() {
        let cpu = fs::read_to_string(memory.join("cpu.stat")).context(failed)?;
        stats.cpu_ns = keyed(&cpu, "usage_usec") * 1000;
        let text = fs::read_to_string(memory.join("memory.stat")).context(failed)?;
        stats.memory_rss = keyed(&text, "anon");
        stats.swap_usage = number(&memory.join("memory.swap.current")).unwrap_or(0);
        stats.page_faults = keyed(&text, "pgfault");
        stats.major_page_faults = keyed(&text, "pgmajfault");
        // The root cgroup of a machine has no such file.
        stats.memory_usage = number(&memory.join("memory.current"))
            .unwrap_or_else(|_| stats.memory_rss + keyed(&text, "file"));
        stats.memory_working_set = stats
            .memory_usage
            .saturating_sub(keyed(&text, "inactive_file"));
        stats.memory_limit = number(&memory.join("memory.max")).ok();
    } else {
        stats.cpu_ns = number(&dir("cpuacct", cgroup).join("cpuacct.usage")).context(failed)?;
        let text = fs::read_to_string(memory.join("memory.stat")).context(failed)?;
        stats.memory_rss = keyed(&text, "total_rss");
        stats.swap_usage = keyed(&text, "total_swap");
        stats.page_faults = keyed(&text, "total_pgfault");
        stats.major_page_faults = keyed(&text, "total_pgmajfault");
        stats.memory_usage = number(&memory.join("memory.usage_in_bytes")).context(failed)?;
        stats.memory_working_set = stats
            .memory_usage
            .saturating_sub(keyed(&text, "total_inactive_file"));
        stats.memory_limit = number(&memory.join("memory.limit_in_bytes"))
            .ok()
            .filter(|limit| *limit < V1_UNLIMITED);
    }
    stats.pids = number(&dir("pids", cgroup).join("pids.current")).unwrap_or(0);
    Ok(stats)
}

/// Converts a container's v1 shares to a v2 weight, on the curve of the OCI runtimes. It
/// maps the ends of both scales to each other, and the default 1024 to 100.
pub fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

/// Converts v1 shares to the v2 weight of the cgroup of a pod, or of a QoS class, as the
/// kubelet does: linearly.
pub fn pod_weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

/// Changes limits of a cgroup; those that are not set are left unchanged.
pub fn update(cgroup: &str, resources: &Resources) -> Result<()> {
    if is_v2() {
        update_v2(cgroup, resources)?;
    } else {
        update_v1(cgroup, resources)?;
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        set(cgroup, "cpuset", "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        set(cgroup, "cpuset", "cpuset.mems", mems)?;
    }
    Ok(())
}

fn update_v2(cgroup: &str, resources: &Resources) -> Result<()> {
    if let Some(shares) = resources.cpu_shares {
        set(cgroup, "cpu", "cpu.weight", &weight(shares).to_string())?;
    }
    if resources.cpu_quota.is_some() || resources.cpu_period.is_some() {
        let quota = limit_or_max(resources.cpu_quota.unwrap_or(0));
        let period = resources.cpu_period.unwrap_or(100_000);
        set(cgroup, "cpu", "cpu.max", &format!("{quota} {period}"))?;
    }
    if let Some(limit) = resources.memory_limit {
        set(cgroup, "memory", "memory.max", &limit_or_max(limit))?;
    }
    if let (Some(total), Some(limit)) = (resources.memory_swap_limit, resources.memory_limit) {
        let swap = if total <= 0 {
            "max".into()
        } else {
            (total - limit).max(0).to_string()
        };
        set(cgroup, "memory", "memory.swap.max", &swap)?;
    }
    if let Some(limit) = resources.pids_limit {
        set(cgroup, "pids", "pids.max", &limit_or_max(limit))?;
    }
    for (key, value) in &resources.unified {
        if key.contains('/') {
            return Err(Error::Invalid(format!("{key:?} is no cgroup file")));
        }
        set(cgroup, "", key, value)?;
    }
    Ok(())
}

fn update_v1(cgroup: &str, resources: &Resources) -> Result<()> {
    if let Some(shares) = resources.cpu_shares {
        set(cgroup, "cpu", "cpu.shares", &shares.max(2).to_string())?;
    }
    if let Some(period) = resources.cpu_period.filter(|p| *p > 0) {
        set(cgroup, "cpu", "cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = resources.cpu_quota {
        let quota = if quota <= 0 { -1 } else { quota };
        set(cgroup, "cpu", "cpu.cfs_quota_us", &quota.to_string())?;
    }
    if let Some(limit) = resources.memory_limit {
        set_v1_memory(cgroup, limit, resources.memory_swap_limit)?;
    }
    if let Some(limit) = resources.pids_limit {
        set(cgroup, "pids", "pids.max", &limit_or_max(limit))?;
    }
    Ok(())
}

/// Writes a file of the cgroup.
fn set(cgroup: &str, controller: &str, file: &str, value: &str) -> Result<()> {
    let path = dir(controller, cgroup).join(file);
    fs::write(&path, value).context(|| format!("cannot set {file} of cgroup {cgroup} to {value}"))
}

/// Formats a v2 limit; zero and negative values are unlimited (`max`).
fn limit_or_max(limit: i64) -> String {
    if limit <= 0 {
        "max".to_string()
    } else {
        limit.to_string()
    }
}

/// Sets the memory limits on v1. The kernel rejects a memory limit above the limit of
/// memory and swap, so a growing limit of memory and swap is set first.
fn set_v1_memory(cgroup: &str, limit: i64, swap: Option<i64>) -> Result<()> {
    let memory = dir("memory", cgroup);
    let text = |limit: i64| if limit <= 0 { -1 } else { limit }.to_string();
    let total = memory.join("memory.memsw.limit_in_bytes");
    let plain = memory.join("memory.limit_in_bytes");
    let mut writes = vec![(plain.clone(), text(limit))];
    if let Some(swap) = swap
        && total.exists()
    {
        let current = number(&total).unwrap_or(u64::MAX);
        let grows = swap <= 0 || u64::try_from(swap).is_ok_and(|s| s > current);
        writes.insert(if grows { 0 } else { 1 }, (total, text(swap)));
    }
    for (path, value) in writes {
        fs::write(&path, &value).context(|| format!("cannot set {} to {value}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_values() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), 3);
        assert_eq!(keyed(text, "absent"), 0);
    }

    #[test]
    fn weights_span_the_range() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(256), 35);
        assert_eq!(weight(1024), 100);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(0), 1);
        assert_eq!(pod_weight(2), 1);
        assert_eq!(pod_weight(1024), 39);
        assert_eq!(pod_weight(262_144), 10_000);
    }
}
