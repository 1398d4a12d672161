//! Signals, the resources that they observe, and their amounts.

use std::collections::BTreeMap;

use rkube_api::quantity::{Format, Quantity};

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

/// Converts an amount to the signed type of quantities; saturates at the maximum.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Returns an amount in a quantity's notation.
pub(crate) fn format_amount(amount: u64, format: Format) -> String {
    Quantity::new(signed(amount), format).to_string()
}

/// A signal's amounts at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub available: u64,
    pub capacity: u64,
}

/// The signals that can be observed on this node.
pub(crate) type Observations = BTreeMap<Signal, Observation>;

#[cfg(test)]
mod tests {
    use super::*;

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
