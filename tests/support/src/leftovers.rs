//! Checks that a cluster left nothing on its host.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Asserts that nothing of `profile` is left. Retries for 15 s, because the kernel removes
/// namespaces in the background.
#[track_caller]
pub fn assert_none(profile: &str, home: &Path) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let found = find(profile, home);
        if found.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left behind:\n{}",
            found.join("\n")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns one line for each mount, directory, control group, process and table of
/// `profile`, and with the docker driver for each object of the container engine.
pub fn find(profile: &str, home: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let home_text = home.display().to_string();
    let mounts = read("/proc/self/mounts");
    found.extend(
        mounts
            .lines()
            .filter(|l| l.contains(&home_text))
            .map(|l| format!("mount: {l}")),
    );
    if home.exists() {
        found.push(format!("folder: {home_text}"));
    }
    let run = Path::new("/run/rkube").join(profile);
    if run.exists() {
        found.push(format!("folder: {}", run.display()));
    }
    for entry in walk(Path::new("/sys/fs/cgroup"), 3) {
        if entry.ends_with(format!("rkube/{profile}")) {
            found.push(format!("control group: {}", entry.display()));
        }
    }
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&home_text) || line.contains(&format!("/run/rkube/{profile}")) {
            found.push(format!("process {}: {line}", process.file_name().display()));
        }
    }
    if let Ok(tables) = Command::new("nft").args(["list", "tables"]).output() {
        let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
        let ours = format!("rkube-{profile}");
        found.extend(
            tables
                .lines()
                .filter(|l| l.contains(&ours))
                .map(|l| format!("rules: {l}")),
        );
    }
    if super::driver() == "docker" {
        found.extend(super::engine::holds(profile));
    }
    found
}

/// Returns the names of all clusters' network interfaces on the host.
pub fn links() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = text
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(name, _)| name.trim().to_owned());
    names.filter(|n| n.starts_with("rk-")).collect()
}

fn walk(dir: &Path, depth: u32) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.push(entry.path());
            if depth > 0 {
                found.extend(walk(&entry.path(), depth - 1));
            }
        }
    }
    found
}
