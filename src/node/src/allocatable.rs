//! Resources that the node offers to pods.

use rkube_resource_managers::settings::Reservation;

use crate::eviction::thresholds::reserved;
use crate::eviction::types::{Signal, signed};
use crate::machine::Machine;

/// Allocatable resources: the machine's capacity minus reservations and eviction thresholds.
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
    pub(crate) fn new(machine: &Machine, max_pods: u32, reserved_by: Reservation) -> Self {
        let huge: u64 = machine.hugepages.iter().map(|(_, bytes)| bytes).sum();
        let without = |capacity: u64, taken: i64| signed(capacity).saturating_sub(taken).max(0);
        Self {
            cpu_millis: without(machine.cpu_millis, reserved_by.cpu_millis),
            memory: without(
                machine
                    .memory_bytes
                    .saturating_sub(huge)
                    .saturating_sub(reserved(Signal::MemoryAvailable, machine.memory_bytes)),
                reserved_by.memory,
            ),
            storage: without(
                machine
                    .storage_bytes
                    .saturating_sub(reserved(Signal::NodeFsAvailable, machine.storage_bytes)),
                reserved_by.storage,
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
            Allocatable::new(&machine, 110, Reservation::default()),
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
    fn reservations_are_not_offered() {
        let machine = Machine {
            cpu_millis: 1500,
            memory_bytes: 4 << 30,
            storage_bytes: 10 << 30,
            ..Default::default()
        };
        let reserved = Reservation {
            cpu_millis: 600,
            memory: 1 << 30,
            storage: 20 << 30,
            pids: 0,
        };
        let a = Allocatable::new(&machine, 110, reserved);
        assert_eq!((a.cpu_millis, a.storage), (900, 0));
        assert_eq!(a.memory, (3 << 30) - (100 << 20));
    }

    #[test]
    fn a_machine_below_the_thresholds_offers_nothing() {
        let machine = Machine {
            memory_bytes: 50 << 20,
            storage_bytes: 1 << 20,
            ..Default::default()
        };
        let a = Allocatable::new(&machine, 1, Reservation::default());
        assert_eq!((a.memory, a.storage), (0, 0));
        assert_eq!(signed(u64::MAX), i64::MAX);
    }
}
