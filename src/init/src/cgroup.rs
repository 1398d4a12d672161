//! Mounts the control group hierarchies of a node: version 1, version 2 and the mix of both.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use rkube_cgroups::{Hierarchy, enable_controllers};

/// Mounts the hierarchies at `/sys/fs/cgroup` under `root`. Each mount shows the hierarchy
/// from the root of the caller's cgroup namespace.
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

/// Lets new groups on version 1 inherit the node's CPUs and memory nodes. A group without
/// any accepts no process.
pub fn share_cpuset(root: &Path) -> anyhow::Result<()> {
    let file = root.join("sys/fs/cgroup/cpuset/cgroup.clone_children");
    if file.exists() {
        write(&file, "1")?;
    }
    Ok(())
}

/// Moves the caller, and the processes that it has started, to the leaf group `init` and enables all
/// controllers for its siblings. On version 2 a group cannot both hold processes and enable controllers.
pub fn make_room(root: &Path) -> anyhow::Result<()> {
    let base = root.join("sys/fs/cgroup");
    if !base.join("cgroup.controllers").exists() {
        return Ok(());
    }
    let leaf = base.join("init");
    fs::create_dir_all(&leaf)?;
    let target = leaf.join("cgroup.procs");
    write(&target, "0")?;
    // The root of the hierarchy, which a virtual machine sees, may hold processes: the kernel's threads.
    if base.join("cgroup.type").exists() {
        move_others(&base.join("cgroup.procs"), &target)?;
    }
    enable_controllers(&base);
    Ok(())
}

/// Moves the processes that one file lists by writing them to another one.
fn move_others(processes: &Path, target: &Path) -> anyhow::Result<()> {
    let others = fs::read_to_string(processes)
        .with_context(|| format!("cannot read {}", processes.display()))?;
    // One of another PID namespace is listed as 0, which would mean the caller.
    for pid in others.lines().filter(|pid| *pid != "0") {
        match fs::write(target, pid) {
            // It has ended.
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(e) => rkube_fsutil::say!("init: cannot move the process {pid}: {e}"),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> anyhow::Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write '{value}' to {}", path.display()))
}
