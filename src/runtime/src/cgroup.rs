//! Control groups of containers: paths, use, limits, out-of-memory kills, removal.
//!
//! Paths are relative to this node's root cgroup, which its cgroup namespace
//! makes the root of every mounted hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::error::{Context, Result, RuntimeError};
use crate::spec::Resources;
use crate::status::Stats;

/// Where hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// What `memory.limit_in_bytes` shows for no limit, on any page size.
const V1_UNLIMITED: u64 = 1 << 62;

/// Whether the node has the unified hierarchy alone.
pub fn is_v2() -> bool {
    static V2: OnceLock<bool> = OnceLock::new();
    *V2.get_or_init(|| Path::new(ROOT).join("cgroup.controllers").exists())
}

/// The v1 hierarchies' mount points; empty on v2.
pub fn v1_controllers() -> Vec<PathBuf> {
    if is_v2() {
        return Vec::new();
    }
    let mut out: Vec<PathBuf> = fs::read_dir(ROOT)
        .into_iter()
        .flatten()
        .flatten()
        // Joint controllers are linked to by their single names.
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    out.sort();
    out
}

/// The cgroup's directory in the hierarchy of `controller`.
fn dir(controller: &str, cgroup: &str) -> PathBuf {
    let relative = cgroup.trim_start_matches('/');
    if is_v2() {
        Path::new(ROOT).join(relative)
    } else {
        Path::new(ROOT).join(controller).join(relative)
    }
}

/// The cgroup's directory in the unified hierarchy.
pub fn v2_dir(cgroup: &str) -> PathBuf {
    Path::new(ROOT).join(cgroup.trim_start_matches('/'))
}

/// The cgroup's directory in every hierarchy.
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

/// Whether the kernel counts swap on this node.
pub fn accounts_swap() -> bool {
    is_v2()
        || Path::new(ROOT)
            .join("memory/memory.memsw.limit_in_bytes")
            .exists()
}

/// Whether `controller` is there (v1) or available (v2).
pub fn has_controller(controller: &str) -> bool {
    if is_v2() {
        fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
            .is_ok_and(|text| text.split_ascii_whitespace().any(|c| c == controller))
    } else {
        Path::new(ROOT).join(controller).is_dir()
    }
}

fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(io::Error::other)
}

/// One value of a file of `key value` lines; 0 when it is not there.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.split_once(' ').filter(|(k, _)| *k == key))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// How many processes of the cgroup the kernel has killed for want of memory.
pub fn oom_kills(cgroup: &str) -> u64 {
    let file = if is_v2() {
        "memory.events"
    } else {
        "memory.oom_control"
    };
    fs::read_to_string(dir("memory", cgroup).join(file)).map_or(0, |text| keyed(&text, "oom_kill"))
}

/// The processes of the cgroup.
pub fn processes(cgroup: &str) -> Vec<i32> {
    fs::read_to_string(dir("pids", cgroup).join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default()
}

/// Kills every process of the cgroup, those it forks meanwhile included.
pub fn kill(cgroup: &str) {
    if is_v2() && fs::write(dir("", cgroup).join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for _ in 0..16 {
        let processes = processes(cgroup);
        if processes.is_empty() {
            return;
        }
        for pid in processes {
            // SAFETY: no memory is involved. A process of the cgroup cannot have
            // been replaced by another while it is listed, barring wrap-around.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// Makes the cgroup in every hierarchy, with every controller that there is, and
/// sets its limits. It holds other cgroups, no processes.
pub fn configure(cgroup: &str, resources: &Resources) -> Result<()> {
    let relative = cgroup.trim_matches('/');
    for dir in dirs(cgroup) {
        fs::create_dir_all(&dir).context(|| format!("cannot make cgroup {}", dir.display()))?;
    }
    if is_v2() {
        let mut level = PathBuf::from(ROOT);
        hand_down(&level);
        for name in relative.split('/') {
            level.push(name);
            hand_down(&level);
        }
    }
    update(cgroup, resources)
}

/// Hands every controller of a v2 cgroup down to those below it. One that refuses
/// is left out: limits by it fail later with their own message.
fn hand_down(dir: &Path) {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let given = read("cgroup.subtree_control");
    for controller in read("cgroup.controllers").split_ascii_whitespace() {
        if !given.split_ascii_whitespace().any(|g| g == controller) {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// Removes a cgroup that holds nothing any more; one that does stays.
pub fn remove_empty(cgroup: &str) {
    if cgroup.trim_matches('/').is_empty() {
        return;
    }
    for dir in dirs(cgroup) {
        let _ = fs::remove_dir(dir);
    }
}

/// Removes the cgroup from every hierarchy; true when nothing is left of it.
pub fn remove(cgroup: &str) -> bool {
    if cgroup.trim_matches('/').is_empty() {
        return false;
    }
    let mut gone = true;
    for dir in dirs(cgroup) {
        match remove_below(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(_) => gone = false,
        }
    }
    gone
}

/// Kills the cgroup's processes and removes it, waiting for them to be gone for
/// as long as `patience`. Blocks.
pub fn destroy(cgroup: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        kill(cgroup);
        if remove(cgroup) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // The kernel tells of no such end on v1.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A container with a writable hierarchy may have made children.
fn remove_below(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(e)
            if e.raw_os_error() == Some(libc::EBUSY)
                || e.kind() == io::ErrorKind::DirectoryNotEmpty =>
        {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    remove_below(&entry.path())?;
                }
            }
            fs::remove_dir(dir)
        }
        other => other,
    }
}

/// The use of CPU and memory.
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
        stats.page_faults = keyed(&text, "pgfault");
        stats.major_page_faults = keyed(&text, "pgmajfault");
        // The machine's own root has no such file.
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

/// The v2 weight that stands for a container's v1 shares. The curve is the one
/// that OCI runtimes agreed on: the ends of both scales meet, and so do the
/// defaults, 1024 and 100. Containers are made with it by the library.
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

/// The v2 weight of a pod's cgroup, or that of a class of pods, as the kubelet
/// computes it: a straight line.
pub fn pod_weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

/// Changes limits of a living cgroup; what is not set stays.
pub fn update(cgroup: &str, resources: &Resources) -> Result<()> {
    let write = |controller: &str, file: &str, value: String| -> Result<()> {
        let path = dir(controller, cgroup).join(file);
        fs::write(&path, &value)
            .context(|| format!("cannot set {file} of cgroup {cgroup} to {value}"))
    };
    let unlimited = |limit: i64| {
        if limit <= 0 {
            "max".to_string()
        } else {
            limit.to_string()
        }
    };
    let limited = |limit: i64| if limit <= 0 { -1 } else { limit }.to_string();
    if is_v2() {
        if let Some(shares) = resources.cpu_shares {
            write("cpu", "cpu.weight", weight(shares).to_string())?;
        }
        if resources.cpu_quota.is_some() || resources.cpu_period.is_some() {
            let quota = unlimited(resources.cpu_quota.unwrap_or(0));
            write(
                "cpu",
                "cpu.max",
                format!("{quota} {}", resources.cpu_period.unwrap_or(100_000)),
            )?;
        }
        if let Some(limit) = resources.memory_limit {
            write("memory", "memory.max", unlimited(limit))?;
        }
        if let (Some(total), Some(limit)) = (resources.memory_swap_limit, resources.memory_limit) {
            write(
                "memory",
                "memory.swap.max",
                if total <= 0 {
                    "max".into()
                } else {
                    (total - limit).max(0).to_string()
                },
            )?;
        }
        if let Some(limit) = resources.pids_limit {
            write("pids", "pids.max", unlimited(limit))?;
        }
        for (key, value) in &resources.unified {
            if key.contains('/') {
                return Err(RuntimeError::Invalid(format!("{key:?} is no cgroup file")));
            }
            write("", key, value.clone())?;
        }
    } else {
        if let Some(shares) = resources.cpu_shares {
            write("cpu", "cpu.shares", shares.max(2).to_string())?;
        }
        if let Some(period) = resources.cpu_period.filter(|p| *p > 0) {
            write("cpu", "cpu.cfs_period_us", period.to_string())?;
        }
        if let Some(quota) = resources.cpu_quota {
            write("cpu", "cpu.cfs_quota_us", limited(quota))?;
        }
        if let Some(limit) = resources.memory_limit {
            set_v1_memory(cgroup, limit, resources.memory_swap_limit)?;
        }
        if let Some(limit) = resources.pids_limit {
            write("pids", "pids.max", unlimited(limit))?;
        }
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        write("cpuset", "cpuset.cpus", cpus.clone())?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        write("cpuset", "cpuset.mems", mems.clone())?;
    }
    Ok(())
}

/// v1 refuses a memory limit above the limit of memory and swap, and the reverse:
/// the growing one goes first.
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
