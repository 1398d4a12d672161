//! The memory manager: guaranteed pods get memory of certain NUMA nodes.

mod hints;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use state::{Block, MemoryState, MemoryTable, NodeState};

use crate::checkpoint;
use crate::machine::NumaNode;
use crate::managers::StartError;
use crate::mask::NumaMask;
use crate::pods::{ContainerDemand, PodDemand, Role};
use crate::topology::{Hint, Rejection};

/// The policy that gives nothing to anybody.
pub const NONE: &str = "None";
/// The policy that gives memory of NUMA nodes.
pub const STATIC: &str = "Static";

/// Memory that is reserved: bytes by NUMA node and resource.
pub type Reserved = BTreeMap<(usize, String), u64>;

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, u64>;

/// Checks that the reservations by NUMA node are what the node reserves in total.
///
/// # Errors
///
/// Returns upstream's message.
pub fn check_reserved(
    nodes: &[NumaNode],
    reserved: &Reserved,
    total: &Amounts,
) -> Result<(), String> {
    let mut sums: Amounts = total.keys().map(|name| (name.clone(), 0)).collect();
    for ((node, name), bytes) in reserved {
        if !nodes.iter().any(|n| n.id == *node) {
            return Err(format!(
                "the reserved memory configuration references a NUMA node {node} that does not exist on this machine"
            ));
        }
        *sums.entry(name.clone()).or_default() += bytes;
    }
    for (name, sum) in sums {
        let expected = total.get(&name).copied().unwrap_or(0);
        if sum != expected {
            let text = |bytes| crate::settings::bytes_text(bytes);
            return Err(format!(
                "the total amount {:?} of type {name:?} is not equal to the value {:?} determined by Node Allocatable feature",
                text(sum),
                text(expected)
            ));
        }
    }
    if !reserved
        .iter()
        .any(|((_, name), bytes)| name == "memory" && *bytes > 0)
    {
        return Err("[memorymanager] you should specify the system reserved memory".into());
    }
    Ok(())
}

/// The memory manager of a node.
#[derive(Debug)]
pub struct MemoryManager {
    is_static: bool,
    state: MemoryState,
    dir: PathBuf,
    /// Memory of the init containers of the pod that is being admitted, by NUMA nodes and resource,
    /// for its other containers.
    reuse: (String, BTreeMap<(NumaMask, String), u64>),
}

impl MemoryManager {
    /// Starts the manager with the state file in `dir`. `reserved` is `None` with the policy `None`.
    ///
    /// # Errors
    ///
    /// Fails with upstream's message if the file does not fit the policy or the machine.
    pub fn start(
        nodes: &[NumaNode],
        reserved: Option<&Reserved>,
        dir: &Path,
    ) -> Result<Self, StartError> {
        let name = reserved.map_or(NONE, |_| STATIC);
        let kept = checkpoint::read::<MemoryState>(dir, name)?;
        let mut state = kept.unwrap_or_else(|| MemoryState::new(name));
        if let Some(reserved) = reserved {
            state.validate(state::initial(nodes, reserved))?;
        }
        checkpoint::write(dir, &state)?;
        Ok(Self {
            is_static: reserved.is_some(),
            state,
            dir: dir.to_owned(),
            reuse: Default::default(),
        })
    }

    /// Returns whether the policy is static.
    pub fn is_static(&self) -> bool {
        self.is_static
    }

    /// Returns the NUMA nodes that a container's memory comes from; empty if from any.
    pub fn nodes_of(&self, uid: &str, name: &str) -> NumaMask {
        let blocks = self.state.of(uid, name).into_iter().flatten();
        NumaMask::of(blocks.flat_map(|block| block.nodes.iter().copied()))
    }

    /// Returns the memory blocks of a container.
    pub fn blocks(&self, uid: &str, name: &str) -> &[Block] {
        self.state.of(uid, name).map_or(&[], Vec::as_slice)
    }

    /// Returns the memory that containers can get, by NUMA node.
    pub fn allocatable(&self) -> Vec<Block> {
        let nodes = self.state.machine.iter();
        nodes
            .flat_map(|(id, node)| {
                node.memory
                    .iter()
                    .map(move |(name, table)| (id, name, table))
            })
            .filter(|(_, _, table)| table.allocatable > 0)
            .map(|(id, name, table)| Block {
                nodes: vec![*id],
                resource: name.clone(),
                size: table.allocatable,
            })
            .collect()
    }

    /// Returns the UIDs of the pods with own memory.
    pub fn pods(&self) -> Vec<String> {
        self.state.entries.keys().cloned().collect()
    }

    /// Takes back the memory of a pod; returns whether it had any.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be written.
    pub fn release(&mut self, uid: &str) -> Result<bool, checkpoint::CheckpointError> {
        let Some(containers) = self.state.entries.remove(uid) else {
            return Ok(false);
        };
        for block in containers.values().flatten() {
            self.state.give_back(block);
        }
        checkpoint::write(&self.dir, &self.state)?;
        Ok(true)
    }

    /// Takes back the memory of the init containers that ended before this container starts.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be written.
    pub fn started(
        &mut self,
        pod: &PodDemand,
        name: &str,
    ) -> Result<(), checkpoint::CheckpointError> {
        let earlier = pod.containers.iter().take_while(|c| c.name != name);
        let mut changed = false;
        for init in earlier.filter(|c| c.role == Role::Init) {
            let of_pod = self.state.entries.get_mut(&pod.uid);
            let Some(blocks) = of_pod.and_then(|c| c.remove(&init.name)) else {
                continue;
            };
            changed = true;
            for block in &blocks {
                self.state.give_back(block);
            }
        }
        if changed {
            checkpoint::write(&self.dir, &self.state)?;
        }
        Ok(())
    }

    /// Gives a container its memory, on the NUMA nodes of the hint as far as possible.
    ///
    /// # Errors
    ///
    /// Fails if no NUMA nodes have it.
    pub fn allocate(
        &mut self,
        pod: &PodDemand,
        container: &ContainerDemand,
        hint: Hint,
    ) -> Result<(), Rejection> {
        if !self.is_static || !pod.guaranteed || pod.pod_level {
            return Ok(());
        }
        if let Some(blocks) = self.state.of(&pod.uid, &container.name).cloned() {
            self.note_reuse(pod, container, &blocks);
            return Ok(());
        }
        let wanted = &container.memory;
        let mask = self
            .choose(pod, wanted, hint)
            .map_err(Rejection::unexpected)?;
        let nodes: Vec<usize> = mask.nodes().collect();
        let mut blocks = Vec::new();
        for (name, size) in wanted {
            let block = Block {
                nodes: nodes.clone(),
                resource: name.clone(),
                size: *size,
            };
            let missing = size.saturating_sub(self.reusable(&pod.uid, mask, name));
            self.state.take(&block, missing);
            blocks.push(block);
        }
        self.note_reuse(pod, container, &blocks);
        let of_pod = self.state.entries.entry(pod.uid.clone()).or_default();
        of_pod.insert(container.name.clone(), blocks.clone());
        self.shrink_init_blocks(pod, container, &blocks);
        checkpoint::write(&self.dir, &self.state).map_err(Rejection::unexpected)
    }

    /// Returns the NUMA nodes for a container.
    fn choose(&self, pod: &PodDemand, wanted: &Amounts, hint: Hint) -> Result<NumaMask, String> {
        let mut best = match hint.affinity {
            Some(mask) => (mask, hint.preferred),
            None => {
                let hints = self.calculate(pod, wanted);
                let found = hints
                    .get("memory")
                    .map(|list| hints::best(list.iter().copied()));
                let Some(found) = found.flatten() else {
                    return Err("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available".into());
                };
                if !found.1 && hint.preferred {
                    return Err("[memorymanager] failed to find the default preferred hint".into());
                }
                found
            }
        };
        if !self.state.has(best.0, wanted) {
            let hints = self.calculate(pod, wanted);
            let list = hints.get("memory").into_iter().flatten();
            let around = list.copied().filter(|(mask, _)| mask.and(best.0) == best.0);
            let Some(extended) = hints::best(around) else {
                return Err(
                    "[memorymanager] failed to find NUMA nodes to extend the current topology hint"
                        .into(),
                );
            };
            if !extended.1 && best.1 {
                return Err("[memorymanager] failed to find the extended preferred hint".into());
            }
            best = extended;
        }
        if self.state.is_violated_by(best.0) {
            return Err("[memorymanager] preferred hint violates NUMA node allocation".into());
        }
        Ok(best.0)
    }

    fn reusable(&self, uid: &str, mask: NumaMask, name: &str) -> u64 {
        let of_pod = Some(&self.reuse.1).filter(|_| self.reuse.0 == uid);
        of_pod
            .and_then(|r| r.get(&(mask, name.to_owned())))
            .copied()
            .unwrap_or(0)
    }

    /// Remembers that the memory of an init container is free for the next ones, and others not.
    fn note_reuse(&mut self, pod: &PodDemand, container: &ContainerDemand, blocks: &[Block]) {
        if self.reuse.0 != pod.uid {
            self.reuse = (pod.uid.clone(), BTreeMap::new());
        }
        for block in blocks {
            let key = (
                NumaMask::of(block.nodes.iter().copied()),
                block.resource.clone(),
            );
            let amount = self.reuse.1.entry(key).or_default();
            *amount = match container.role {
                Role::Init => (*amount).max(block.size),
                Role::Sidecar | Role::Main => amount.saturating_sub(block.size),
            };
        }
    }

    /// Subtracts what a container has taken over from the blocks of the init containers before it.
    fn shrink_init_blocks(
        &mut self,
        pod: &PodDemand,
        container: &ContainerDemand,
        blocks: &[Block],
    ) {
        let Some(of_pod) = self.state.entries.get_mut(&pod.uid) else {
            return;
        };
        for block in blocks {
            let mut left = block.size;
            let earlier = pod
                .containers
                .iter()
                .take_while(|c| c.name != container.name);
            for init in earlier.filter(|c| c.role == Role::Init) {
                let same = of_pod.get_mut(&init.name).into_iter().flatten();
                for old in same.filter(|b| b.resource == block.resource && b.nodes == block.nodes) {
                    let taken = old.size.min(left);
                    old.size -= taken;
                    left -= taken;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
