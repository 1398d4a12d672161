//! Decides which nodes get a pod of a daemon set and which pods are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use rkube_component_helpers::{label_selector, node_affinity, tolerations};

use crate::common::{intstr, pod_control, pods, revisions};

/// Label for old clients; set only if the set has the annotation [`GENERATION`].
const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";

/// The pods to create and delete.
#[derive(Debug, Default)]
pub struct Plan {
    /// Names of nodes that get a pod.
    pub create: Vec<String>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
}

impl Plan {
    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

/// Returns whether the node's update can change which daemon pods it gets.
pub fn node_matters(old: &Node, new: &Node) -> bool {
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

/// Returns the tolerations added to every daemon pod, so that it keeps running when its node has
/// problems.
fn tolerations(host_network: bool) -> Vec<Toleration> {
    let mut all = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if host_network {
        all.push(("network-unavailable", "NoSchedule"));
    }
    all.into_iter()
        .map(|(key, effect)| Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        })
        .collect()
}

fn all_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    for added in tolerations(spec.host_network == Some(true)) {
        all.retain(|given| {
            (&given.key, &given.effect, &given.operator, &given.value)
                != (&added.key, &added.effect, &added.operator, &added.value)
        });
        all.push(added);
    }
    all
}

/// Returns whether the node should get a pod, and whether an existing pod may stay.
pub fn fits(template: &PodTemplateSpec, node: &Node) -> (bool, bool) {
    let Some(spec) = template.spec.as_ref() else {
        return (false, false);
    };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let pinned = spec.node_name.as_deref().unwrap_or_default();
    let labels = label_selector::labels_or_empty(node.metadata.labels.as_ref());
    if !pinned.is_empty() && pinned != name || !node_affinity::pod_matches_node(spec, name, labels)
    {
        return (false, false);
    }
    let tolerations = all_tolerations(spec);
    let untolerated = |effects: &[&str]| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        taints
            .into_iter()
            .flatten()
            .filter(|taint| effects.contains(&taint.effect.as_str()))
            .any(|taint| {
                !tolerations
                    .iter()
                    .any(|toleration| tolerations::tolerates_taint(toleration, taint))
            })
    };
    if untolerated(&["NoSchedule", "NoExecute"]) {
        return (false, !untolerated(&["NoExecute"]));
    }
    (true, true)
}

/// Returns the node of a daemon pod: the one it is bound to, or the one that its affinity names.
pub fn target_node(pod: &Pod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod
        .spec
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten())
        .find(|field| field.key == "metadata.name" && field.operator == "In")
        .and_then(|field| field.values.as_ref()?.first())
        .map(String::as_str)
}

/// Returns the revision hash in the pod's labels.
pub fn hash_of(pod: &Pod) -> Option<&str> {
    pod.metadata
        .labels
        .as_ref()?
        .get(revisions::POD_LABEL)
        .map(String::as_str)
}

/// Returns the pod for a node. Node affinity restricts it to that node, and the scheduler binds it.
pub fn pod_for(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template = set
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    let mut pod = pod_control::from_template(set, &template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(revisions::POD_LABEL.into(), hash.to_owned());
    let annotations = set.metadata.annotations.as_ref();
    if let Some(generation) = annotations.and_then(|annotations| annotations.get(GENERATION)) {
        labels.insert(GENERATION_LABEL.into(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(all_tolerations(spec));
    let affinity = spec
        .affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    pod
}

fn by_node(owned: &[Arc<Pod>]) -> BTreeMap<&str, Vec<&Arc<Pod>>> {
    let mut map: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in owned {
        if let Some(node) = target_node(pod) {
            map.entry(node).or_default().push(pod);
        }
    }
    for pods in map.values_mut() {
        pods.sort_by_key(|pod| {
            let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (made, pod.metadata.name.clone())
        });
    }
    map
}

fn template(set: &DaemonSet) -> PodTemplateSpec {
    set.spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default()
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0)
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Decides which nodes lack a pod, and which pods are surplus or on the wrong node.
pub fn manage(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    owned: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let template = template(set);
    let on = by_node(owned);
    let surges = rolls(set) && bounds(set, nodes).0 > 0;
    let mut plan = Plan::default();
    for node in nodes {
        let (should, may_stay) = fits(&template, node);
        let here = on.get(name(node)).map(Vec::as_slice).unwrap_or_default();
        if should && here.is_empty() {
            plan.create.push(name(node).to_owned());
        } else if may_stay {
            let (ended, running): (Vec<_>, Vec<_>) = here
                .iter()
                .copied()
                .filter(|pod| !pods::is_deleting(pod))
                .partition(|pod| pods::is_terminal(pod));
            plan.delete.extend(ended.into_iter().cloned());
            if surges {
                plan.delete
                    .extend(surplus_of_surge(set, hash, &running, now));
            } else {
                plan.delete.extend(running.into_iter().skip(1).cloned());
            }
        } else {
            plan.delete.extend(
                here.iter()
                    .filter(|pod| !pods::is_deleting(pod))
                    .map(|pod| (*pod).clone()),
            );
        }
    }
    // Unbound pods for deleted nodes can never be scheduled.
    for (node, pods) in on {
        if !nodes.iter().any(|known| name(known) == node) {
            let waiting = pods
                .into_iter()
                .filter(|pod| pods::node_name(pod).is_empty());
            plan.delete
                .extend(waiting.filter(|pod| !pods::is_deleting(pod)).cloned());
        }
    }
    plan
}

/// Returns the surplus pods of a node during an update with surge.
///
/// The node may have one old and one new pod: the oldest of each is kept, and the old one only
/// until the new one is available.
fn surplus_of_surge(
    set: &DaemonSet,
    hash: &str,
    running: &[&Arc<Pod>],
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running
        .iter()
        .copied()
        .partition(|pod| hash_of(pod) == Some(hash));
    let mut surplus: Vec<Arc<Pod>> = new
        .iter()
        .skip(1)
        .chain(old.iter().skip(1))
        .map(|pod| (*pod).clone())
        .collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && pods::is_available(new, min_ready(set), now)
    {
        surplus.push((*old).clone());
    }
    surplus
}

/// Returns whether pods are replaced when the template changes (strategy `RollingUpdate`).
pub fn rolls(set: &DaemonSet) -> bool {
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    strategy
        .and_then(|strategy| strategy.type_.as_deref())
        .unwrap_or("RollingUpdate")
        == "RollingUpdate"
}

/// Returns `maxSurge` and `maxUnavailable` as numbers of nodes.
fn bounds(set: &DaemonSet, nodes: &[Arc<Node>]) -> (usize, usize) {
    let template = template(set);
    let desired = nodes.iter().filter(|node| fits(&template, node).0).count() as i32;
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    let rolling: RollingUpdateDaemonSet = strategy
        .and_then(|strategy| strategy.rolling_update.clone())
        .unwrap_or_default();
    let scaled = |value: Option<IntOrString>, default| {
        let value = value.unwrap_or(IntOrString::Int(default));
        usize::try_from(intstr::scaled(&value, desired, true)).unwrap_or(0)
    };
    let surge = scaled(rolling.max_surge, 0);
    let unavailable = scaled(rolling.max_unavailable, 1);
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

/// Decides the next step of replacing pods of older templates.
pub fn roll(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    owned: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let (surge, unavailable) = bounds(set, nodes);
    let template = template(set);
    let on = by_node(owned);
    let available = |pod: &Pod| pods::is_available(pod, min_ready(set), now);
    let mut plan = Plan::default();
    let (mut down, mut surging) = (0, 0);
    let mut candidates: Vec<Arc<Pod>> = Vec::new();
    let mut candidate_nodes: Vec<String> = Vec::new();
    for node in nodes {
        let here = on.get(name(node)).map(Vec::as_slice).unwrap_or_default();
        if here.is_empty() && !fits(&template, node).0 {
            continue;
        }
        let running = || {
            here.iter()
                .copied()
                .filter(|pod| !pods::is_deleting(pod) && !pods::is_terminal(pod))
        };
        let new = running().find(|pod| hash_of(pod) == Some(hash));
        let old = running().find(|pod| hash_of(pod) != Some(hash));
        if surge > 0 {
            match (new, old) {
                (None, Some(old)) if !available(old) => plan.create.push(name(node).to_owned()),
                (None, Some(_)) => candidate_nodes.push(name(node).to_owned()),
                (Some(new), Some(old)) if available(new) => plan.delete.push(old.clone()),
                (Some(_), Some(_)) => surging += 1,
                _ => {}
            }
            continue;
        }
        match (new, old) {
            (Some(new), _) => down += usize::from(!available(new)),
            (None, None) => down += 1,
            (None, Some(old)) if !available(old) => {
                down += 1;
                plan.delete.push(old.clone()); // replacing it costs no availability
            }
            (None, Some(old)) => candidates.push(old.clone()),
        }
    }
    plan.delete.extend(
        candidates
            .into_iter()
            .take(unavailable.saturating_sub(down)),
    );
    plan.create.extend(
        candidate_nodes
            .into_iter()
            .take(surge.saturating_sub(surging)),
    );
    plan
}

/// Returns the status of a set that owns these pods.
pub fn status(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    owned: &[Arc<Pod>],
    now: Timestamp,
) -> DaemonSetStatus {
    let template = template(set);
    let on = by_node(owned);
    let old = set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..Default::default()
    };
    let (mut available, mut updated) = (0, 0);
    for node in nodes {
        let (should, _) = fits(&template, node);
        let here = on.get(name(node)).map(Vec::as_slice).unwrap_or_default();
        if !should {
            status.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        // If there are several pods, report an active one, and the oldest of those.
        let Some(pod) = here.iter().min_by_key(|pod| !pods::is_active(pod)) else {
            continue;
        };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(pod));
        available += i32::from(pods::is_available(pod, min_ready(set), now));
        updated += i32::from(hash_of(pod) == Some(hash));
    }
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    status.updated_number_scheduled = Some(updated);
    // The API server omits zeros, so that the comparison with the stored status works.
    for number in [
        &mut status.number_available,
        &mut status.number_unavailable,
        &mut status.updated_number_scheduled,
    ] {
        if *number == Some(0) {
            *number = None;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::api::apps::v1::DaemonSetSpec;
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn set() -> DaemonSet {
        DaemonSet {
            metadata: ObjectMeta {
                name: Some("ds".into()),
                ..Default::default()
            },
            spec: Some(DaemonSetSpec {
                template: PodTemplateSpec {
                    spec: Some(PodSpec::default()),
                    ..Default::default()
                },
                ..Default::default()
            }),
            status: None,
        }
    }

    fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
        Arc::new(Node {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                taints: taint.map(|(key, effect)| {
                    vec![Taint {
                        key: key.into(),
                        effect: effect.into(),
                        ..Default::default()
                    }]
                }),
                ..Default::default()
            }),
            status: None,
        })
    }

    fn daemon(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let mut pod = pod(name, node, "Running", ready.then_some(1));
        pod.metadata.labels = Some([(revisions::POD_LABEL.to_owned(), hash.to_owned())].into());
        Arc::new(pod)
    }

    #[test]
    fn nodes_that_fit_get_a_pod() {
        let nodes = [
            node("a", None),
            node("b", Some(("dedicated", "NoSchedule"))),
            node(
                "c",
                Some(("node.kubernetes.io/unschedulable", "NoSchedule")),
            ),
            node("d", Some(("dedicated", "NoExecute"))),
        ];
        let owned = [daemon("p1", "b", "h", true), daemon("p2", "d", "h", true)];
        let plan = manage(&set(), "h", &nodes, &owned, at(9));
        assert_eq!(plan.create, ["a", "c"]);
        assert_eq!(plan.delete.len(), 1); // b's may stay, d's must go
        assert_eq!(plan.delete[0].metadata.name.as_deref(), Some("p2"));
        let status = status(&set(), "h", &nodes, &owned, at(9));
        assert_eq!(
            (status.desired_number_scheduled, status.number_misscheduled),
            (2, 2)
        );
    }

    #[test]
    fn a_pod_is_pinned_to_its_node() {
        let pod = pod_for(&set(), "h", "a");
        assert_eq!(target_node(&pod), Some("a"));
        assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
    }

    #[test]
    fn rolling_keeps_its_bounds() {
        let nodes = [node("a", None), node("b", None), node("c", None)];
        let owned = [
            daemon("p1", "a", "old", true),
            daemon("p2", "b", "old", true),
            daemon("p3", "c", "new", true),
        ];
        let plan = roll(&set(), "new", &nodes, &owned, at(9));
        assert_eq!((plan.create.len(), plan.delete.len()), (0, 1));
        let owned = [
            daemon("p1", "a", "old", true),
            daemon("p2", "b", "new", false),
            daemon("p3", "c", "new", true),
        ];
        assert!(roll(&set(), "new", &nodes, &owned, at(9)).is_empty());
        let owned = [
            daemon("p1", "a", "old", false),
            daemon("p2", "b", "old", false),
        ];
        assert_eq!(roll(&set(), "new", &nodes, &owned, at(9)).delete.len(), 2);
    }

    #[test]
    fn a_surge_makes_the_new_pod_first() {
        let mut set = set();
        set.spec.as_mut().unwrap().update_strategy =
            Some(k8s_openapi::api::apps::v1::DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            });
        let nodes = [node("a", None), node("b", None)];
        let owned = [
            daemon("p1", "a", "old", true),
            daemon("p2", "b", "old", true),
        ];
        assert_eq!(roll(&set, "new", &nodes, &owned, at(9)).create, ["a"]);
        let owned = [
            daemon("p1", "a", "old", true),
            daemon("p3", "a", "new", true),
            daemon("p2", "b", "old", true),
        ];
        let plan = manage(&set, "new", &nodes, &owned, at(9));
        assert_eq!(plan.delete[0].metadata.name.as_deref(), Some("p1"));
    }

    #[test]
    fn any_numbers_can_be_planned_with() {
        let object = serde_json::json!({
            "metadata": {"name": "ds", "generation": 1},
            "spec": {
                "minReadySeconds": 1, "revisionHistoryLimit": 1, "selector": {},
                "template": {"spec": {"containers": [], "priority": 1, "tolerations": [
                    {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
                ]}},
                "updateStrategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            },
            "status": {"currentNumberScheduled": 1, "desiredNumberScheduled": 1, "numberReady": 1,
                "numberMisscheduled": 1, "collisionCount": 1},
        });
        let nodes = [node("a", None), node("b", Some(("x", "NoExecute")))];
        let owned = [
            daemon("p1", "a", "old", true),
            daemon("p2", "b", "new", true),
        ];
        crate::common::extremes::each(&object, |set: &DaemonSet| {
            manage(set, "new", &nodes, &owned, at(9));
            roll(set, "new", &nodes, &owned, at(9));
            status(set, "new", &nodes, &owned, at(9));
        });
    }
}
