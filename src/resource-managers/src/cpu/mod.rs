//! The CPU manager: containers of guaranteed pods that request whole CPUs get them alone.

pub mod assignment;
mod hints;
mod options;
mod state;

use std::path::{Path, PathBuf};

pub use options::CpuOptions;
pub(crate) use options::parse_bool;
pub use state::CpuState;

use crate::checkpoint;
use crate::cpuset::CpuSet;
use crate::machine::{Cpus, Level};
use crate::managers::StartError;
use crate::mask::NumaMask;
use crate::pods::{ContainerDemand, PodDemand, Role};
use crate::topology::{Hint, Rejection};

/// The policy that gives nothing to anybody.
pub const NONE: &str = "none";
/// The policy that gives whole CPUs.
pub const STATIC: &str = "static";

/// What the static policy was started with.
#[derive(Clone, Debug, Default)]
pub struct StaticPolicy {
    /// The options.
    pub options: CpuOptions,
    /// CPUs that no container gets alone.
    pub reserved: CpuSet,
    /// All CPUs of the cores of the reserved ones.
    reserved_cores: CpuSet,
}

impl StaticPolicy {
    /// Returns the policy that reserves these CPUs, or `count` of those that the machine has.
    ///
    /// # Errors
    ///
    /// Fails if the number of reserved CPUs is not `count`.
    pub fn new(
        cpus: &Cpus,
        options: CpuOptions,
        reserved: &CpuSet,
        count: usize,
    ) -> Result<Self, String> {
        let mut policy = Self {
            options,
            ..Self::default()
        };
        policy.reserved = match reserved.is_empty() {
            false => reserved.clone(),
            // Too few CPUs are reported below.
            true => policy.take(cpus, &cpus.all(), count).unwrap_or_default(),
        };
        if policy.reserved.len() != count {
            return Err(format!(
                "[cpumanager] unable to reserve the required amount of CPUs (size of {} did not equal {count})",
                policy.reserved
            ));
        }
        let cores = cpus.only(&policy.reserved).units(Level::Core);
        policy.reserved_cores = cpus.of(Level::Core, &cores);
        Ok(policy)
    }

    /// Chooses CPUs as the options say.
    fn take(&self, cpus: &Cpus, available: &CpuSet, count: usize) -> Result<CpuSet, String> {
        if self.options.distribute_across_numa {
            let group = match self.options.full_cores_only {
                true => cpus.per(Level::Core),
                false => 1,
            };
            return assignment::take_distributed(cpus, available, count, group);
        }
        assignment::take_packed(cpus, available, count, self.options.prefer_uncore)
    }
}

/// The CPU manager of a node.
#[derive(Debug)]
pub struct CpuManager {
    cpus: Cpus,
    /// `None` with the policy `none`.
    policy: Option<StaticPolicy>,
    state: CpuState,
    dir: PathBuf,
    /// CPUs of the init containers of the pod that is being admitted, for its other containers.
    reuse: (String, CpuSet),
}

impl CpuManager {
    /// Starts the manager with the state file in `dir`.
    ///
    /// # Errors
    ///
    /// Fails with upstream's message if the file does not fit the policy or the machine.
    pub fn start(cpus: Cpus, policy: Option<StaticPolicy>, dir: &Path) -> Result<Self, StartError> {
        let name = policy.as_ref().map_or(NONE, |_| STATIC);
        let state = checkpoint::read::<CpuState>(dir, name)?;
        let mut manager = Self {
            state: state.unwrap_or_else(|| CpuState::new(name)),
            cpus,
            policy,
            dir: dir.to_owned(),
            reuse: Default::default(),
        };
        if let Some(policy) = &manager.policy {
            manager.state.validate(&manager.cpus, policy)?;
        }
        checkpoint::write(&manager.dir, &manager.state)?;
        Ok(manager)
    }

    /// Returns whether the policy is static.
    pub fn is_static(&self) -> bool {
        self.policy.is_some()
    }

    /// Returns the CPUs that containers can get alone.
    pub fn allocatable(&self) -> CpuSet {
        match &self.policy {
            Some(policy) => self.cpus.all().difference(&policy.reserved),
            None => self.cpus.all(),
        }
    }

    /// Returns the CPUs of a container: its own or the shared ones; `None` if it may use all.
    pub fn of_container(&self, uid: &str, name: &str) -> Option<&CpuSet> {
        self.policy.as_ref()?;
        let set = self.state.of(uid, name).unwrap_or(&self.state.default);
        Some(set).filter(|set| !set.is_empty())
    }

    /// Returns the CPUs that a container has alone.
    pub fn exclusive(&self, uid: &str, name: &str) -> Option<&CpuSet> {
        self.state.of(uid, name)
    }

    /// Returns the CPUs that containers without own ones share.
    pub fn shared(&self) -> &CpuSet {
        &self.state.default
    }

    /// Returns the UIDs of the pods with own CPUs.
    pub fn pods(&self) -> Vec<String> {
        self.state.entries.keys().cloned().collect()
    }

    /// Takes back the CPUs of a pod; returns whether it had any.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be written.
    pub fn release(&mut self, uid: &str) -> Result<bool, checkpoint::CheckpointError> {
        let Some(containers) = self.state.entries.remove(uid) else {
            return Ok(false);
        };
        for cpus in containers.values() {
            self.state.default = self.state.default.union(cpus);
        }
        checkpoint::write(&self.dir, &self.state)?;
        Ok(true)
    }

    /// Gives a container its CPUs, on the NUMA nodes of the hint as far as possible.
    ///
    /// # Errors
    ///
    /// Fails if there are too few CPUs, or if they do not fill whole cores and have to.
    pub fn allocate(
        &mut self,
        pod: &PodDemand,
        container: &ContainerDemand,
        hint: Hint,
    ) -> Result<(), Rejection> {
        let count = pod.exclusive_cpus(container);
        let Some(policy) = self.policy.clone().filter(|_| count > 0 && !pod.pod_level) else {
            return Ok(());
        };
        self.check_alignment(&policy, count)?;
        if let Some(own) = self.state.of(&pod.uid, &container.name).cloned() {
            self.note_reuse(pod, container, &own);
            return Ok(());
        }
        let available = self.available(&policy).union(&self.reusable(&pod.uid));
        let mut chosen = CpuSet::new();
        if let Some(mask) = hint.affinity {
            let near = self.near(mask, &available);
            chosen = policy
                .take(&self.cpus, &near, count.min(near.len()))
                .map_err(Rejection::unexpected)?;
        }
        let rest = available.difference(&chosen);
        let missing = count - chosen.len();
        let rest = policy
            .take(&self.cpus, &rest, missing)
            .map_err(Rejection::unexpected)?;
        let own = chosen.union(&rest);
        self.state.default = self.state.default.difference(&own);
        let of_pod = self.state.entries.entry(pod.uid.clone()).or_default();
        of_pod.insert(container.name.clone(), own.clone());
        self.note_reuse(pod, container, &own);
        checkpoint::write(&self.dir, &self.state).map_err(Rejection::unexpected)
    }

    /// Returns the shared CPUs that a container can get alone.
    fn available(&self, policy: &StaticPolicy) -> CpuSet {
        self.state.default.difference(&policy.reserved)
    }

    fn near(&self, mask: NumaMask, available: &CpuSet) -> CpuSet {
        let nodes: Vec<usize> = mask.nodes().collect();
        available.intersection(&self.cpus.of(Level::Numa, &nodes))
    }

    fn reusable(&self, uid: &str) -> CpuSet {
        match self.reuse.0 == uid {
            true => self.reuse.1.clone(),
            false => CpuSet::new(),
        }
    }

    /// Remembers that the CPUs of an init container are free for the next ones, and others not.
    fn note_reuse(&mut self, pod: &PodDemand, container: &ContainerDemand, cpus: &CpuSet) {
        let before = self.reusable(&pod.uid);
        let after = match container.role {
            Role::Init => before.union(cpus),
            Role::Sidecar | Role::Main => before.difference(cpus),
        };
        self.reuse = (pod.uid.clone(), after);
    }

    /// Checks that CPUs are whole cores if they must be.
    fn check_alignment(&self, policy: &StaticPolicy, count: usize) -> Result<(), Rejection> {
        if !policy.options.full_cores_only {
            return Ok(());
        }
        let per_core = self.cpus.per(Level::Core).max(1);
        let refuse = |message: String| Err(Rejection::new("SMTAlignmentError", message));
        if !count.is_multiple_of(per_core) {
            return refuse(format!(
                "SMT Alignment Error: requested {count} cpus not multiple cpus per core = {per_core}"
            ));
        }
        let free = self.state.default.difference(&policy.reserved_cores).len();
        if count > free {
            return refuse(format!(
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {count}, CPUs per core = {per_core}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
