//! PodTopologySpread: spreads matching pods over nodes, zones or other topology domains.

use std::collections::HashMap;

use super::types::{MAX_SCORE, Plugin, Rejection};
use super::{node_affinity, taint_toleration};
use crate::cluster::View;
use crate::model::{NodeInfo, PodInfo, Spread};
use rkube_component_helpers::label_selector::Selector;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Returns whether the constraint counts pods on the node.
fn counts(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!constraint.honor_affinity || node_affinity::matches(pod, node))
        && (!constraint.honor_taints || taint_toleration::tolerates_all(pod, node))
}

/// Returns the number of pods on the node that match a constraint, without terminating pods.
fn count(selector: &Selector, namespace: &str, node: &NodeInfo) -> i64 {
    let n = node
        .pods
        .iter()
        .filter(|p| !p.deleting && p.namespace == namespace && selector.matches(&p.labels))
        .count();
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Filter state that is computed once per pod: the required constraints and the matching pods per
/// domain.
pub struct Filter<'a> {
    pod: &'a PodInfo,
    rules: Vec<(&'a Spread, HashMap<&'a str, i64>)>,
}

impl<'a> Filter<'a> {
    /// Counts the matching pods of every domain.
    pub fn new(pod: &'a PodInfo, view: View<'a>) -> Self {
        let rules: Vec<&Spread> = pod.spread.iter().filter(|s| s.hard).collect();
        let mut counted: Vec<(&Spread, HashMap<&str, i64>)> =
            rules.iter().map(|r| (*r, HashMap::new())).collect();
        // Nodes that lack one of the topology labels belong to no domain.
        let is_in_domains = |node: &&NodeInfo| {
            rules
                .iter()
                .all(|r| node.labels.contains_key(&r.topology_key))
        };
        let nodes = view.nodes().filter(is_in_domains);
        for node in nodes.take_while(|_| !rules.is_empty()) {
            for (rule, places) in counted
                .iter_mut()
                .filter(|(rule, _)| counts(rule, pod, node))
            {
                let place = node.labels[&rule.topology_key].as_str();
                *places.entry(place).or_default() += count(&rule.selector, &pod.namespace, node);
            }
        }
        Filter {
            pod,
            rules: counted,
        }
    }

    /// Rejects the node if the pod would violate a required constraint there.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        for (rule, places) in &self.rules {
            let Some(place) = node.labels.get(&rule.topology_key) else {
                return Err(Rejection::unresolvable(
                    Plugin::PodTopologySpread,
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let domains = i64::try_from(places.len()).unwrap_or(i64::MAX);
            let least = if domains < rule.min_domains {
                0
            } else {
                places.values().copied().min().unwrap_or(0)
            };
            let own = i64::from(rule.selector.matches(&self.pod.labels));
            let here = places.get(place.as_str()).copied().unwrap_or(0);
            if here + own - least > rule.max_skew {
                return Err(Rejection::new(
                    Plugin::PodTopologySpread,
                    "node(s) didn't match pod topology spread constraints",
                ));
            }
        }
        Ok(())
    }
}

/// Returns upstream's default constraints, which spread by hostname and zone.
fn system_defaults(selector: &Selector) -> Vec<Spread> {
    let wish = |max_skew, key: &str| Spread {
        max_skew,
        topology_key: key.to_owned(),
        hard: false,
        selector: selector.clone(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    vec![wish(3, HOSTNAME), wish(5, ZONE)]
}

/// Returns the nodes' scores: the fewer matching pods in a node's domains, the higher.
pub fn scores(pod: &PodInfo, view: View<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
    let own: Vec<Spread>;
    let (wishes, explicit): (Vec<&Spread>, bool) = if pod.spread.is_empty() {
        let Some(selector) = view.cluster.default_selector(pod) else {
            return vec![0; nodes.len()];
        };
        own = system_defaults(&selector);
        (own.iter().collect(), false)
    } else {
        (pod.spread.iter().filter(|s| !s.hard).collect(), true)
    };
    if wishes.is_empty() {
        return vec![0; nodes.len()];
    }
    // Nodes without a topology label of an explicit constraint score 0. The default constraints do
    // not require the labels, since a cluster may have no zones.
    let ignored = |node: &NodeInfo| {
        explicit
            && !wishes
                .iter()
                .all(|w| node.labels.contains_key(&w.topology_key))
    };
    let mut places: Vec<HashMap<&str, i64>> = vec![HashMap::new(); wishes.len()];
    for node in nodes.iter().filter(|n| !ignored(n)) {
        for (wish, places) in wishes.iter().zip(&mut places) {
            if let Some(place) = node.labels.get(&wish.topology_key) {
                places.entry(place).or_insert(0);
            }
        }
    }
    let weights: Vec<f64> = wishes
        .iter()
        .zip(&places)
        .map(|(wish, places)| {
            let size = if wish.topology_key == HOSTNAME {
                nodes.iter().filter(|n| !ignored(n)).count()
            } else {
                places.len()
            };
            (size as f64 + 2.0).ln()
        })
        .collect();
    for node in view.nodes() {
        if explicit && ignored(node) {
            continue;
        }
        for (wish, places) in wishes.iter().zip(&mut places) {
            if wish.topology_key == HOSTNAME || !counts(wish, pod, node) {
                continue;
            }
            if let Some(place) = node.labels.get(&wish.topology_key)
                && let Some(sum) = places.get_mut(place.as_str())
            {
                *sum += count(&wish.selector, &pod.namespace, node);
            }
        }
    }
    let raw: Vec<Option<i64>> = nodes
        .iter()
        .map(|node| {
            if ignored(node) {
                return None;
            }
            let mut score = 0.0;
            for ((wish, places), weight) in wishes.iter().zip(&places).zip(&weights) {
                let Some(place) = node.labels.get(&wish.topology_key) else {
                    continue;
                };
                let here = if wish.topology_key == HOSTNAME {
                    count(&wish.selector, &pod.namespace, node)
                } else {
                    places.get(place.as_str()).copied().unwrap_or(0)
                };
                score += here as f64 * weight + (wish.max_skew - 1) as f64;
            }
            Some(score.round() as i64)
        })
        .collect();
    let (Some(min), Some(max)) = (raw.iter().flatten().min(), raw.iter().flatten().max()) else {
        return vec![0; nodes.len()];
    };
    raw.iter()
        .map(|score| match score {
            None => 0,
            Some(_) if *max == 0 => MAX_SCORE,
            Some(score) => MAX_SCORE * (max + min - score) / max,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::model::testing::*;
    use serde_json::{Value, json};

    fn cluster() -> Cluster {
        let mut c = Cluster::default();
        for (name, zone) in [("a", "z1"), ("b", "z1"), ("c", "z2")] {
            c.set_node(node_with(
                name,
                json!({"topology.kubernetes.io/zone": zone}),
                json!({}),
            ));
        }
        c
    }

    fn spread(name: &str, key: &str, when: &str) -> PodInfo {
        labelled(
            name,
            json!({"app": "x"}),
            json!({"topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "x"}}}]}),
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
    fn skew_is_limited() {
        let mut c = cluster();
        let p = spread("p", ZONE, "DoNotSchedule");
        assert_eq!(feasible(&p, &c), ["a", "b", "c"]);
        c.assume(&spread("1", ZONE, "DoNotSchedule"), "a");
        assert_eq!(feasible(&p, &c), ["c"]);
        c.assume(&spread("2", ZONE, "DoNotSchedule"), "c");
        assert_eq!(feasible(&p, &c), ["a", "b", "c"]);
    }

    #[test]
    fn nodes_without_the_label_are_out() {
        let mut c = cluster();
        c.set_node(node("d"));
        assert_eq!(
            feasible(&spread("p", ZONE, "DoNotSchedule"), &c),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn too_few_domains_count_as_empty() {
        let mut c = cluster();
        let mut p = spread("p", ZONE, "DoNotSchedule");
        p.spread[0].min_domains = 3;
        c.assume(&spread("1", ZONE, "DoNotSchedule"), "a");
        c.assume(&spread("2", ZONE, "DoNotSchedule"), "c");
        assert!(feasible(&p, &c).is_empty());
    }

    #[test]
    fn wishes_prefer_emptier_places() {
        let mut c = cluster();
        c.assume(&spread("1", ZONE, "ScheduleAnyway"), "a");
        let nodes: Vec<&NodeInfo> = c.nodes.values().collect();
        let s = scores(&spread("p", ZONE, "ScheduleAnyway"), View::of(&c), &nodes);
        assert_eq!(s[0], s[1]);
        assert!(s[2] > s[0]);
    }

    #[test]
    fn replicas_are_spread_by_default() {
        let mut c = cluster();
        let labels = json!({"app": "x"});
        let replica = |name: &str, labels: &Value| {
            let mut p = labelled(name, labels.clone(), json!({}));
            p.owner = Some(("ReplicaSet".into(), "rs".into()));
            p
        };
        let selector =
            Selector::from_labels(&rkube_component_helpers::label_selector::Labels::from([(
                "app".to_owned(),
                "x".to_owned(),
            )]));
        c.owners
            .insert(("ReplicaSet", "default".into(), "rs".into()), selector);
        c.assume(&replica("1", &labels), "a");
        let nodes: Vec<&NodeInfo> = c.nodes.values().collect();
        let s = scores(&replica("p", &labels), View::of(&c), &nodes);
        assert!(s[2] > s[1] && s[1] > s[0], "{s:?}");
        assert_eq!(
            scores(&pod("lone", json!({})), View::of(&c), &nodes),
            [0, 0, 0]
        );
    }
}
