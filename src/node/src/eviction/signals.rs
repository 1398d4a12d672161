//! What the eviction manager observes: signals, and what they are about.

use std::collections::BTreeMap;

use rkube_api::quantity::{Format, Quantity};
use rkube_config::paths;
use rkube_runtime::Runtime;

use crate::host::Host;
use crate::machine;
use crate::pressure::Pressure;

/// A signal of the kubelet's eviction manager. In the order in which shortages are relieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    MemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

/// A resource that pods can be evicted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    EphemeralStorage,
    Inodes,
    Pids,
}

impl Resource {
    /// Returns the resource's name in upstream's messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// Returns whether the resource is that of a file system.
    pub(crate) fn is_on_disk(self) -> bool {
        matches!(self, Self::EphemeralStorage | Self::Inodes)
    }
}

impl Signal {
    /// Returns the signal's name in the kubelet's configuration.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// Returns the resource that the signal is about.
    pub(crate) fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable => Resource::Memory,
            Self::NodeFsAvailable | Self::ImageFsAvailable => Resource::EphemeralStorage,
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => Resource::Inodes,
            Self::PidAvailable => Resource::Pids,
        }
    }

    /// Returns the node condition that the signal causes.
    pub(crate) fn condition(self) -> Pressure {
        let resource = self.resource();
        Pressure {
            memory: resource == Resource::Memory,
            disk: resource.is_on_disk(),
            pid: resource == Resource::Pids,
        }
    }

    /// Returns the notation of the signal's amounts.
    pub(crate) fn format(self) -> Format {
        match self.resource() {
            Resource::Memory | Resource::EphemeralStorage => Format::BinarySi,
            Resource::Inodes | Resource::Pids => Format::DecimalSi,
        }
    }
}

/// Returns an amount in a quantity's notation.
pub(crate) fn text(amount: u64, format: Format) -> String {
    Quantity::new(crate::allocatable::signed(amount), format).to_string()
}

/// What a signal showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub available: u64,
    pub capacity: u64,
}

/// The signals that can be observed on this node.
pub(crate) type Observations = BTreeMap<Signal, Observation>;

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

    #[test]
    fn signals_have_upstreams_resources_and_conditions() {
        let of = |s: Signal| {
            let p = s.condition();
            (s.resource().as_str(), p.memory, p.disk, p.pid)
        };
        assert_eq!(of(Signal::MemoryAvailable), ("memory", true, false, false));
        for signal in [Signal::NodeFsAvailable, Signal::ImageFsAvailable] {
            assert_eq!(of(signal), ("ephemeral-storage", false, true, false));
        }
        for signal in [Signal::NodeFsInodesFree, Signal::ImageFsInodesFree] {
            assert_eq!(of(signal), ("inodes", false, true, false));
        }
        assert_eq!(of(Signal::PidAvailable), ("pids", false, false, true));
    }
}
