//! All managers of a node together.

use std::path::Path;

use crate::checkpoint::CheckpointError;
use crate::cpu::{CpuManager, StaticPolicy};
use crate::cpuset::CpuSet;
use crate::machine::Machine;
use crate::mask::NumaMask;
use crate::memory::{self, MemoryManager};
use crate::pods::PodDemand;
use crate::settings::Settings;
use crate::topology::{HintProvider, Rejection, TopologyManager};

/// Why the managers do not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A state file cannot be used or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The settings or a state do not fit the machine. The message is upstream's.
    #[error("{0}")]
    Unfit(String),
}

impl From<String> for StartError {
    fn from(message: String) -> Self {
        Self::Unfit(message)
    }
}

/// The managers of CPUs, memory and topology of a node.
pub struct Managers {
    topology: TopologyManager,
    cpu: CpuManager,
    memory: MemoryManager,
    /// Managers of other resources, which are asked first.
    others: Vec<Box<dyn HintProvider>>,
}

impl Managers {
    /// Returns the UIDs of the pods that have something.
    pub fn pods(&self) -> Vec<String> {
        let mut all = self.cpu.pods();
        all.extend(self.memory.pods());
        all
    }

    /// Starts the managers with the state files in `dir`. `hard_eviction` are the bytes of memory
    /// that the node never gives away, besides the reservations.
    ///
    /// # Errors
    ///
    /// Fails with upstream's message if the settings do not fit the machine, or if the state was
    /// written with other settings.
    pub fn start(
        settings: &Settings,
        machine: &Machine,
        hard_eviction: u64,
        dir: &Path,
    ) -> Result<Self, StartError> {
        let all = machine.cpus.all();
        if !settings.reserved_cpus.is_subset(&all) {
            return Err(StartError::Unfit(format!(
                "reserved-cpus: {} is not a subset of online-cpus: {all}",
                settings.reserved_cpus
            )));
        }
        let topology = TopologyManager::new(settings.topology, &machine.nodes)?;
        let policy = match settings.cpu_static {
            false => None,
            true => {
                // CPUs are given whole.
                let millis = settings.reserved().cpu_millis.unsigned_abs();
                let count = usize::try_from(millis.div_ceil(1000)).unwrap_or(usize::MAX);
                let (options, listed) = (settings.cpu_options, &settings.reserved_cpus);
                let policy = StaticPolicy::new(&machine.cpus, options, listed, count)
                    .map_err(|e| format!("new static policy error: {e}"))?;
                Some(policy)
            }
        };
        let reserved = Some(&settings.reserved_memory).filter(|_| settings.memory_static);
        if let Some(reserved) = reserved {
            let memory = settings.reserved().memory.unsigned_abs() + hard_eviction;
            let total = [("memory".to_owned(), memory)].into();
            memory::check_reserved(&machine.nodes, reserved, &total)?;
        }
        Ok(Self {
            topology,
            cpu: CpuManager::start(machine.cpus.clone(), policy, dir)?,
            memory: MemoryManager::start(&machine.nodes, reserved, dir)?,
            others: Vec::new(),
        })
    }

    /// Adds the manager of another resource, such as devices.
    pub fn add(&mut self, provider: Box<dyn HintProvider>) {
        self.others.push(provider);
    }

    /// Returns the CPU manager.
    pub fn cpu(&self) -> &CpuManager {
        &self.cpu
    }

    /// Returns the memory manager.
    pub fn memory(&self) -> &MemoryManager {
        &self.memory
    }

    /// Gives a pod its resources. A pod that is refused has none.
    ///
    /// # Errors
    ///
    /// Returns why the pod is refused.
    pub fn admit(&mut self, pod: &PodDemand) -> Result<(), Rejection> {
        let mut providers: Vec<&mut dyn HintProvider> = Vec::new();
        for other in &mut self.others {
            providers.push(other.as_mut());
        }
        providers.push(&mut self.cpu);
        providers.push(&mut self.memory);
        let admitted = self.topology.admit(pod, &mut providers);
        if admitted.is_err() {
            self.release(&pod.uid).map_err(Rejection::unexpected)?;
        }
        admitted
    }

    /// Takes back the CPUs and the memory of a pod; returns whether it had any.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be written.
    pub fn release(&mut self, uid: &str) -> Result<bool, CheckpointError> {
        let cpu = self.cpu.release(uid)?;
        Ok(self.memory.release(uid)? || cpu)
    }

    /// Takes back the resources of all pods but the `active` ones; returns whether there were any.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be written.
    pub fn retain(&mut self, active: impl Fn(&str) -> bool) -> Result<bool, CheckpointError> {
        let mut gone = self.cpu.pods();
        gone.extend(self.memory.pods());
        gone.retain(|uid| !active(uid));
        let mut changed = false;
        for uid in gone {
            changed |= self.release(&uid)?;
        }
        Ok(changed)
    }

    /// Notes that a container starts: the init containers before it have ended.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be written.
    pub fn started(&mut self, pod: &PodDemand, name: &str) -> Result<(), CheckpointError> {
        self.memory.started(pod, name)
    }

    /// Returns the CPUs that a container may use; `None` if all.
    pub fn cpus_of(&self, uid: &str, name: &str) -> Option<CpuSet> {
        self.cpu.of_container(uid, name).cloned()
    }

    /// Returns whether a container has CPUs alone.
    pub fn has_exclusive_cpus(&self, uid: &str, name: &str) -> bool {
        self.cpu.is_static() && self.cpu.exclusive(uid, name).is_some()
    }

    /// Returns the NUMA nodes that a container's memory comes from; empty if from any.
    pub fn memory_nodes_of(&self, uid: &str, name: &str) -> NumaMask {
        self.memory.nodes_of(uid, name)
    }
}

#[cfg(test)]
mod tests;
