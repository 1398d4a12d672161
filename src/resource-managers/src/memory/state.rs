//! The state of the memory manager and its file, `memory_manager_state`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Amounts, Reserved};
use crate::checkpoint::{State, go_map, go_numbers};
use crate::machine::NumaNode;
use crate::mask::NumaMask;

/// A resource of a NUMA node, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryTable {
    /// What the node has.
    pub total: u64,
    /// What is reserved for the system.
    pub system_reserved: u64,
    /// What containers can get.
    pub allocatable: u64,
    /// What they have.
    pub reserved: u64,
    /// What is left.
    pub free: u64,
}

/// A NUMA node's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Number of the allocations that use the node.
    pub number_of_assignments: i64,
    /// The node's resources.
    #[serde(rename = "memoryMap")]
    pub memory: BTreeMap<String, MemoryTable>,
    /// The nodes that allocations use together with this one, and this one.
    pub cells: Vec<usize>,
}

/// Memory that a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The NUMA nodes.
    #[serde(rename = "numaAffinity")]
    pub nodes: Vec<usize>,
    /// `memory` or huge pages of a size.
    #[serde(rename = "type")]
    pub resource: String,
    /// Bytes.
    pub size: u64,
}

/// The NUMA nodes and the memory of containers, in the kubelet's form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    #[serde(rename = "policyName")]
    policy: String,
    /// The NUMA nodes by number.
    #[serde(rename = "machineState")]
    pub machine: BTreeMap<usize, NodeState>,
    /// The memory of containers: by pod UID and container name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

impl State for MemoryState {
    const MANAGER: &'static str = "memory manager";
    const FILE: &'static str = "memory_manager_state";
    const PREFIX: &'static str = "[memorymanager] ";

    fn hashed(&self) -> String {
        let table = |t: &MemoryTable| {
            format!(
                "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} Reserved:(uint64){} Free:(uint64){}}}",
                t.total, t.system_reserved, t.allocatable, t.reserved, t.free
            )
        };
        let machine = go_map(self.machine.iter().map(|(id, node)| {
            let memory = go_map(node.memory.iter().map(|(name, t)| (name, table(t))));
            let text = format!(
                "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){memory} Cells:([]int){}}}",
                node.number_of_assignments,
                go_numbers(&node.cells)
            );
            (id, text)
        }));
        let blocks = |blocks: &Vec<Block>| {
            let each = blocks.iter().map(|b| {
                format!(
                    "{{NUMAAffinity:([]int){} Type:(v1.ResourceName){} Size:(uint64){}}}",
                    go_numbers(&b.nodes),
                    b.resource,
                    b.size
                )
            });
            format!("[{}]", each.collect::<Vec<_>>().join(" "))
        };
        let entries = go_map(self.entries.iter().map(|(uid, containers)| {
            let containers = containers.iter().map(|(name, list)| (name, blocks(list)));
            (uid, go_map(containers))
        }));
        format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){machine} Entries:(state.ContainerMemoryAssignments){entries} Checksum:(checksum.Checksum)0}}",
            self.policy
        )
    }

    fn policy(&self) -> &str {
        &self.policy
    }
}

/// Returns the NUMA nodes of which nobody has anything yet.
pub(super) fn initial(nodes: &[NumaNode], reserved: &Reserved) -> BTreeMap<usize, NodeState> {
    let table = |id: usize, name: &str, total: u64, other: u64| {
        let system_reserved = reserved.get(&(id, name.to_owned())).copied().unwrap_or(0);
        let allocatable = total.saturating_sub(system_reserved).saturating_sub(other);
        MemoryTable {
            total,
            system_reserved,
            allocatable,
            reserved: 0,
            free: allocatable,
        }
    };
    let state = |node: &NumaNode| {
        let huge: u64 = node.hugepages.values().sum();
        let mut memory: BTreeMap<String, MemoryTable> = node
            .hugepages
            .iter()
            .map(|(name, bytes)| (name.clone(), table(node.id, name, *bytes, 0)))
            .collect();
        memory.insert("memory".into(), table(node.id, "memory", node.memory, huge));
        NodeState {
            number_of_assignments: 0,
            memory,
            cells: vec![node.id],
        }
    };
    nodes.iter().map(|node| (node.id, state(node))).collect()
}

/// Takes memory from the nodes of a block in turn.
fn take(machine: &mut BTreeMap<usize, NodeState>, block: &Block, mut size: u64) {
    for id in &block.nodes {
        let Some(node) = machine.get_mut(id) else {
            continue;
        };
        node.number_of_assignments += 1;
        node.cells.clone_from(&block.nodes);
        if let Some(table) = node.memory.get_mut(&block.resource) {
            let taken = table.free.min(size);
            table.free -= taken;
            table.reserved += taken;
            size -= taken;
        }
    }
}

impl MemoryState {
    /// Returns the state in which nothing is given to anybody.
    pub fn new(policy: &str) -> Self {
        Self {
            policy: policy.to_owned(),
            ..Self::default()
        }
    }

    /// Returns the memory of a container.
    pub fn of(&self, uid: &str, name: &str) -> Option<&Vec<Block>> {
        self.entries.get(uid)?.get(name)
    }

    /// Takes `size` bytes for a block.
    pub(super) fn take(&mut self, block: &Block, size: u64) {
        take(&mut self.machine, block, size);
    }

    /// Takes back a block.
    pub(super) fn give_back(&mut self, block: &Block) {
        let mut size = block.size;
        for id in &block.nodes {
            let Some(node) = self.machine.get_mut(id) else {
                continue;
            };
            node.number_of_assignments -= 1;
            if node.number_of_assignments == 0 {
                node.cells = vec![*id];
            }
            if let Some(table) = node.memory.get_mut(&block.resource) {
                let freed = table.reserved.min(size);
                table.reserved -= freed;
                table.free += freed;
                size -= freed;
            }
        }
    }

    /// Returns whether the nodes have free what is wanted.
    pub(super) fn has(&self, mask: NumaMask, wanted: &Amounts) -> bool {
        wanted
            .iter()
            .all(|(name, bytes)| self.sum(mask, name, |t| t.free) >= *bytes)
    }

    /// Returns the sum of an amount of the nodes.
    pub(super) fn sum(&self, mask: NumaMask, name: &str, of: fn(&MemoryTable) -> u64) -> u64 {
        let tables = mask
            .nodes()
            .filter_map(|id| self.machine.get(&id)?.memory.get(name));
        tables.map(of).sum()
    }

    /// Returns whether an allocation on several nodes would mix with others.
    pub(super) fn is_violated_by(&self, mask: NumaMask) -> bool {
        let is_mixed = |node: &NodeState| {
            let cells = NumaMask::of(node.cells.iter().copied());
            node.number_of_assignments > 0 && (node.cells.len() == 1 || cells != mask)
        };
        mask.count() > 1
            && mask
                .nodes()
                .any(|id| self.machine.get(&id).is_some_and(is_mixed))
    }

    /// Checks that the state fits the machine; `expected` are its NUMA nodes when nothing is given.
    ///
    /// # Errors
    ///
    /// Returns upstream's message.
    pub(super) fn validate(
        &mut self,
        mut expected: BTreeMap<usize, NodeState>,
    ) -> Result<(), String> {
        if self.machine.is_empty() {
            if !self.entries.is_empty() {
                return Err(
                    "[memorymanager] machine state can not be empty when it has memory assignments"
                        .into(),
                );
            }
            self.machine = expected;
            return Ok(());
        }
        for (uid, containers) in &self.entries {
            for (name, block) in containers
                .iter()
                .flat_map(|(n, b)| b.iter().map(move |b| (n, b)))
            {
                let missing = |what: &str| {
                    Err(format!(
                        "[memorymanager] (pod: {uid}, container: {name}) the memory assignment uses {what}"
                    ))
                };
                let nodes = || block.nodes.iter().map(|id| expected.get(id));
                if nodes().any(|node| node.is_none()) {
                    return missing("the NUMA that does not exist");
                }
                let has = |node: &NodeState| node.memory.contains_key(&block.resource);
                if !nodes().flatten().all(has) {
                    return missing("memory resource that does not exist");
                }
                take(&mut expected, block, block.size);
            }
        }
        match is_same(&self.machine, &expected) {
            true => Ok(()),
            false => Err(
                "[memorymanager] the expected machine state is different from the real one".into(),
            ),
        }
    }
}

/// Returns whether two states are the same. Within a group of nodes, only the sums must be.
fn is_same(a: &BTreeMap<usize, NodeState>, b: &BTreeMap<usize, NodeState>) -> bool {
    let sums = |of: &BTreeMap<usize, NodeState>, cells: &[usize], name: &str| {
        let tables = cells.iter().filter_map(|id| of.get(id)?.memory.get(name));
        tables.fold((0, 0), |(free, reserved), t| {
            (free + t.free, reserved + t.reserved)
        })
    };
    let node_is_same = |(id, x): (&usize, &NodeState)| {
        let Some(y) = b.get(id) else { return false };
        let cells = |n: &NodeState| NumaMask::of(n.cells.iter().copied());
        let fixed = |t: &MemoryTable| (t.total, t.system_reserved, t.allocatable);
        x.number_of_assignments == y.number_of_assignments
            && cells(x) == cells(y)
            && x.memory.len() == y.memory.len()
            && x.memory.iter().all(|(name, table)| {
                y.memory
                    .get(name)
                    .is_some_and(|other| fixed(table) == fixed(other))
                    && sums(a, &x.cells, name) == sums(b, &x.cells, name)
            })
    };
    a.len() == b.len() && a.iter().all(node_is_same)
}
