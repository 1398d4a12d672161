//! Checks that a cluster left nothing on its host.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Asserts that nothing of `profile` is left, whose nodes' addresses begin with `prefix`.
/// Retries for 15 s, because the kernel removes namespaces in the background.
#[track_caller]
pub(crate) fn assert_none(profile: &str, home: &Path, prefix: &str) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let mut found = find(profile, home);
        found.extend(addresses(prefix));
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

/// Returns one line for each interface and route of the host in the range of addresses that
/// begin with `prefix`.
fn addresses(prefix: &str) -> Vec<String> {
    let list = |what: &[&str]| {
        let done = Command::new("ip").args(what).output();
        let text = done.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        text.unwrap_or_default()
    };
    let text = list(&["-o", "-4", "address"]) + &list(&["-4", "route"]);
    let lines = text
        .lines()
        .filter(|l| l.split_whitespace().any(|word| word.starts_with(prefix)));
    lines.map(|l| format!("address: {l}")).collect()
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
