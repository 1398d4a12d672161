//! What a cluster's processes use.

use std::path::PathBuf;
use std::time::Duration;

/// `/proc` folders of every process of the cluster: those in its control groups
/// and its supervisors.
fn processes(profile: &str) -> Vec<PathBuf> {
    let group = format!("/rkube/{profile}/");
    let run = format!("/run/rkube/{profile}\0");
    let entries = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    entries
        .filter(|p| {
            let groups = std::fs::read_to_string(p.join("cgroup")).unwrap_or_default();
            let line = std::fs::read(p.join("cmdline")).unwrap_or_default();
            groups.lines().any(|l| format!("{l}/").contains(&group))
                || String::from_utf8_lossy(&line).contains(&run)
        })
        .collect()
}

/// Proportional set size of all processes, in bytes.
pub fn pss(profile: &str) -> u64 {
    let of = |path: &PathBuf| -> Option<u64> {
        let text = std::fs::read_to_string(path.join("smaps_rollup")).ok()?;
        let line = text.lines().find(|l| l.starts_with("Pss:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    processes(profile).iter().filter_map(of).sum()
}

/// User and system time of all processes together.
pub fn cpu(profile: &str) -> Duration {
    let of = |path: &PathBuf| -> Option<u64> {
        // Nanoseconds on a CPU, exact where the clock ticks of `stat` are not.
        let tasks = std::fs::read_dir(path.join("task")).ok()?.flatten();
        let one = |task: PathBuf| -> Option<u64> {
            std::fs::read_to_string(task.join("schedstat"))
                .ok()?
                .split(' ')
                .next()?
                .parse()
                .ok()
        };
        Some(tasks.filter_map(|t| one(t.path())).sum())
    };
    Duration::from_nanos(processes(profile).iter().filter_map(of).sum())
}
