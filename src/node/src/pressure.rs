//! Node pressure.

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

    /// Returns the node conditions that are true, in the order of the kubelet's.
    pub(crate) fn conditions(self) -> Vec<&'static str> {
        let all = [
            (self.memory, "MemoryPressure"),
            (self.disk, "DiskPressure"),
            (self.pid, "PIDPressure"),
        ];
        all.into_iter()
            .filter_map(|(is_true, name)| is_true.then_some(name))
            .collect()
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
        assert!(Pressure::default().conditions().is_empty());
        assert_eq!(
            memory.or(disk).conditions(),
            ["MemoryPressure", "DiskPressure"]
        );
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
