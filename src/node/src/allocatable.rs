//! Resources that the node offers to pods.

use crate::eviction::thresholds::reserved;
use crate::eviction::types::{Signal, signed};
use crate::machine::Machine;

/// Allocatable resources: the machine's capacity minus the eviction thresholds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allocatable {
    /// CPU in milli-CPUs.
    pub cpu_millis: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub storage: i64,
    /// Maximum number of pods.
    pub pods: i64,
    /// Huge pages: resource name and total size in bytes.
    pub hugepages: Vec<(String, i64)>,
}

impl Allocatable {
    /// Computes the allocatable resources of a machine.
    ///
    /// Preallocated huge pages are subtracted from the memory.
    pub(crate) fn new(machine: &Machine, max_pods: u32) -> Self {
        let huge: u64 = machine.hugepages.iter().map(|(_, bytes)| bytes).sum();
        Self {
            cpu_millis: signed(machine.cpu_millis),
            memory: signed(
                machine
                    .memory_bytes
                    .saturating_sub(huge)
                    .saturating_sub(reserved(Signal::MemoryAvailable, machine.memory_bytes)),
            ),
            storage: signed(
                machine
                    .storage_bytes
                    .saturating_sub(reserved(Signal::NodeFsAvailable, machine.storage_bytes)),
            ),
            pods: i64::from(max_pods),
            hugepages: machine
                .hugepages
                .iter()
                .map(|(name, bytes)| (name.clone(), signed(*bytes)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_and_huge_pages_are_not_offered() {
        let machine = Machine {
            cpu_millis: 1500,
            memory_bytes: 4 << 30,
            storage_bytes: 10 << 30,
            hugepages: vec![("hugepages-2Mi".into(), 1 << 30)],
            ..Default::default()
        };
        assert_eq!(
            Allocatable::new(&machine, 110),
            Allocatable {
                cpu_millis: 1500,
                memory: (3 << 30) - (100 << 20),
                storage: 9 << 30,
                pods: 110,
                hugepages: vec![("hugepages-2Mi".into(), 1 << 30)],
            }
        );
    }

    #[test]
    fn a_machine_below_the_thresholds_offers_nothing() {
        let machine = Machine {
            memory_bytes: 50 << 20,
            storage_bytes: 1 << 20,
            ..Default::default()
        };
        let a = Allocatable::new(&machine, 1);
        assert_eq!((a.memory, a.storage), (0, 0));
        assert_eq!(signed(u64::MAX), i64::MAX);
    }
}
