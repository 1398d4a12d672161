//! Checks the qemu driver's requirements before anything is created.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rkube_failure::{Failure, Kind, Source};

use super::{accel, disk, kernel, layout, machine};
use crate::types::{ClusterPlan, Problem};

/// Minimum free disk space for the profile, in bytes.
const DISK_MIN: u64 = 2 << 30;
/// The oldest supported QEMU: the first with datagram sockets as network back ends.
const QEMU_MIN: (u32, u32) = (7, 2);

/// Checks all requirements; only fatal problems prevent the creation of a cluster.
pub fn check(plan: &ClusterPlan) -> Vec<Problem> {
    let fatal = |failure| Problem {
        failure,
        fatal: true,
    };
    let note = |failure| Problem {
        failure,
        fatal: false,
    };
    let mut problems = Vec::new();
    problems.extend(qemu().err().map(fatal));
    #[cfg(not(target_os = "linux"))]
    problems.extend(
        crate::binary::for_nodes(std::env::consts::ARCH)
            .err()
            .map(fatal),
    );
    problems.extend(kernel::find(plan).err().map(fatal));
    problems.extend(formatter().map(fatal));
    problems.extend(sockets(plan).map(fatal));
    problems.extend(space(plan).map(fatal));
    problems.extend(accel::choose().1.map(note));
    problems.extend(converter().map(note));
    problems.extend(memory(plan).map(note));
    problems
}

/// Returns the path of QEMU if it is installed and new enough.
pub fn qemu() -> Result<PathBuf, Failure> {
    let name = machine::qemu_name();
    let install = "install it (Debian and Ubuntu: qemu-system-x86, Fedora: qemu-system-x86-core, \
                   macOS: brew install qemu)";
    let Some(path) = disk::program(name) else {
        return Err(Failure::new(
            Source::Provider,
            Kind::NotFound,
            format!("there is no {name}"),
        )
        .advise(install));
    };
    let said = Command::new(&path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .map_err(|e| {
            Failure::new(
                Source::Provider,
                Kind::Error,
                format!("cannot run {}: {e}", path.display()),
            )
        })?;
    match version(&said) {
        Some(found) if found < QEMU_MIN => Err(Failure::new(
            Source::Provider,
            Kind::Unsupported,
            format!(
                "QEMU is {}.{}, {}.{} is the oldest that works",
                found.0, found.1, QEMU_MIN.0, QEMU_MIN.1
            ),
        )
        .advise("install a newer one")),
        _ => Ok(path),
    }
}

/// Parses the version in a line like `QEMU emulator version 7.2.22 (Debian …)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said
        .split_once("version ")?
        .1
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn formatter() -> Option<Failure> {
    disk::program("mkfs.ext4").is_none().then(|| {
        Failure::new(
            Source::Host,
            Kind::NotFound,
            "there is no mkfs.ext4, which formats the nodes' disks",
        )
        .advise("install e2fsprogs (macOS: brew install e2fsprogs)")
    })
}

/// Fails if a socket's path exceeds `sun_path`: 108 bytes on Linux, 104 on other systems.
fn sockets(plan: &ClusterPlan) -> Option<Failure> {
    const MAX_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
    let longest = plan
        .nodes
        .iter()
        .map(|n| layout::monitor(&plan.run_dir, &n.name).as_os_str().len())
        .max()?;
    (longest > MAX_PATH_BYTES).then(|| {
        Failure::new(
            Source::Program,
            Kind::Config,
            format!(
                "sockets below {} would have names of {longest} bytes, the system takes {MAX_PATH_BYTES}",
                plan.run_dir.display()
            ),
        )
        .advise("choose a shorter profile name with -p, or a shorter XDG_RUNTIME_DIR or RKUBE_HOME")
    })
}

fn converter() -> Option<Failure> {
    disk::program("qemu-img").is_none().then(|| {
        Failure::new(
            Source::Host,
            Kind::NotFound,
            "there is no qemu-img: the nodes' disks are sparse raw files",
        )
        .advise("install qemu-utils for qcow2 ones")
    })
}

fn space(plan: &ClusterPlan) -> Option<Failure> {
    let existing = plan.dir.ancestors().find(|d| d.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    (free < DISK_MIN).then(|| {
        Failure::new(
            Source::Resource,
            Kind::Unsupported,
            format!(
                "{} has {} MiB free, a cluster of virtual machines needs {} MiB",
                existing.display(),
                free >> 20,
                DISK_MIN >> 20
            ),
        )
        .advise("free some space, or set RKUBE_HOME to a directory on another disk")
    })
}

/// Warns if the machines need more memory than is available, so that the host would swap.
fn memory(plan: &ClusterPlan) -> Option<Failure> {
    let wanted: u64 = plan
        .nodes
        .iter()
        .map(|n| n.memory_bytes.unwrap_or(machine::DEFAULT_MEMORY))
        .sum();
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let free: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?
        .trim()
        .strip_suffix(" kB")?
        .trim()
        .parse()
        .ok()?;
    (wanted > free << 10).then(|| {
        Failure::new(
            Source::Resource,
            Kind::Config,
            format!(
                "the nodes may use {} MiB together, this machine has {} MiB free",
                wanted >> 20,
                free >> 10
            ),
        )
        .advise("give them less with --memory")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n";
        assert_eq!(version(said), Some((10, 0)));
        assert!(version(said).unwrap() > QEMU_MIN);
        assert!(version("QEMU emulator version 6.2.0").unwrap() < QEMU_MIN);
        assert_eq!(version("nonsense"), None);
    }
}
