//! DefaultPreemption: chooses a node and the lower-priority pods to remove from it, so that a
//! pending pod fits.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::Prepared;
use super::types::Rejection;
use crate::cluster::{Budget, Cluster, View};
use crate::model::{NodeInfo, PodInfo};

/// A node and the pods to preempt on it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node's name.
    pub node: String,
    /// The victims: those protected by a budget first, each group most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// Number of victims whose preemption violates a disruption budget.
    pub violations: usize,
}

/// Reasons why a node is no candidate, in upstream's wording.
pub mod reasons {
    /// The rejection of the node cannot be resolved by removing pods.
    pub const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
    /// The node has no lower-priority pods. If it has, but their removal does not make the pod fit,
    /// the reasons are those for which it does not fit then.
    pub const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
}

/// Why nodes are no candidates, by the nodes' names.
pub type Against = BTreeMap<String, Vec<Cow<'static, str>>>;

/// Checks whether the pod may preempt others. The error is the reason in upstream's wording.
///
/// `rejections` are those of the nodes. A pod that can no longer run on its nominated node need not
/// wait for what terminates there.
pub fn eligible(
    pod: &PodInfo,
    cluster: &Cluster,
    rejections: &BTreeMap<String, Rejection>,
) -> Result<(), &'static str> {
    if pod.never_preempts {
        return Err("not eligible due to preemptionPolicy=Never.");
    }
    if rejections
        .get(&pod.nominated)
        .is_some_and(|r| r.unresolvable)
    {
        return Ok(());
    }
    // Victims of an earlier preemption are still terminating.
    let waiting = cluster.nodes.get(&pod.nominated).is_some_and(|node| {
        node.pods
            .iter()
            .any(|p| p.deleting && p.preempted && p.priority < pod.priority)
    });
    if waiting {
        return Err("not eligible due to a terminating pod on the nominated node.");
    }
    Ok(())
}

/// Returns the best candidate, or the reasons for each node if there is none.
pub fn find(
    pod: &PodInfo,
    cluster: &Cluster,
    rejections: &BTreeMap<String, Rejection>,
) -> Result<Candidate, Against> {
    let mut against = Against::new();
    let mut candidates = Vec::new();
    for (name, node) in &cluster.nodes {
        if rejections.get(name).is_none_or(|r| r.unresolvable) {
            against.insert(name.clone(), vec![reasons::NOT_HELPFUL.into()]);
            continue;
        }
        match victims(pod, cluster, node) {
            Ok(candidate) => candidates.push(candidate),
            Err(reasons) => {
                against.insert(name.clone(), reasons);
            }
        }
    }
    best(candidates).ok_or(against)
}

fn check(pod: &PodInfo, cluster: &Cluster, node: &NodeInfo) -> Result<(), Rejection> {
    Prepared::new(pod, View::with(cluster, node))?.filter(node)
}

/// Returns the lower-priority pods to remove so that the pod fits, or the reasons why that cannot
/// help.
///
/// The choice is greedy, as upstream's: pods are put back one by one while the pod still fits.
fn victims(
    pod: &PodInfo,
    cluster: &Cluster,
    node: &NodeInfo,
) -> Result<Candidate, Vec<Cow<'static, str>>> {
    let mut trial = node.clone();
    let mut lesser: Vec<Arc<PodInfo>> = node
        .pods
        .iter()
        .filter(|p| p.priority < pod.priority)
        .cloned()
        .collect();
    if lesser.is_empty() {
        return Err(vec![reasons::NO_VICTIMS.into()]);
    }
    for p in &lesser {
        trial.remove(&p.uid);
    }
    check(pod, cluster, &trial).map_err(|rejection| rejection.reasons)?;
    // Reprieve as many pods as possible: those protected by a budget first, then the others, each
    // in descending order of importance.
    lesser.sort_by_key(|p| importance(p));
    let (guarded, others) = split_by_budgets(lesser, cluster);
    let mut gone = Vec::new();
    let mut violations = 0;
    for (group, is_guarded) in [(guarded, true), (others, false)] {
        for p in group {
            trial.add(Arc::clone(&p));
            if check(pod, cluster, &trial).is_err() {
                trial.remove(&p.uid);
                violations += usize::from(is_guarded);
                gone.push(p);
            }
        }
    }
    gone.sort_by_key(|p| importance(p));
    Ok(Candidate {
        node: node.name.clone(),
        victims: gone,
        violations,
    })
}

/// Returns a key that sorts higher priority first, then earlier start.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority), pod.started.unwrap_or(Timestamp::MAX))
}

/// Splits pods into those whose preemption would violate a budget, and the others.
fn split_by_budgets(
    pods: Vec<Arc<PodInfo>>,
    cluster: &Cluster,
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<(&Budget, i64)> = cluster.budgets.values().map(|b| (b, b.allowed)).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (budget, allowed) in &mut left {
            let guards = budget.namespace == pod.namespace
                && !pod.labels.is_empty()
                && !budget.selector.is_everything()
                && budget.selector.matches(&pod.labels)
                && !budget.disrupted.contains(&pod.name);
            if guards {
                *allowed = allowed.saturating_sub(1);
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

/// Returns the best candidate by, in this order: fewest budget violations, lowest highest priority
/// of the victims, lowest sum of priorities, fewest victims, latest start of the highest-priority
/// victims.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|c| {
        let highest = c.victims.iter().map(|v| v.priority).max();
        // Shift priorities to be non-negative, so that more victims never lower the sum.
        let sum: i64 = c
            .victims
            .iter()
            .map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1)
            .sum();
        let started = c
            .victims
            .iter()
            .filter(|v| Some(v.priority) == highest)
            .map(|v| v.started.unwrap_or(Timestamp::MAX))
            .min();
        (
            c.violations,
            highest,
            sum,
            c.victims.len(),
            Reverse(started),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use crate::plugins::node_resources_fit;
    use crate::plugins::types::Plugin;
    use rkube_component_helpers::label_selector::{Labels, Selector};

    fn placed(name: &str, cpu: &str, priority: i32, node: &str) -> Arc<PodInfo> {
        let labels: Labels = [("app".to_owned(), name.to_owned())].into();
        Arc::new(PodInfo {
            priority,
            node: node.into(),
            labels,
            ..asking(name, cpu)
        })
    }

    fn important(cpu: &str) -> PodInfo {
        PodInfo {
            priority: 100,
            ..asking("vip", cpu)
        }
    }

    fn rejections(pod: &PodInfo, c: &Cluster) -> BTreeMap<String, Rejection> {
        c.nodes
            .values()
            .filter_map(|n| {
                node_resources_fit::filter(pod, n)
                    .err()
                    .map(|r| (n.name.clone(), r))
            })
            .collect()
    }

    fn names(c: &Candidate) -> Vec<&str> {
        c.victims.iter().map(|v| v.name.as_str()).collect()
    }

    #[test]
    fn no_more_than_needed_go() {
        let mut c = Cluster::default();
        c.set_node(node("a"));
        for p in [
            placed("x", "2", 1, "a"),
            placed("y", "1", 5, "a"),
            placed("z", "1", 2, "a"),
        ] {
            c.set_pod(p);
        }
        let vip = important("1");
        let found = find(&vip, &c, &rejections(&vip, &c)).unwrap();
        // Removing the least important pod suffices.
        assert_eq!(names(&found), ["x"]);
    }

    #[test]
    fn the_cheaper_node() {
        let mut c = Cluster::default();
        c.set_node(node("a"));
        c.set_node(node("b"));
        c.set_pod(placed("x", "4", 9, "a"));
        c.set_pod(placed("y", "4", 3, "b"));
        let vip = important("1");
        assert_eq!(find(&vip, &c, &rejections(&vip, &c)).unwrap().node, "b");
    }

    #[test]
    fn budgets_are_minded() {
        let mut c = Cluster::default();
        c.set_node(node("a"));
        c.set_node(node("b"));
        c.set_pod(placed("x", "4", 1, "a"));
        c.set_pod(placed("y", "4", 3, "b"));
        let labels: Labels = [("app".to_owned(), "x".to_owned())].into();
        let guard = Budget {
            namespace: "default".into(),
            selector: Selector::from_labels(&labels),
            ..Budget::default()
        };
        c.budgets.insert(("default".into(), "b".into()), guard);
        let vip = important("1");
        let found = find(&vip, &c, &rejections(&vip, &c)).unwrap();
        assert_eq!((found.node.as_str(), found.violations), ("b", 0));
    }

    #[test]
    fn equals_are_left_alone() {
        let mut c = Cluster::default();
        c.set_node(node("a"));
        c.set_pod(placed("x", "4", 100, "a"));
        let vip = important("1");
        let against = find(&vip, &c, &rejections(&vip, &c)).unwrap_err();
        assert_eq!(against["a"], [reasons::NO_VICTIMS]);
        // Lesser pods are there, but the room of greater ones does not become free.
        c.set_pod(placed("y", "0", 1, "a"));
        let against = find(&vip, &c, &rejections(&vip, &c)).unwrap_err();
        assert_eq!(against["a"], ["Insufficient cpu"]);
        let hopeless = [(
            "a".to_owned(),
            Rejection::unresolvable(Plugin::NodeName, "x"),
        )]
        .into();
        assert_eq!(
            find(&vip, &c, &hopeless).unwrap_err()["a"],
            [reasons::NOT_HELPFUL]
        );
    }

    #[test]
    fn eligibility() {
        let mut c = Cluster::default();
        c.set_node(node("a"));
        let mut vip = important("1");
        let none = BTreeMap::new();
        assert!(eligible(&vip, &c, &none).is_ok());
        vip.nominated = "a".into();
        let leaving = PodInfo {
            deleting: true,
            preempted: true,
            ..(*placed("x", "1", 1, "a")).clone()
        };
        c.set_pod(Arc::new(leaving));
        assert!(eligible(&vip, &c, &none).is_err());
        let lost = Rejection::unresolvable(Plugin::NodeName, "x");
        assert!(eligible(&vip, &c, &[("a".to_owned(), lost)].into()).is_ok());
        vip.nominated.clear();
        vip.never_preempts = true;
        assert!(eligible(&vip, &c, &none).is_err());
    }
}
