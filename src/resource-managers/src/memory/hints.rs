//! The memory manager's hints for the topology manager.

use std::collections::BTreeMap;

use super::{Amounts, Block, MemoryManager};
use crate::mask::NumaMask;
use crate::pods::{ContainerDemand, PodDemand};
use crate::topology::{Hint, HintProvider, Hints, Rejection};

/// NUMA nodes, and whether they are preferred.
pub(super) type Choice = (NumaMask, bool);

/// Returns the best of several choices: preferred and narrow.
pub(super) fn best(choices: impl Iterator<Item = Choice>) -> Option<Choice> {
    choices.reduce(|best, next| match (best.1, next.1) {
        (false, true) => next,
        (a, b) if a == b && next.0.is_narrower(best.0) => next,
        _ => best,
    })
}

/// Returns the hints for what a container already has; as upstream, none that could be followed if
/// it is not what it asks for.
fn regenerated(blocks: &[Block], wanted: &Amounts) -> Hints {
    let fits = |block: &Block| wanted.get(&block.resource) == Some(&block.size);
    if blocks.len() != wanted.len() || !blocks.iter().all(fits) {
        return Hints::new();
    }
    let hint = |block: &Block| Hint {
        affinity: Some(NumaMask::of(block.nodes.iter().copied())),
        preferred: true,
    };
    blocks
        .iter()
        .map(|block| (block.resource.clone(), Some(vec![hint(block)])))
        .collect()
}

impl HintProvider for MemoryManager {
    fn hints(&self, pod: &PodDemand, container: &ContainerDemand) -> Hints {
        if !self.is_static || !pod.guaranteed || pod.pod_level {
            return Hints::new();
        }
        match self.state.of(&pod.uid, &container.name) {
            Some(blocks) => regenerated(blocks, &container.memory),
            None => self.as_hints(pod, &container.memory),
        }
    }

    fn pod_hints(&self, pod: &PodDemand) -> Hints {
        let wanted = pod.most_memory();
        if !self.is_static || !pod.guaranteed || pod.pod_level || wanted.is_empty() {
            return Hints::new();
        }
        let own = pod
            .containers
            .iter()
            .find_map(|c| self.state.of(&pod.uid, &c.name));
        match own {
            Some(blocks) => regenerated(blocks, &wanted),
            None => self.as_hints(pod, &wanted),
        }
    }

    fn allocate(
        &mut self,
        pod: &PodDemand,
        container: &ContainerDemand,
        hint: Hint,
    ) -> Result<(), Rejection> {
        MemoryManager::allocate(self, pod, container, hint)
    }
}

impl MemoryManager {
    fn as_hints(&self, pod: &PodDemand, wanted: &Amounts) -> Hints {
        let hint = |(mask, preferred): Choice| Hint {
            affinity: Some(mask),
            preferred,
        };
        self.calculate(pod, wanted)
            .into_iter()
            .map(|(name, list)| (name, Some(list.into_iter().map(hint).collect())))
            .collect()
    }

    /// Returns the sets of NUMA nodes that have what is wanted, by resource. Those are preferred that
    /// are no larger than an empty machine would need.
    pub(super) fn calculate(
        &self,
        pod: &PodDemand,
        wanted: &Amounts,
    ) -> BTreeMap<String, Vec<Choice>> {
        let nodes: Vec<usize> = self.state.machine.keys().copied().collect();
        let mut least = nodes.len();
        let mut fitting = Vec::new();
        for mask in NumaMask::all(&nodes) {
            let fits = wanted
                .iter()
                .all(|(name, bytes)| self.state.sum(mask, name, |t| t.allocatable) >= *bytes);
            if !fits {
                continue;
            }
            least = least.min(mask.count());
            let has_free = wanted.iter().all(|(name, bytes)| {
                let free = self.state.sum(mask, name, |t| t.free);
                free.saturating_add(self.reusable(&pod.uid, mask, name)) >= *bytes
            });
            if has_free && !self.is_in_use(mask) {
                fitting.push(mask);
            }
        }
        let choices: Vec<Choice> = fitting.iter().map(|m| (*m, m.count() == least)).collect();
        if choices.is_empty() {
            return BTreeMap::new();
        }
        wanted
            .keys()
            .map(|name| (name.clone(), choices.clone()))
            .collect()
    }

    /// Returns whether other allocations keep a new one from these nodes: a node of a group gives
    /// nothing alone, and a group is not mixed with others.
    fn is_in_use(&self, mask: NumaMask) -> bool {
        let alone = mask.count() == 1;
        let in_group = |id: usize| {
            self.state
                .machine
                .get(&id)
                .is_some_and(|n| n.cells.len() > 1)
        };
        (alone && mask.nodes().any(in_group)) || self.state.is_violated_by(mask)
    }
}
