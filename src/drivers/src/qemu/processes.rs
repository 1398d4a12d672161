//! Finds a cluster's processes by their command lines. Works without the cluster's files.

use std::path::Path;

use nix::unistd::Pid;

use rkube_config::roles;

use super::layout;

/// Returns the QEMU processes of a node.
pub fn of_machine(cluster: &Path, node: &str) -> Vec<Pid> {
    let socket = format!("unix:{},", layout::control(cluster, node).display());
    find(|args| args.iter().any(|a| a.starts_with(&socket)))
}

/// Returns all QEMU processes of the cluster.
pub fn machines(cluster: &Path) -> Vec<Pid> {
    let socket = format!("unix:{}/", cluster.join("vm").display());
    find(|args| args.iter().any(|a| a.starts_with(&socket)))
}

/// Returns all supervisors of the cluster.
pub fn supervisors(cluster: &Path) -> Vec<Pid> {
    let cluster = cluster.display().to_string();
    find(|args| {
        args.get(1).is_some_and(|a| a == roles::VM_SUPERVISE) && args.get(2) == Some(&cluster)
    })
}

#[cfg(target_os = "linux")]
fn find(ours: impl Fn(&[String]) -> bool) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let args: Vec<String> = line
                .split(|b| *b == 0)
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect();
            ours(&args).then(|| Pid::from_raw(pid))
        })
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn find(ours: impl Fn(&[String]) -> bool) -> Vec<Pid> {
    let Ok(listed) = std::process::Command::new("ps")
        .args(["-axww", "-o", "pid=,command="])
        .output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| {
            let (pid, command) = line.trim().split_once(' ')?;
            let args: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            ours(&args).then(|| pid.parse().ok().map(Pid::from_raw))?
        })
        .collect()
}
