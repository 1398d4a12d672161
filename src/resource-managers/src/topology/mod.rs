//! The topology manager: merges hints, and admits a pod if its resources can be near each other.

mod merge;

use std::collections::BTreeMap;

pub use merge::{Merged, merge};

use crate::machine::NumaNode;
use crate::mask::NumaMask;
use crate::pods::{ContainerDemand, PodDemand};

/// A possible allocation of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The NUMA nodes; `None` if any will do.
    pub affinity: Option<NumaMask>,
    /// Whether no better allocation is possible on an empty machine.
    pub preferred: bool,
}

/// The hints of a provider by resource name. `None` means that any NUMA node will do; no hint at
/// all, that no allocation is possible.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// Why a pod is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Reason of the pod's status.
    pub reason: &'static str,
    /// Upstream's message.
    pub message: String,
}

impl Rejection {
    /// Returns a rejection.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Returns the rejection for an error without a reason of its own.
    pub fn unexpected(error: impl std::fmt::Display) -> Self {
        Self::new(
            "UnexpectedAdmissionError",
            format!("Allocate failed due to {error}, which is unexpected"),
        )
    }

    /// Returns the rejection of a pod whose resources are too far from each other.
    fn affinity() -> Self {
        Self::new(
            "TopologyAffinityError",
            "Resources cannot be allocated with Topology locality",
        )
    }
}

/// A manager of a resource that is bound to NUMA nodes: CPUs, memory, devices.
pub trait HintProvider: Send {
    /// Returns the possible allocations for a container.
    fn hints(&self, pod: &PodDemand, container: &ContainerDemand) -> Hints;

    /// Returns the possible allocations for all containers of a pod together.
    fn pod_hints(&self, pod: &PodDemand) -> Hints;

    /// Allocates what a container requests, where the hint says as far as possible. What the
    /// container already has, it keeps.
    ///
    /// # Errors
    ///
    /// Returns why the pod cannot be admitted.
    fn allocate(
        &mut self,
        pod: &PodDemand,
        container: &ContainerDemand,
        hint: Hint,
    ) -> Result<(), Rejection>;
}

/// How much the topology manager insists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It does nothing.
    #[default]
    None,
    /// Resources are near each other if possible.
    BestEffort,
    /// Pods are refused whose resources are not as near as they could be on an empty machine.
    Restricted,
    /// Pods are refused whose resources are not on one NUMA node.
    SingleNumaNode,
}

impl Policy {
    /// The names of the policies in the configuration.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("none", Self::None),
        ("best-effort", Self::BestEffort),
        ("restricted", Self::Restricted),
        ("single-numa-node", Self::SingleNumaNode),
    ];
}

/// What is near each other: the resources of a container or of all of a pod's containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each container's.
    #[default]
    Container,
    /// The pod's.
    Pod,
}

/// The greatest number of NUMA nodes unless the options allow more.
pub const MAX_NUMA_NODES: usize = 8;

/// The settings of the topology manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopologySettings {
    /// The policy.
    pub policy: Policy,
    /// The scope.
    pub scope: Scope,
    /// `prefer-closest-numa-nodes`.
    pub prefer_closest: bool,
    /// `max-allowable-numa-nodes`.
    pub max_numa_nodes: usize,
}

impl Default for TopologySettings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            scope: Scope::default(),
            prefer_closest: false,
            max_numa_nodes: MAX_NUMA_NODES,
        }
    }
}

/// The topology manager of a node.
#[derive(Clone, Debug, Default)]
pub struct TopologyManager {
    settings: TopologySettings,
    /// Distances by NUMA node; empty unless they count.
    nodes: Vec<(usize, Vec<u64>)>,
}

impl TopologyManager {
    /// Returns the manager for a machine.
    ///
    /// # Errors
    ///
    /// Fails if the machine has too many NUMA nodes, or if distances count but are not known.
    pub fn new(settings: TopologySettings, nodes: &[NumaNode]) -> Result<Self, String> {
        if settings.policy == Policy::None {
            return Ok(Self {
                settings,
                nodes: Vec::new(),
            });
        }
        if settings.prefer_closest && nodes.iter().any(|n| n.distances.is_empty()) {
            return Err(
                "cannot discover NUMA topology: error getting NUMA distances from cadvisor".into(),
            );
        }
        if nodes.len() > settings.max_numa_nodes {
            return Err(format!(
                "unsupported on machines with more than {} NUMA Nodes",
                settings.max_numa_nodes
            ));
        }
        Ok(Self {
            settings,
            nodes: nodes.iter().map(|n| (n.id, n.distances.clone())).collect(),
        })
    }

    /// Admits a pod: asks all providers and lets them allocate.
    ///
    /// # Errors
    ///
    /// Returns why the pod is refused. What was allocated before stays allocated: the caller
    /// releases the pod.
    pub fn admit(
        &self,
        pod: &PodDemand,
        providers: &mut [&mut dyn HintProvider],
    ) -> Result<(), Rejection> {
        let whole = match (self.settings.policy, self.settings.scope) {
            (Policy::None, _) => Some(Hint::default()),
            (_, Scope::Pod) => {
                let hints: Vec<Hints> = providers.iter().map(|p| p.pod_hints(pod)).collect();
                Some(self.decide(&hints)?)
            }
            (_, Scope::Container) => None,
        };
        for container in &pod.containers {
            let hint = match whole {
                Some(hint) => hint,
                None => {
                    let of = |p: &&mut dyn HintProvider| p.hints(pod, container);
                    self.decide(&providers.iter().map(of).collect::<Vec<_>>())?
                }
            };
            for provider in &mut *providers {
                provider.allocate(pod, container, hint)?;
            }
        }
        Ok(())
    }

    /// Returns the merged hint if the policy admits it.
    fn decide(&self, hints: &[Hints]) -> Result<Hint, Rejection> {
        let Merged { hint, admit } = merge(&self.settings, &self.nodes, hints);
        if admit {
            Ok(hint)
        } else {
            Err(Rejection::affinity())
        }
    }
}

#[cfg(test)]
mod tests;
