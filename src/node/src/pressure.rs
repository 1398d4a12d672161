//! Node pressure and its thresholds.

/// Minimum available memory in bytes: the kubelet's default hard eviction threshold.
pub(crate) const MEMORY_AVAILABLE_BYTES: u64 = 100 << 20;
/// Minimum available disk space in bytes.
///
/// Not the kubelet's default of 10 %: the node shares the user's disk, which may be nearly full
/// without any need to evict pods.
pub(crate) const DISK_AVAILABLE_BYTES: u64 = 1 << 30;
/// Minimum share of free inodes, in percent.
pub(crate) const INODES_FREE_PERCENT: u64 = 1;

/// The resources that the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

impl Pressure {
    /// Returns the union of two observations.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory || other.memory,
            disk: self.disk || other.disk,
            pid: self.pid || other.pid,
        }
    }

    /// Returns whether the node is short of any resource.
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressures_add_up() {
        let memory = Pressure {
            memory: true,
            ..Default::default()
        };
        let disk = Pressure {
            disk: true,
            ..Default::default()
        };
        assert!(!Pressure::default().any());
        assert!(memory.any());
        assert_eq!(
            memory.or(disk),
            Pressure {
                memory: true,
                disk: true,
                pid: false
            }
        );
    }
}
