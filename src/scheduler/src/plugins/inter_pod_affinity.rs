//! InterPodAffinity: places pods in or outside the topology domains of other pods.

use std::collections::HashMap;

use super::types::{MAX_SCORE, Plugin, Rejection};
use crate::cluster::View;
use crate::model::{AffinityTerm, NodeInfo, PodInfo};

/// Weight in scores of another pod's required affinity to this pod (upstream's
/// `hardPodAffinityWeight`).
const HARD_WEIGHT: i64 = 1;

/// Pod counts by topology domain: label key and value.
type Places<'a> = HashMap<(&'a str, &'a str), i64>;

/// Filter state that is computed once per pod.
pub struct Filter<'a> {
    pod: &'a PodInfo,
    /// Domains of existing pods whose required anti-affinity selects this pod.
    repelled: Places<'a>,
    /// Domains of pods that match all of this pod's required affinity terms.
    near: Places<'a>,
    /// Domains of pods that match one of this pod's required anti-affinity terms.
    apart: Places<'a>,
    /// Whether no pod matches the pod's affinity terms yet, but the pod itself does. Then the first
    /// pod of a group may run anywhere.
    near_itself: bool,
}

fn matches(term: &AffinityTerm, pod: &PodInfo, view: View<'_>) -> bool {
    term.matches(pod, view.cluster.namespaces.get(&pod.namespace))
}

fn place<'a>(term: &'a AffinityTerm, node: &'a NodeInfo) -> Option<(&'a str, &'a str)> {
    node.labels
        .get(&term.topology_key)
        .map(|value| (term.topology_key.as_str(), value.as_str()))
}

impl<'a> Filter<'a> {
    /// Computes the state. Visits all pods, unless neither this pod nor any placed pod has a
    /// relevant term.
    pub fn new(pod: &'a PodInfo, view: View<'a>) -> Self {
        let mut filter = Filter {
            pod,
            repelled: Places::new(),
            near: Places::new(),
            apart: Places::new(),
            near_itself: false,
        };
        let rules = &pod.affinity;
        let own_rules = !rules.near.is_empty() || !rules.apart.is_empty();
        if !own_rules && !view.cluster.any_repelling() {
            return filter;
        }
        for node in view.nodes() {
            for other in &node.pods {
                filter.count(other, node, view);
            }
        }
        filter.near_itself = filter.near.is_empty()
            && !rules.near.is_empty()
            && rules.near.iter().all(|term| matches(term, pod, view));
        filter
    }

    /// Counts a placed pod for the terms that concern it.
    fn count(&mut self, other: &'a PodInfo, node: &'a NodeInfo, view: View<'a>) {
        let pod = self.pod;
        let rules = &pod.affinity;
        for term in &other.affinity.apart {
            if let Some(place) = place(term, node)
                && matches(term, pod, view)
            {
                *self.repelled.entry(place).or_default() += 1;
            }
        }
        if rules.near.iter().all(|term| matches(term, other, view)) {
            for place in rules.near.iter().filter_map(|term| place(term, node)) {
                *self.near.entry(place).or_default() += 1;
            }
        }
        for term in &rules.apart {
            if let Some(place) = place(term, node)
                && matches(term, other, view)
            {
                *self.apart.entry(place).or_default() += 1;
            }
        }
    }

    /// Rejects the node if it violates affinity or anti-affinity of this pod or of existing pods.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let there = |places: &Places<'_>, term: &AffinityTerm| {
            node.labels.get(&term.topology_key).is_some_and(|value| {
                places.contains_key(&(term.topology_key.as_str(), value.as_str()))
            })
        };
        let rules = &self.pod.affinity;
        let labelled = rules
            .near
            .iter()
            .all(|term| node.labels.contains_key(&term.topology_key));
        let satisfied = rules.near.iter().all(|term| there(&self.near, term));
        if !rules.near.is_empty() && !(labelled && (satisfied || self.near_itself)) {
            return Err(Rejection::unresolvable(
                Plugin::InterPodAffinity,
                "node(s) didn't match pod affinity rules",
            ));
        }
        if rules.apart.iter().any(|term| there(&self.apart, term)) {
            return Err(Rejection::new(
                Plugin::InterPodAffinity,
                "node(s) didn't match pod anti-affinity rules",
            ));
        }
        let repelled = self
            .repelled
            .keys()
            .any(|(key, value)| node.labels.get(*key).is_some_and(|v| v == value));
        if repelled {
            return Err(Rejection::new(
                Plugin::InterPodAffinity,
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Ok(())
    }
}

/// Returns the nodes' scores: the weights of this pod's preferred terms and of existing pods' terms
/// about it.
pub fn scores(pod: &PodInfo, view: View<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
    let wishes = &pod.affinity;
    let own = !wishes.preferred_near.is_empty() || !wishes.preferred_apart.is_empty();
    if !own && !view.cluster.any_caring() {
        return vec![0; nodes.len()];
    }
    let mut worth: HashMap<(&str, &str), i64> = HashMap::new();
    for node in view.nodes() {
        for other in &node.pods {
            let mut add = |term, weight: i64, about: &PodInfo| {
                if let Some(place) = place(term, node)
                    && matches(term, about, view)
                {
                    *worth.entry(place).or_default() += weight;
                }
            };
            for w in &wishes.preferred_near {
                add(&w.term, w.weight, other);
            }
            for w in &wishes.preferred_apart {
                add(&w.term, -w.weight, other);
            }
            for term in &other.affinity.near {
                add(term, HARD_WEIGHT, pod);
            }
            for w in &other.affinity.preferred_near {
                add(&w.term, w.weight, pod);
            }
            for w in &other.affinity.preferred_apart {
                add(&w.term, -w.weight, pod);
            }
        }
    }
    if worth.is_empty() {
        return vec![0; nodes.len()];
    }
    let raw: Vec<i64> = nodes
        .iter()
        .map(|node| {
            worth
                .iter()
                .filter(|((key, value), _)| node.labels.get(*key).is_some_and(|v| v == value))
                .map(|(_, weight)| weight)
                .sum()
        })
        .collect();
    let min = raw.iter().copied().min().unwrap_or(0);
    let max = raw.iter().copied().max().unwrap_or(0);
    raw.into_iter()
        .map(|score| {
            if max == min {
                0
            } else {
                MAX_SCORE * (score - min) / (max - min)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::model::testing::*;
    use serde_json::{Value, json};

    const HOST: &str = "kubernetes.io/hostname";

    fn cluster() -> Cluster {
        let mut c = Cluster::default();
        for name in ["a", "b"] {
            c.set_node(node(name));
        }
        c
    }

    fn term(app: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": HOST})
    }

    fn ruled(name: &str, app: &str, kind: &str, about: &str) -> PodInfo {
        labelled(
            name,
            json!({"app": app}),
            json!({"affinity": {kind: {
            "requiredDuringSchedulingIgnoredDuringExecution": [term(about)]}}}),
        )
    }

    fn feasible(p: &PodInfo, c: &Cluster) -> Vec<String> {
        let f = Filter::new(p, View::of(c));
        c.nodes
            .values()
            .filter(|n| f.filter(n).is_ok())
            .map(|n| n.name.clone())
            .collect()
    }

    #[test]
    fn apart_from_its_own_kind() {
        let mut c = cluster();
        let p = ruled("p", "x", "podAntiAffinity", "x");
        assert_eq!(feasible(&p, &c), ["a", "b"]);
        c.assume(&ruled("1", "x", "podAntiAffinity", "x"), "a");
        assert_eq!(feasible(&p, &c), ["b"]);
    }

    #[test]
    fn others_keep_it_away() {
        let mut c = cluster();
        c.assume(&ruled("1", "y", "podAntiAffinity", "x"), "b");
        let p = labelled("p", json!({"app": "x"}), json!({}));
        assert_eq!(feasible(&p, &c), ["a"]);
        assert_eq!(
            feasible(&labelled("q", json!({"app": "z"}), json!({})), &c),
            ["a", "b"]
        );
    }

    #[test]
    fn near_others() {
        let mut c = cluster();
        let p = ruled("p", "x", "podAffinity", "y");
        assert!(feasible(&p, &c).is_empty());
        c.assume(&labelled("1", json!({"app": "y"}), json!({})), "b");
        assert_eq!(feasible(&p, &c), ["b"]);
        // The first pod of a group with affinity to itself may run anywhere.
        assert_eq!(
            feasible(&ruled("q", "x", "podAffinity", "x"), &c),
            ["a", "b"]
        );
    }

    #[test]
    fn wishes() {
        let mut c = cluster();
        c.assume(&labelled("1", json!({"app": "y"}), json!({})), "b");
        let p = |kind: &str| {
            labelled(
                "p",
                json!({}),
                json!({"affinity": {kind: {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "podAffinityTerm": term("y")}]}}}),
            )
        };
        let nodes: Vec<&NodeInfo> = c.nodes.values().collect();
        assert_eq!(scores(&p("podAffinity"), View::of(&c), &nodes), [0, 100]);
        assert_eq!(
            scores(&p("podAntiAffinity"), View::of(&c), &nodes),
            [100, 0]
        );
    }
}
