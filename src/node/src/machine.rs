//! Facts about the machine under the node.

use std::path::Path;

use rkube_config::{NodeConfig, paths};

/// Facts about the machine, read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// CPUs for the node, in thousandths.
    pub cpu_millis: u64,
    /// Memory for the node, in bytes.
    pub memory_bytes: u64,
    /// Size of the file system under the node's state, in bytes.
    pub storage_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// `PRETTY_NAME` of the node's os-release.
    pub os_image: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// DMI's product UUID, else the machine ID.
    pub system_uuid: String,
    /// The kernel's boot ID.
    pub boot_id: String,
    /// Go's name of the architecture, as Kubernetes uses it.
    pub architecture: &'static str,
    /// Huge page sizes of the machine: resource name and bytes in all.
    pub hugepages: Vec<(String, u64)>,
}

impl Machine {
    /// Reads the machine's facts; unknown ones are empty.
    pub(crate) fn read(config: &NodeConfig) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let memory = meminfo("MemTotal").unwrap_or(0);
        let machine_id = read("/etc/machine-id");
        let uuid = read("/sys/class/dmi/id/product_uuid").to_lowercase();
        Self {
            cpu_millis: config.cpu_millis.unwrap_or(cpus * 1000),
            memory_bytes: config
                .memory_bytes
                .map_or(memory, |m| if memory > 0 { m.min(memory) } else { m }),
            storage_bytes: filesystem(paths::STATE.as_ref())
                .or_else(|| filesystem("/".as_ref()))
                .map_or(0, |f| f.total),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: os_image(),
            system_uuid: if uuid.is_empty() {
                machine_id.clone()
            } else {
                uuid
            },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            architecture: architecture(),
            hugepages: hugepages(),
        }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

/// A line of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|k| k * 1024)
}

fn os_image() -> String {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Ok(text) = std::fs::read_to_string(path)
            && let Some(name) = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))
        {
            return name.trim_matches('"').to_owned();
        }
    }
    "rkube".into()
}

/// The architecture as Kubernetes names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn hugepages() -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let mut sizes: Vec<(String, u64)> = entries
        .flatten()
        .filter_map(|e| {
            let kib: u64 = e
                .file_name()
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let pages: u64 = std::fs::read_to_string(e.path().join("nr_hugepages"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            Some((hugepage_resource(kib), pages * kib * 1024))
        })
        .collect();
    sizes.sort();
    sizes
}

/// `hugepages-2Mi` and the like, from a size in KiB.
fn hugepage_resource(kib: u64) -> String {
    match kib {
        k if k % (1 << 20) == 0 => format!("hugepages-{}Gi", k >> 20),
        k if k % 1024 == 0 => format!("hugepages-{}Mi", k >> 10),
        k => format!("hugepages-{k}Ki"),
    }
}

/// Space on a file system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes left to an unprivileged user.
    pub available: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes left.
    pub inodes_free: u64,
}

/// Space on the file system that `path` is on.
pub(crate) fn filesystem(path: &Path) -> Option<Space> {
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    let block = s.fragment_size();
    Some(Space {
        total: s.blocks() * block,
        available: s.blocks_available() * block,
        inodes: s.files(),
        inodes_free: s.files_free(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_huge_pages_as_resources() {
        assert_eq!(hugepage_resource(2048), "hugepages-2Mi");
        assert_eq!(hugepage_resource(1 << 20), "hugepages-1Gi");
        assert_eq!(hugepage_resource(64), "hugepages-64Ki");
    }

    #[test]
    fn reads_the_machine() {
        assert!(meminfo("MemTotal").unwrap() > 1 << 20);
        assert!(filesystem("/".as_ref()).unwrap().total > 0);
    }
}
