//! Node pressure and its thresholds.

/// Memory that must be available, in bytes: the kubelet's default hard threshold.
pub(crate) const MEMORY_AVAILABLE_BYTES: u64 = 100 << 20;
/// Disk space that must be available, in bytes.
///
/// The kubelet's 10 % are of a disk that belongs to the node. This disk is the
/// user's own, which may be nearly full without any need to evict pods.
pub(crate) const DISK_AVAILABLE_BYTES: u64 = 1 << 30;
/// Share of the disk's inodes that must be free, in percent.
pub(crate) const INODES_FREE_PERCENT: u64 = 1;

/// Resources that the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

impl Pressure {
    /// Returns the pressure of both observations.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory || other.memory,
            disk: self.disk || other.disk,
            pid: self.pid || other.pid,
        }
    }

    /// Returns whether any resource is short.
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
