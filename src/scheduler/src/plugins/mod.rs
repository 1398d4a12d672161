//! The scheduling plugins: filters, which reject nodes, and scores, which rank them. Each file
//! implements one upstream plugin with upstream's name, reasons and scores.

pub mod default_preemption;
pub mod dynamic_resources;
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
pub mod types;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use crate::cluster::View;
use crate::model::{NodeInfo, PodInfo};
use types::{MAX_SCORE, Rejection};

/// Filter state that is computed once per pod and used for all nodes (upstream's PreFilter state).
pub struct Prepared<'a> {
    pod: &'a PodInfo,
    spread: pod_topology_spread::Filter<'a>,
    neighbours: inter_pod_affinity::Filter<'a>,
    volumes: volume_binding::Filter<'a>,
    restrictions: volume_restrictions::Filter<'a>,
    devices: dynamic_resources::Filter<'a>,
}

impl<'a> Prepared<'a> {
    /// Computes the state for a pod. An error rejects the pod on every node.
    pub fn new(pod: &'a PodInfo, view: View<'a>) -> Result<Self, Rejection> {
        node_affinity::check(pod)?;
        Ok(Prepared {
            pod,
            restrictions: volume_restrictions::Filter::new(pod, view)?,
            volumes: volume_binding::Filter::new(pod, view.cluster)?,
            devices: dynamic_resources::Filter::new(pod, view.cluster)?,
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
        self.neighbours.filter(node)?;
        self.devices.filter(node)
    }

    /// Returns the volume binding filter, which decides how claims are bound.
    pub fn volumes(&self) -> &volume_binding::Filter<'a> {
        &self.volumes
    }

    /// Returns the filter of devices, which chooses them.
    pub fn devices(&self) -> &dynamic_resources::Filter<'a> {
        &self.devices
    }
}

/// Returns the weighted sum of all plugins' scores for each node, in the order of `nodes`.
pub fn score(
    pod: &PodInfo,
    view: View<'_>,
    devices: &dynamic_resources::Filter<'_>,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
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
    if let Some(scores) = devices.scores(nodes) {
        add(2, normalize(scores, false));
    }
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
}
