//! The scheduling plugins: filters, which reject nodes, and scores, which rank them. Each file
//! implements one upstream plugin with upstream's name, reasons and scores.

pub mod default_preemption;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod pod_topology_spread;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use std::borrow::Cow;

use crate::cluster::View;
use crate::model::{NodeInfo, PodInfo};

/// Maximum score of a node per plugin, before weighting.
pub const MAX_SCORE: i64 = 100;

/// A plugin that can reject a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Plugin {
    /// Rejects cordoned nodes.
    NodeUnschedulable,
    /// Checks `spec.nodeName`.
    NodeName,
    /// Checks taints against tolerations.
    TaintToleration,
    /// Checks node selectors and node affinity.
    NodeAffinity,
    /// Checks host ports.
    NodePorts,
    /// Checks requests against allocatable resources.
    NodeResourcesFit,
    /// Checks disks that cannot be shared and `ReadWriteOncePod` claims.
    VolumeRestrictions,
    /// Checks claims and the node affinity of volumes.
    VolumeBinding,
    /// Checks zone and region labels of volumes.
    VolumeZone,
    /// Checks topology spread constraints.
    PodTopologySpread,
    /// Checks inter-pod affinity and anti-affinity.
    InterPodAffinity,
}

impl Plugin {
    /// All plugins in filter order.
    pub const ALL: [Plugin; 11] = [
        Plugin::NodeUnschedulable,
        Plugin::NodeName,
        Plugin::TaintToleration,
        Plugin::NodeAffinity,
        Plugin::NodePorts,
        Plugin::NodeResourcesFit,
        Plugin::VolumeRestrictions,
        Plugin::VolumeBinding,
        Plugin::VolumeZone,
        Plugin::PodTopologySpread,
        Plugin::InterPodAffinity,
    ];

    /// Returns whether the event can make a pod that this plugin rejected
    /// schedulable (upstream's queueing hint).
    pub fn is_queueing_hint(self, event: Event) -> bool {
        use Event as E;
        match self {
            Plugin::NodeUnschedulable => {
                matches!(event, E::NodeAdded | E::NodeTaints)
            }
            Plugin::NodeName => event == E::NodeAdded,
            Plugin::TaintToleration => matches!(event, E::NodeAdded | E::NodeTaints),
            Plugin::NodeAffinity => matches!(event, E::NodeAdded | E::NodeLabels),
            Plugin::NodePorts => matches!(event, E::NodeAdded | E::PodRemoved),
            Plugin::NodeResourcesFit => {
                matches!(event, E::NodeAdded | E::NodeResources | E::PodRemoved)
            }
            Plugin::VolumeRestrictions => {
                matches!(event, E::NodeAdded | E::PodRemoved | E::Claim)
            }
            Plugin::VolumeBinding => matches!(
                event,
                E::NodeAdded | E::NodeLabels | E::Claim | E::Volume | E::StorageClass
            ),
            Plugin::VolumeZone => matches!(
                event,
                E::NodeAdded | E::NodeLabels | E::Claim | E::Volume | E::StorageClass
            ),
            Plugin::PodTopologySpread => matches!(
                event,
                E::NodeAdded
                    | E::NodeRemoved
                    | E::NodeLabels
                    | E::NodeTaints
                    | E::PodPlaced
                    | E::PodRemoved
            ),
            Plugin::InterPodAffinity => matches!(
                event,
                E::NodeAdded | E::NodeLabels | E::PodPlaced | E::PodRemoved | E::Namespace
            ),
        }
    }
}

/// A set of plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginSet(u16);

impl PluginSet {
    /// Returns the set of all plugins.
    pub fn all() -> Self {
        Plugin::ALL.into_iter().collect()
    }

    /// Adds a plugin.
    pub fn insert(&mut self, plugin: Plugin) {
        self.0 |= 1 << plugin as u16;
    }

    /// Returns the plugins of the set in filter order.
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        Plugin::ALL
            .into_iter()
            .filter(move |p| self.0 & (1 << *p as u16) != 0)
    }
}

impl FromIterator<Plugin> for PluginSet {
    fn from_iter<I: IntoIterator<Item = Plugin>>(plugins: I) -> Self {
        let mut set = PluginSet::default();
        for plugin in plugins {
            set.insert(plugin);
        }
        set
    }
}

/// A cluster event that may make a rejected pod schedulable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node was added.
    NodeAdded,
    /// A node was deleted.
    NodeRemoved,
    /// A node's labels changed.
    NodeLabels,
    /// A node's taints or `unschedulable` field changed.
    NodeTaints,
    /// A node's allocatable resources changed.
    NodeResources,
    /// A pod was bound, or a bound pod changed.
    PodPlaced,
    /// A bound or assumed pod was removed, or its requests shrank.
    PodRemoved,
    /// A claim was added or changed.
    Claim,
    /// A volume was added or changed.
    Volume,
    /// A storage class was added or changed.
    StorageClass,
    /// A namespace's labels changed.
    Namespace,
}

/// The rejection of a node by a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The plugin that rejected the node.
    pub plugin: Plugin,
    /// Reasons in upstream's wording, aggregated over all nodes in messages.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether removing pods from the node cannot help, so that preemption skips the node.
    pub unresolvable: bool,
}

impl Rejection {
    /// Returns a rejection that preemption may resolve.
    pub fn new(plugin: Plugin, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection {
            plugin,
            reasons: vec![reason.into()],
            unresolvable: false,
        }
    }

    /// Returns a rejection that preemption cannot resolve.
    pub fn unresolvable(plugin: Plugin, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection {
            unresolvable: true,
            ..Rejection::new(plugin, reason)
        }
    }
}

/// Filter state that is computed once per pod and used for all nodes (upstream's PreFilter state).
pub struct Prepared<'a> {
    pod: &'a PodInfo,
    spread: pod_topology_spread::Filter<'a>,
    neighbours: inter_pod_affinity::Filter<'a>,
    volumes: volume_binding::Filter<'a>,
    restrictions: volume_restrictions::Filter<'a>,
}

impl<'a> Prepared<'a> {
    /// Computes the state for a pod. An error rejects the pod on every node.
    pub fn new(pod: &'a PodInfo, view: View<'a>) -> Result<Self, Rejection> {
        node_affinity::check(pod)?;
        Ok(Prepared {
            pod,
            restrictions: volume_restrictions::Filter::new(pod, view)?,
            volumes: volume_binding::Filter::new(pod, view.cluster)?,
            spread: pod_topology_spread::Filter::new(pod, view),
            neighbours: inter_pod_affinity::Filter::new(pod, view),
        })
    }

    /// Runs all filters on a node; returns the first rejection.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let pod = self.pod;
        node_unschedulable::filter(pod, node)?;
        node_name::filter(pod, node)?;
        taint_toleration::filter(pod, node)?;
        node_affinity::filter(pod, node)?;
        node_ports::filter(pod, node)?;
        node_resources_fit::filter(pod, node)?;
        self.restrictions.filter(node)?;
        self.volumes.filter(node)?;
        volume_zone::filter(&self.volumes, node)?;
        self.spread.filter(node)?;
        self.neighbours.filter(node)
    }

    /// Returns the volume binding filter, which decides how claims are bound.
    pub fn volumes(&self) -> &volume_binding::Filter<'a> {
        &self.volumes
    }
}

/// Returns the weighted sum of all plugins' scores for each node, in the order of `nodes`.
pub fn score(pod: &PodInfo, view: View<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut total = vec![0; nodes.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (sum, score) in total.iter_mut().zip(scores) {
            *sum += weight * score;
        }
    };
    let each = |f: &dyn Fn(&NodeInfo) -> i64| -> Vec<i64> { nodes.iter().map(|n| f(n)).collect() };
    add(
        3,
        normalize(each(&|n| taint_toleration::score(pod, n)), true),
    );
    add(2, normalize(each(&|n| node_affinity::score(pod, n)), false));
    add(1, each(&|n| node_resources_fit::score(pod, n)));
    add(
        1,
        each(&|n| node_resources_balanced_allocation::score(pod, n)),
    );
    add(1, image_locality::scores(pod, view, nodes));
    add(2, pod_topology_spread::scores(pod, view, nodes));
    add(2, inter_pod_affinity::scores(pod, view, nodes));
    total
}

/// Scales scores so that the greatest becomes 100. With `reverse`, the lowest score ranks best.
fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        let scaled = if max == 0 {
            0
        } else {
            MAX_SCORE * *score / max
        };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizing() {
        assert_eq!(normalize(vec![0, 2, 4], false), [0, 50, 100]);
        assert_eq!(normalize(vec![0, 2, 4], true), [100, 50, 0]);
        assert_eq!(normalize(vec![0, 0], true), [100, 100]);
    }

    #[test]
    fn sets() {
        let set: PluginSet = [Plugin::InterPodAffinity, Plugin::NodeName]
            .into_iter()
            .collect();
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [Plugin::NodeName, Plugin::InterPodAffinity]
        );
    }
}
