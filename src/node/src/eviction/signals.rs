//! Observation of the eviction manager's signals.

use rkube_config::paths;
use rkube_runtime::Runtime;

use super::types::{Observation, Observations, Signal};
use crate::host::Host;
use crate::machine;

/// Observes all signals. A signal that cannot be read, or has no capacity, is left out.
pub(super) fn observe(host: &Host, runtime: &Runtime) -> Observations {
    let disk = |path: &str| machine::filesystem(path.as_ref()).unwrap_or_default();
    let (node, images) = (disk(paths::STATE), disk(paths::IMAGES));
    let all = [
        (
            Signal::MemoryAvailable,
            available_memory(host, runtime).unwrap_or(0),
            host.machine.memory_bytes,
        ),
        (Signal::NodeFsAvailable, node.available, node.total),
        (Signal::NodeFsInodesFree, node.inodes_free, node.inodes),
        (Signal::ImageFsAvailable, images.available, images.total),
        (Signal::ImageFsInodesFree, images.inodes_free, images.inodes),
        pids(),
    ];
    all.into_iter()
        .filter(|(_, _, capacity)| *capacity > 0)
        .map(|(signal, available, capacity)| {
            let observation = Observation {
                available,
                capacity,
            };
            (signal, observation)
        })
        .collect()
}

/// Returns whether images are on another file system than pods.
pub(super) fn images_are_apart() -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &str| std::fs::metadata(path).map(|m| m.dev()).ok();
    device(paths::IMAGES) != device(paths::STATE)
}

/// Returns the memory that is available to pods, in bytes: the machine's available memory, or what
/// is left of the node's own limit if that is less.
fn available_memory(host: &Host, runtime: &Runtime) -> Option<u64> {
    let machine = machine::meminfo("MemAvailable")?;
    let stats = runtime.cgroup_stats("/").ok();
    let own = stats
        .filter(|stats| stats.memory_limit.is_some())
        .map(|stats| {
            host.machine
                .memory_bytes
                .saturating_sub(stats.memory_working_set)
        });
    Some(own.map_or(machine, |own| own.min(machine)))
}

/// Observes the process IDs of the machine, as the kubelet: all threads have one.
fn pids() -> (Signal, u64, u64) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let number = |path: &str| read(path).trim().parse::<u64>().ok();
    let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    let capacity = limits.into_iter().filter_map(number).min().unwrap_or(0);
    match running_threads(&read("/proc/loadavg")) {
        Some(running) => (
            Signal::PidAvailable,
            capacity.saturating_sub(running),
            capacity,
        ),
        None => (Signal::PidAvailable, 0, 0),
    }
}

/// Returns the number of threads from the text of `/proc/loadavg` (`0.1 0.2 0.3 1/234 567`).
fn running_threads(loadavg: &str) -> Option<u64> {
    let (_, all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted_for_the_machine() {
        assert_eq!(running_threads("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(running_threads(""), None);
        let (_, available, capacity) = pids();
        assert!(available > 0 && available < capacity);
    }
}
