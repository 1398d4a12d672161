//! One scheduling cycle, as a pure function: a pod and the cluster in, a node
//! or the reasons why none out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::cluster::{Cluster, View};
use crate::model::{NodeInfo, PodInfo};
use crate::plugins::default_preemption::{self, Candidate};
use crate::plugins::volume_binding::Decision;
use crate::plugins::{PluginSet, Prepared, Rejection, score};

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// What must be done for its claims before.
    pub volumes: Vec<Decision>,
}

/// Why a pod goes nowhere. Printed in upstream's words.
#[derive(Clone, Debug, Default)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What rejected the pod before any node was looked at.
    pub upfront: Option<Rejection>,
    /// What rejected each node.
    pub rejections: BTreeMap<String, Rejection>,
    /// What came of preemption.
    pub preemption: Option<String>,
}

impl FitError {
    /// Who said no.
    pub fn plugins(&self) -> PluginSet {
        self.rejections
            .values()
            .chain(&self.upfront)
            .map(|r| r.plugin)
            .collect()
    }
}

/// `count reason, …`, sorted as texts.
fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<String> = counts
        .into_iter()
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    lines.sort();
    lines.join(", ")
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 && self.upfront.is_none() {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        let reasons = match &self.upfront {
            Some(r) => r.reasons.join(", "),
            None => histogram(
                self.rejections
                    .values()
                    .flat_map(|r| r.reasons.iter().map(AsRef::as_ref)),
            ),
        };
        if !reasons.is_empty() {
            write!(f, " {reasons}.")?;
        }
        match &self.preemption {
            Some(message) => write!(f, " preemption: {message}"),
            None => Ok(()),
        }
    }
}

/// Chooses a node for the pod. `tie` breaks ties: given how many nodes are
/// equally good, it says which.
pub fn schedule(
    pod: &PodInfo,
    cluster: &Cluster,
    tie: impl FnOnce(usize) -> usize,
) -> Result<Placement, FitError> {
    let view = View::of(cluster);
    let mut error = FitError {
        nodes: cluster.nodes.len(),
        ..FitError::default()
    };
    if cluster.nodes.is_empty() {
        return Err(error);
    }
    let prepared = match Prepared::new(pod, view) {
        Ok(prepared) => prepared,
        Err(rejection) => {
            error.upfront = Some(rejection);
            return Err(error);
        }
    };
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    for node in cluster.nodes.values() {
        match filter(pod, cluster, &prepared, node) {
            Ok(()) => feasible.push(node),
            Err(rejection) => {
                error.rejections.insert(node.name.clone(), rejection);
            }
        }
    }
    // A pod that waited for a node gets it when it fits.
    let nominated = feasible.iter().position(|n| n.name == pod.nominated);
    let chosen = match (nominated, feasible.len()) {
        (_, 0) => return Err(error),
        (Some(i), _) => feasible[i],
        (None, 1) => feasible[0],
        (None, _) => {
            let scores = score(pod, view, &feasible);
            let best = scores.iter().copied().max().unwrap_or(0);
            let equals: Vec<usize> = (0..scores.len()).filter(|i| scores[*i] == best).collect();
            feasible[equals[tie(equals.len()) % equals.len()]]
        }
    };
    Ok(Placement {
        node: chosen.name.clone(),
        volumes: prepared.volumes().decide(chosen).unwrap_or_default(),
    })
}

/// May the pod go to the node, also when the pods come that wait for the node
/// and are as important?
fn filter(
    pod: &PodInfo,
    cluster: &Cluster,
    prepared: &Prepared<'_>,
    node: &NodeInfo,
) -> Result<(), Rejection> {
    let expected: Vec<&Arc<PodInfo>> = cluster
        .nominated
        .values()
        .filter(|(at, p)| *at == node.name && p.uid != pod.uid && p.priority >= pod.priority)
        .map(|(_, p)| p)
        .collect();
    if !expected.is_empty() {
        let mut crowded = node.clone();
        for p in expected {
            crowded.add(Arc::clone(p));
        }
        Prepared::new(pod, View::with(cluster, &crowded))?.filter(&crowded)?;
    }
    prepared.filter(node)
}

/// Looks for pods to be preempted after [`schedule`] failed, and notes in the
/// error what came of it.
pub fn preempt(pod: &PodInfo, cluster: &Cluster, error: &mut FitError) -> Option<Candidate> {
    if error.upfront.is_some() || error.nodes == 0 {
        return None;
    }
    if let Err(why) = default_preemption::eligible(pod, cluster) {
        error.preemption = Some(why.to_owned());
        return None;
    }
    match default_preemption::find(pod, cluster, &error.rejections) {
        Ok(candidate) => Some(candidate),
        Err(against) => {
            error.preemption = Some(format!(
                "0/{} nodes are available: {}.",
                error.nodes,
                histogram(against.values().copied())
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use rkube_component_helpers::label_selector::{Labels, Selector};
    use serde_json::json;
    use std::collections::BTreeSet;

    fn four() -> Cluster {
        let mut c = Cluster::default();
        for name in ["m", "m02", "m03", "m04"] {
            c.set_node(node(name));
        }
        c
    }

    #[test]
    fn replicas_land_on_different_nodes() {
        // Whatever the first tie says.
        for first in 0..4 {
            let mut c = four();
            let labels: Labels = [("app".to_owned(), "kubia".to_owned())].into();
            c.owners.insert(
                ("ReplicaSet", "default".into(), "kubia".into()),
                Selector::from_labels(&labels),
            );
            let mut nodes = BTreeSet::new();
            for i in 0..3 {
                let mut p = labelled(&format!("kubia-{i}"), json!({"app": "kubia"}), json!({}));
                p.owner = Some(("ReplicaSet".into(), "kubia".into()));
                let placement = schedule(&p, &c, |n| first % n).unwrap();
                c.assume(&p, &placement.node);
                nodes.insert(placement.node);
            }
            assert_eq!(nodes.len(), 3);
        }
    }

    #[test]
    fn many_pods_are_spread_evenly() {
        let mut c = four();
        for i in 0..400 {
            let p = pod(&format!("p{i}"), json!({}));
            let placement = schedule(&p, &c, |n| i % n).unwrap();
            c.assume(&p, &placement.node);
        }
        for node in c.nodes.values() {
            assert_eq!(node.pods.len(), 100, "{}", node.name);
        }
    }

    #[test]
    fn errors_in_upstreams_words() {
        let mut c = four();
        c.set_node(node_with(
            "m",
            json!({}),
            json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}),
        ));
        c.set_node(node_with("m02", json!({}), json!({"unschedulable": true})));
        let p = asking("p", "5");
        let mut error = schedule(&p, &c, |_| 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu."
        );
        assert!(preempt(&p, &c, &mut error).is_none());
        assert!(error.to_string().ends_with(
            " preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
        ));
        assert_eq!(
            schedule(&p, &Cluster::default(), |_| 0)
                .unwrap_err()
                .to_string(),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn upfront_rejections() {
        let c = four();
        let p = pod(
            "p",
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "d"}}]}),
        );
        assert_eq!(
            schedule(&p, &c, |_| 0).unwrap_err().to_string(),
            "0/4 nodes are available: persistentvolumeclaim \"d\" not found."
        );
    }

    #[test]
    fn room_is_kept_for_nominated_pods() {
        let mut c = Cluster::default();
        c.set_node(node("a"));
        let vip = Arc::new(PodInfo {
            priority: 10,
            ..asking("vip", "3")
        });
        c.nominated
            .insert("vip".into(), ("a".into(), Arc::clone(&vip)));
        assert!(schedule(&asking("p", "2"), &c, |_| 0).is_err());
        assert!(schedule(&asking("p", "1"), &c, |_| 0).is_ok());
        // The nominated pod itself fits, and less important ones do not count.
        assert!(schedule(&vip, &c, |_| 0).is_ok());
        let greater = PodInfo {
            priority: 20,
            ..asking("q", "4")
        };
        assert!(schedule(&greater, &c, |_| 0).is_ok());
    }
}
