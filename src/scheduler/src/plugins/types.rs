//! The terms of plugins: their names and sets, cluster events, and rejections.

use std::borrow::Cow;

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
    /// Checks resource claims.
    DynamicResources,
}

impl Plugin {
    /// All plugins in filter order.
    pub const ALL: [Plugin; 12] = [
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
        Plugin::DynamicResources,
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
            Plugin::DynamicResources => {
                matches!(
                    event,
                    E::NodeAdded | E::NodeLabels | E::NodeResources | E::DeviceClaim | E::Device
                )
            }
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
    /// A resource claim was added or changed, or devices became free.
    DeviceClaim,
    /// A class or slice of devices was added or changed.
    Device,
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
    /// Whether the pod's attempt ends at once, with an error: other nodes need not be tried.
    pub fatal: bool,
}

impl Rejection {
    /// Returns a rejection that preemption may resolve.
    pub fn new(plugin: Plugin, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection {
            plugin,
            reasons: vec![reason.into()],
            unresolvable: false,
            fatal: false,
        }
    }

    /// Returns a rejection that ends the attempt: something about the pod itself is wrong.
    pub fn fatal(plugin: Plugin, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection {
            fatal: true,
            ..Rejection::unresolvable(plugin, reason)
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

#[cfg(test)]
mod tests {
    use super::*;

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
