//! Memory and CPU time of a cluster's processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Criteria that identify a cluster's processes.
pub struct Members {
    /// Substrings of control group paths.
    groups: Vec<String>,
    /// Substrings of command lines.
    lines: Vec<String>,
}

impl Members {
    /// Returns the criteria for a profile, with any driver.
    pub fn of(profile: &str, home: &Path) -> Self {
        let label = format!("label=io.rkube.profile={profile}");
        let containers = Command::new("docker")
            .args(["ps", "-q", "--no-trunc", "--filter", &label])
            .output()
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
            .unwrap_or_default();
        let mut groups = vec![format!("/rkube/{profile}/")];
        groups.extend(containers.lines().map(str::to_owned));
        Self {
            groups,
            lines: vec![
                format!("/run/rkube/{profile}\0"),
                format!("{}/", home.display()),
            ],
        }
    }

    fn holds(&self, process: &Path) -> bool {
        let groups = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        groups
            .lines()
            .any(|l| self.groups.iter().any(|g| format!("{l}/").contains(g)))
            || self.lines.iter().any(|part| line.contains(part))
    }
}

/// Returns the `/proc` directories of all processes of the cluster.
fn processes(members: &Members) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    entries.filter(|p| members.holds(p)).collect()
}

/// Returns the proportional set size (PSS) of all processes, in bytes.
pub fn pss(members: &Members) -> u64 {
    processes(members).iter().filter_map(|p| pss_of(p)).sum()
}

/// Returns the proportional set size (PSS) of the process with this `/proc` directory, in
/// bytes.
pub fn pss_of(process: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let line = text.lines().find(|l| l.starts_with("Pss:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Returns the total user and system time of all processes.
pub fn cpu(members: &Members) -> Duration {
    let of = |path: &PathBuf| -> Option<u64> {
        // `schedstat` has nanoseconds; the clock ticks of `stat` are less precise.
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
    Duration::from_nanos(processes(members).iter().filter_map(of).sum())
}
