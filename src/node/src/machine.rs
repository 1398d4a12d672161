//! Facts about the machine that the node runs on.

use std::path::Path;

use rkube_config::{NodeConfig, paths};

/// Facts about the machine, read once when the agent starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// CPU capacity of the node, in milli-CPUs.
    pub cpu_millis: u64,
    /// Memory capacity of the node, in bytes.
    pub memory_bytes: u64,
    /// Size of the file system that holds the node's state, in bytes.
    pub storage_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// `PRETTY_NAME` of the node's os-release.
    pub os_image: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The product UUID from DMI, or the machine ID if there is none.
    pub system_uuid: String,
    /// The kernel's boot ID.
    pub boot_id: String,
    /// Architecture as Go and Kubernetes name it.
    pub architecture: &'static str,
    /// Huge pages: resource name and total size in bytes.
    pub hugepages: Vec<(String, u64)>,
}

impl Machine {
    /// Reads the machine's facts; unknown ones are empty or 0.
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

/// Returns a value of `/proc/meminfo` in bytes.
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

/// Returns the architecture as Go and Kubernetes name it.
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

/// Returns the resource name for a huge page size in KiB, such as `hugepages-2Mi`.
fn hugepage_resource(kib: u64) -> String {
    match kib {
        k if k % (1 << 20) == 0 => format!("hugepages-{}Gi", k >> 20),
        k if k % 1024 == 0 => format!("hugepages-{}Mi", k >> 10),
        k => format!("hugepages-{k}Ki"),
    }
}

/// Capacity and free space of a file system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    /// Size in bytes.
    pub total: u64,
    /// Bytes available to unprivileged users.
    pub available: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// Number of free inodes.
    pub inodes_free: u64,
}

/// Returns the space of the file system that contains `path`; `None` if it cannot be read.
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
