//! The CPU manager's hints for the topology manager.

use super::{CpuManager, StaticPolicy};
use crate::cpuset::CpuSet;
use crate::machine::Level;
use crate::mask::NumaMask;
use crate::pods::{ContainerDemand, PodDemand};
use crate::topology::{Hint, HintProvider, Hints, Rejection};

impl HintProvider for CpuManager {
    fn hints(&self, pod: &PodDemand, container: &ContainerDemand) -> Hints {
        let count = pod.exclusive_cpus(container);
        let Some(policy) = self.policy.as_ref().filter(|_| count > 0 && !pod.pod_level) else {
            return Hints::new();
        };
        let own = self.state.of(&pod.uid, &container.name);
        let hints = match own {
            Some(own) if own.len() != count => Vec::new(),
            Some(own) => self.generate(own, &CpuSet::new(), count),
            None => self.generate(&self.available(policy), &self.reusable(&pod.uid), count),
        };
        Hints::from([("cpu".to_owned(), Some(hints))])
    }

    fn pod_hints(&self, pod: &PodDemand) -> Hints {
        let count = pod.most_exclusive_cpus();
        let Some(policy) = self.policy.as_ref().filter(|_| count > 0 && !pod.pod_level) else {
            return Hints::new();
        };
        let hints = self.generate_for_pod(policy, pod, count);
        Hints::from([("cpu".to_owned(), Some(hints))])
    }

    fn allocate(
        &mut self,
        pod: &PodDemand,
        container: &ContainerDemand,
        hint: Hint,
    ) -> Result<(), Rejection> {
        CpuManager::allocate(self, pod, container, hint)
    }
}

impl CpuManager {
    fn generate_for_pod(&self, policy: &StaticPolicy, pod: &PodDemand, count: usize) -> Vec<Hint> {
        let mut assigned = CpuSet::new();
        for container in &pod.containers {
            let Some(own) = self.state.of(&pod.uid, &container.name) else {
                continue;
            };
            if own.len() != pod.exclusive_cpus(container) {
                return Vec::new();
            }
            assigned = assigned.union(own);
        }
        if assigned.len() == count {
            return self.generate(&assigned, &CpuSet::new(), count);
        }
        let reusable = self.reusable(&pod.uid).union(&assigned);
        self.generate(&self.available(policy), &reusable, count)
    }

    /// Returns the sets of NUMA nodes with enough CPUs. Those are preferred that are no larger than
    /// an empty machine would need.
    fn generate(&self, available: &CpuSet, reusable: &CpuSet, count: usize) -> Vec<Hint> {
        let nodes = self.cpus.units(Level::Numa);
        let node_of = |cpu: usize| self.cpus.0.get(&cpu).map(|info| info.numa);
        let mut least = nodes.len();
        let mut masks = Vec::new();
        for mask in NumaMask::all(&nodes) {
            let inside = |cpu: usize| node_of(cpu).is_some_and(|node| mask.has(node));
            let members: Vec<usize> = mask.nodes().collect();
            if self.cpus.of(Level::Numa, &members).len() >= count {
                least = least.min(mask.count());
            }
            let free = available.iter().filter(|cpu| inside(*cpu)).count();
            if reusable.iter().all(inside) && reusable.len() + free >= count {
                masks.push(mask);
            }
        }
        let hint = |mask: NumaMask| Hint {
            affinity: Some(mask),
            preferred: mask.count() == least,
        };
        masks.into_iter().map(hint).collect()
    }
}
