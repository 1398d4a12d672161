//! One scheduling cycle as a pure function: takes a pod and the cluster, returns a node or the
//! reasons why no node fits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::cluster::{Cluster, View};
use crate::devices::Reservation;
use crate::model::{NodeInfo, PodInfo};
use crate::plugins::default_preemption::{self, Candidate};
use crate::plugins::types::{Plugin, PluginSet, Rejection};
use crate::plugins::volume_binding::Decision;
use crate::plugins::{Prepared, node_affinity, score};

/// A scheduling decision for a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Name of the chosen node.
    pub node: String,
    /// Actions required for the pod's claims before it can be bound.
    pub volumes: Vec<Decision>,
    /// The pod's claims of devices, with the devices that were chosen.
    pub devices: Vec<Reservation>,
}

/// The reasons why no node fits a pod. Displayed in upstream's wording.
#[derive(Clone, Debug, Default)]
pub struct FitError {
    /// Number of nodes in the cluster.
    pub nodes: usize,
    /// The rejection by a pre-filter, which applies to every node.
    pub upfront: Option<Rejection>,
    /// The rejection of each node, by node name.
    pub rejections: BTreeMap<String, Rejection>,
    /// The message of the plugins that run after a failure (upstream's PostFilter).
    pub afterwards: Option<String>,
    /// Why the attempt ended before all nodes were tried.
    pub fatal: Option<Box<str>>,
    /// Whether the pod has claims that DynamicResources has looked at.
    pub has_claims: bool,
    /// The claim that gives up its devices, so that others can be chosen.
    pub deallocate: Option<Arc<ResourceClaim>>,
    /// Whether the pod loses its nomination: preemption cannot help it on any node.
    pub clears_nomination: bool,
}

/// The message of upstream's plugin DynamicResources after a failure if a pod has no resource
/// claims. It runs before preemption.
const NO_CLAIMS: &str = "no new claims to deallocate";
/// Its message if a claim gives up its devices.
const DEALLOCATED: &str = "deallocation of ResourceClaim completed";
/// Its message for a pod with claims that are not the reason, or cannot be given up.
const WITH_CLAIMS: &str = "still not schedulable";
/// Its message if a pre-filter has rejected the pod before DynamicResources saw it.
const NOT_SEEN: &str = "not found";

impl FitError {
    /// Returns the plugins that rejected the pod.
    pub fn plugins(&self) -> PluginSet {
        self.rejections
            .values()
            .chain(&self.upfront)
            .map(|r| r.plugin)
            .collect()
    }
}

/// Formats the reasons as `count reason, …`, sorted as strings.
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
        if let Some(why) = &self.fatal {
            return f.write_str(why);
        }
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
        match &self.afterwards {
            Some(message) => write!(f, " {message}"),
            None => Ok(()),
        }
    }
}

/// Chooses a node for the pod.
///
/// `tie` selects one of several nodes with the highest score: it receives their number and returns
/// an index, which is taken modulo that number.
///
/// # Errors
///
/// Returns a [`FitError`] if no node passes the filters. It does not try preemption; see
/// [`preempt`].
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
        error.clears_nomination = true;
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
        let checked =
            node_affinity::is_named(pod, node).and_then(|()| filter(pod, cluster, &prepared, node));
        match checked {
            Ok(()) => feasible.push(node),
            Err(rejection) if rejection.fatal => {
                let (plugin, why) = (rejection.plugin, rejection.reasons.join(", "));
                let why = format!("running \"{plugin:?}\" filter plugin: {why}");
                error.fatal = Some(why.into());
                return Err(error);
            }
            Err(rejection) => {
                error.rejections.insert(node.name.clone(), rejection);
            }
        }
    }
    // A feasible nominated node is used without scoring.
    let nominated = feasible.iter().position(|n| n.name == pod.nominated);
    let chosen = match (nominated, feasible.len()) {
        (_, 0) => {
            error.has_claims = prepared.devices().has_claims();
            error.deallocate = prepared.devices().to_deallocate(pod);
            return Err(error);
        }
        (Some(i), _) => feasible[i],
        (None, 1) => feasible[0],
        (None, _) => {
            let scores = score(pod, view, prepared.devices(), &feasible);
            let best = scores.iter().copied().max().unwrap_or(0);
            let equals: Vec<usize> = (0..scores.len()).filter(|i| scores[*i] == best).collect();
            feasible[equals[tie(equals.len()) % equals.len()]]
        }
    };
    Ok(Placement {
        node: chosen.name.clone(),
        volumes: prepared.volumes().decide(chosen).unwrap_or_default(),
        devices: prepared.devices().reservations(chosen),
    })
}

/// Filters a node. If pods of equal or higher priority are nominated for it, the pod must also fit
/// with those pods added.
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

/// Searches for pods to preempt after [`schedule`] failed. If there is no candidate, records the
/// reason in `error.afterwards`.
pub fn preempt(pod: &PodInfo, cluster: &Cluster, error: &mut FitError) -> Option<Candidate> {
    if error.nodes == 0 || error.fatal.is_some() {
        return None;
    }
    if let Some(upfront) = &error.upfront {
        error.afterwards = Some(match upfront.plugin {
            Plugin::DynamicResources => {
                let nodes = error.nodes;
                format!(
                    "{NO_CLAIMS}, preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling."
                )
            }
            _ => NOT_SEEN.to_owned(),
        });
        return None;
    }
    let claims = match (&error.deallocate, error.has_claims) {
        (Some(_), _) => DEALLOCATED,
        (None, true) => WITH_CLAIMS,
        (None, false) => NO_CLAIMS,
    };
    if let Err(why) = default_preemption::eligible(pod, cluster, &error.rejections) {
        error.afterwards = Some(format!("{claims}, preemption: {why}"));
        return None;
    }
    match default_preemption::find(pod, cluster, &error.rejections) {
        Ok(candidate) => Some(candidate),
        Err(against) => {
            let reasons = histogram(against.values().flatten().map(AsRef::as_ref));
            let nodes = error.nodes;
            error.afterwards = Some(format!(
                "{claims}, preemption: 0/{nodes} nodes are available: {reasons}."
            ));
            error.clears_nomination = true;
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
        // The result must not depend on the tie-breaker.
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
            " no new claims to deallocate, preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
        ));
        assert!(error.clears_nomination);
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
        let said = |p: &PodInfo| {
            let mut error = schedule(p, &c, |_| 0).unwrap_err();
            assert!(preempt(p, &c, &mut error).is_none());
            assert!(!error.clears_nomination);
            error.to_string()
        };
        assert_eq!(
            said(&p),
            "0/4 nodes are available: persistentvolumeclaim \"d\" not found. not found"
        );
        let nowhere = pinned(json!([
            {"key": "metadata.name", "operator": "In", "values": ["m"]},
            {"key": "metadata.name", "operator": "In", "values": ["m02"]},
        ]));
        assert_eq!(
            said(&nowhere),
            "0/4 nodes are available: pod affinity terms conflict. not found"
        );
    }

    fn pinned(fields: serde_json::Value) -> PodInfo {
        let terms = json!([{ "matchFields": fields }]);
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        let containers = json!([{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "5"}}}]);
        pod(
            "p",
            json!({"affinity": {"nodeAffinity": required}, "containers": containers}),
        )
    }

    #[test]
    fn pods_that_name_their_node_are_not_tried_elsewhere() {
        let c = four();
        let to = |name: &str| {
            let field = json!([{"key": "metadata.name", "operator": "In", "values": [name]}]);
            let p = pinned(field);
            schedule(&p, &c, |_| 0).unwrap_err().to_string()
        };
        assert_eq!(
            to("m02"),
            "0/4 nodes are available: 1 Insufficient cpu, 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
        assert_eq!(
            to("gone"),
            "0/4 nodes are available: 4 node(s) didn't satisfy plugin(s) [NodeAffinity]."
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
        // The nominated pod itself fits, and nominated pods of lower priority are ignored.
        assert!(schedule(&vip, &c, |_| 0).is_ok());
        let greater = PodInfo {
            priority: 20,
            ..asking("q", "4")
        };
        assert!(schedule(&greater, &c, |_| 0).is_ok());
    }
}
