//! What the scheduler remembers of pods and nodes: only what decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, Node, Pod, PodAffinityTerm, Taint, Toleration};

use rkube_component_helpers::host_ports::{HostPort, host_ports};
use rkube_component_helpers::label_selector::{Labels, Selector};
use rkube_component_helpers::node_affinity::{NodeTerm, node_terms};

use crate::resources::{Resources, allowed_pods, pod_requests};

/// A namespaced name.
pub type Key = (String, String);

/// A term of inter-pod affinity, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityTerm {
    /// Which pods are meant.
    pub selector: Selector,
    /// In these namespaces,
    pub namespaces: BTreeSet<String>,
    /// and in those whose labels match.
    pub namespace_selector: Selector,
    /// The node label whose values are places.
    pub topology_key: String,
}

impl AffinityTerm {
    fn new(term: &PodAffinityTerm, namespace: &str) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        AffinityTerm {
            selector: Selector::new(term.label_selector.as_ref()),
            namespaces,
            namespace_selector: Selector::new(term.namespace_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Does the term mean the pod? `namespace_labels` are those of the pod's namespace.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: Option<&Labels>) -> bool {
        let empty = Labels::new();
        (self.namespaces.contains(&pod.namespace)
            || self
                .namespace_selector
                .matches(namespace_labels.unwrap_or(&empty)))
            && self.selector.matches(&pod.labels)
    }
}

/// A term with a weight, 1 to 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted<T> {
    /// The weight.
    pub weight: i64,
    /// The term.
    pub term: T,
}

/// A pod's wishes about other pods and nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Node terms one of which must match; `None` leaves every node.
    pub node: Option<Vec<NodeTerm>>,
    /// Node terms that would be nice.
    pub preferred_nodes: Vec<Weighted<NodeTerm>>,
    /// Pods it must be near.
    pub near: Vec<AffinityTerm>,
    /// Pods it must not be near.
    pub apart: Vec<AffinityTerm>,
    /// Pods it likes to be near.
    pub preferred_near: Vec<Weighted<AffinityTerm>>,
    /// Pods it likes to be away from.
    pub preferred_apart: Vec<Weighted<AffinityTerm>>,
}

/// A topology spread constraint, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// How uneven the places may be.
    pub max_skew: i64,
    /// The node label whose values are places.
    pub topology_key: String,
    /// A rule (`DoNotSchedule`), or a wish?
    pub hard: bool,
    /// Which pods count.
    pub selector: Selector,
    /// Fewer places than this count as empty ones.
    pub min_domains: i64,
    /// Do only nodes that the pod's own node rules allow count?
    pub honor_affinity: bool,
    /// Do only nodes whose taints the pod tolerates count?
    pub honor_taints: bool,
}

/// A volume that must not be on two nodes, or twice on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What it is, over all kinds of volumes.
    pub identity: String,
    /// Several readers may share it.
    pub read_only: bool,
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The claim's name, in the pod's namespace.
    pub name: String,
    /// Is it made for the pod, by its ephemeral volume?
    pub ephemeral: bool,
}

/// A pod as the scheduler knows it.
#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.priority`.
    pub priority: i32,
    /// `spec.schedulerName`.
    pub scheduler: String,
    /// The node it is bound to, or empty.
    pub node: String,
    /// The node it waits for after preemption, or empty.
    pub nominated: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it was started, for choosing victims.
    pub started: Option<Timestamp>,
    /// Is it being deleted?
    pub deleting: bool,
    /// Was it chosen as a victim of the scheduler's?
    pub preempted: bool,
    /// Gates that hold it back.
    pub gated: bool,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// What it takes.
    pub requests: Resources,
    /// What it counts for in scores.
    pub scored: Resources,
    /// Node labels it needs.
    pub node_selector: Labels,
    /// Wishes and rules about neighbours.
    pub affinity: Affinity,
    /// Taints it bears.
    pub tolerations: Vec<Toleration>,
    /// How it wants to be spread.
    pub spread: Vec<Spread>,
    /// Ports of the node it takes.
    pub host_ports: Vec<HostPort>,
    /// Images of its containers.
    pub images: Vec<String>,
    /// Containers, init containers included, for scaling image scores.
    pub container_count: usize,
    /// Claims it uses.
    pub claims: Vec<ClaimRef>,
    /// Disks it mounts directly.
    pub disks: Vec<Disk>,
    /// Its controller's kind and name.
    pub owner: Option<(String, String)>,
    /// The condition and message last reported, so as not to repeat them.
    pub condition: Option<(String, String)>,
}

impl PodInfo {
    /// Reads what decides from a pod.
    pub fn new(pod: Pod) -> Self {
        let meta = pod.metadata;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let namespace = meta.namespace.unwrap_or_default();
        let name = meta.name.unwrap_or_default();
        let labels = meta.labels.unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind);
        PodInfo {
            uid: meta.uid.unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            scheduler: spec.scheduler_name.clone().unwrap_or_default(),
            node: spec.node_name.clone().unwrap_or_default(),
            nominated: status.nominated_node_name.clone().unwrap_or_default(),
            created: meta.creation_timestamp.map(|t| t.0),
            started: status.start_time.as_ref().map(|t| t.0),
            deleting: meta.deletion_timestamp.is_some(),
            preempted: condition("DisruptionTarget").is_some_and(|c| {
                c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler")
            }),
            gated: spec
                .scheduling_gates
                .as_ref()
                .is_some_and(|g| !g.is_empty()),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            requests: pod_requests(&spec, Some(&status), false),
            scored: pod_requests(&spec, Some(&status), true),
            affinity: affinity(spec.affinity.as_ref(), &namespace),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|c| spread(c, &labels))
                .collect(),
            host_ports: host_ports(&spec).collect(),
            images: spec
                .containers
                .iter()
                .filter_map(|c| c.image.clone())
                .collect(),
            container_count: spec.containers.len()
                + spec.init_containers.as_ref().map_or(0, Vec::len),
            claims: claims(&spec, &name),
            disks: spec.volumes.iter().flatten().filter_map(disk).collect(),
            owner: meta
                .owner_references
                .into_iter()
                .flatten()
                .find(|o| o.controller == Some(true))
                .map(|o| (o.kind, o.name)),
            condition: condition("PodScheduled").map(|c| {
                (
                    c.reason.clone().unwrap_or_default(),
                    c.message.clone().unwrap_or_default(),
                )
            }),
            node_selector: spec.node_selector.unwrap_or_default(),
            tolerations: spec.tolerations.unwrap_or_default(),
            namespace,
            name,
            labels,
        }
    }

    /// Namespace and name.
    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

fn affinity(affinity: Option<&core::Affinity>, namespace: &str) -> Affinity {
    let Some(affinity) = affinity else {
        return Affinity::default();
    };
    let mut all = Affinity::default();
    if let Some(node) = &affinity.node_affinity {
        all.node = node
            .required_during_scheduling_ignored_during_execution
            .as_ref()
            .map(node_terms);
        all.preferred_nodes = node
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .map(|t| Weighted {
                weight: t.weight.into(),
                term: NodeTerm::new(&t.preference),
            })
            .collect();
    }
    let required = |terms: &Option<Vec<PodAffinityTerm>>| {
        terms
            .iter()
            .flatten()
            .map(|t| AffinityTerm::new(t, namespace))
            .collect()
    };
    let preferred = |terms: &Option<Vec<core::WeightedPodAffinityTerm>>| {
        terms
            .iter()
            .flatten()
            .map(|t| Weighted {
                weight: t.weight.into(),
                term: AffinityTerm::new(&t.pod_affinity_term, namespace),
            })
            .collect()
    };
    if let Some(near) = &affinity.pod_affinity {
        all.near = required(&near.required_during_scheduling_ignored_during_execution);
        all.preferred_near = preferred(&near.preferred_during_scheduling_ignored_during_execution);
    }
    if let Some(apart) = &affinity.pod_anti_affinity {
        all.apart = required(&apart.required_during_scheduling_ignored_during_execution);
        all.preferred_apart =
            preferred(&apart.preferred_during_scheduling_ignored_during_execution);
    }
    all
}

fn spread(constraint: &core::TopologySpreadConstraint, labels: &Labels) -> Spread {
    let mut selector = Selector::new(constraint.label_selector.as_ref());
    let own: Labels = constraint
        .match_label_keys
        .iter()
        .flatten()
        .filter_map(|key| labels.get_key_value(key))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    selector.extend(&Selector::from_labels(&own));
    Spread {
        max_skew: constraint.max_skew.into(),
        topology_key: constraint.topology_key.clone(),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: constraint.min_domains.unwrap_or(1).into(),
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn claims(spec: &core::PodSpec, pod: &str) -> Vec<ClaimRef> {
    spec.volumes
        .iter()
        .flatten()
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some(ClaimRef {
                name: claim.claim_name.clone(),
                ephemeral: false,
            }),
            (None, Some(_)) => Some(ClaimRef {
                name: format!("{pod}-{}", v.name),
                ephemeral: true,
            }),
            _ => None,
        })
        .collect()
}

fn disk(volume: &core::Volume) -> Option<Disk> {
    let make = |identity: String, read_only: Option<bool>| Disk {
        identity,
        read_only: read_only.unwrap_or(false),
    };
    if let Some(d) = &volume.gce_persistent_disk {
        return Some(make(format!("gce:{}", d.pd_name), d.read_only));
    }
    if let Some(d) = &volume.aws_elastic_block_store {
        // Not even readers may share one.
        return Some(make(format!("aws:{}", d.volume_id), None));
    }
    if let Some(d) = &volume.iscsi {
        return Some(make(format!("iscsi:{}", d.iqn), d.read_only));
    }
    volume.rbd.as_ref().map(|d| {
        make(
            format!(
                "rbd:{}:{}:{}",
                d.monitors.join(","),
                d.pool.as_deref().unwrap_or("rbd"),
                d.image
            ),
            d.read_only,
        )
    })
}

/// A node and what runs on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may take.
    pub allocatable: Resources,
    /// How many pods it may run.
    pub max_pods: i64,
    /// Bytes of each image it has, by each of its names.
    pub images: BTreeMap<String, i64>,
    /// What its pods take.
    pub requested: Resources,
    /// What its pods count for in scores.
    pub scored: Resources,
    /// Its pods, assumed ones included.
    pub pods: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    /// Reads what decides from a node; no pods yet.
    pub fn new(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let mut images = BTreeMap::new();
        for image in status.images.into_iter().flatten() {
            for name in image.names.into_iter().flatten() {
                images.insert(name, image.size_bytes.unwrap_or(0));
            }
        }
        NodeInfo {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: Resources::from_list(status.allocatable.as_ref()),
            max_pods: allowed_pods(status.allocatable.as_ref()),
            images,
            ..NodeInfo::default()
        }
    }

    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.pods.push(pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|p| p.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        Some(pod)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Pods and nodes for tests.

    use super::*;
    use serde_json::{Value, json};

    /// A pod of namespace `default`, from its spec.
    pub(crate) fn pod(name: &str, spec: Value) -> PodInfo {
        labelled(name, json!({}), spec)
    }

    /// A pod with labels.
    pub(crate) fn labelled(name: &str, labels: Value, mut spec: Value) -> PodInfo {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        let value = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec});
        PodInfo::new(serde_json::from_value(value).unwrap())
    }

    /// A pod that requests CPU.
    pub(crate) fn asking(name: &str, cpu: &str) -> PodInfo {
        pod(
            name,
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}),
        )
    }

    /// A node of four cores, 8 GiB and 110 pods, labelled with its name.
    pub(crate) fn node(name: &str) -> NodeInfo {
        node_with(name, json!({}), json!({}))
    }

    /// The same with labels and a spec.
    pub(crate) fn node_with(name: &str, mut labels: Value, spec: Value) -> NodeInfo {
        labels["kubernetes.io/hostname"] = json!(name);
        let value = json!({"metadata": {"name": name, "labels": labels}, "spec": spec,
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
        NodeInfo::new(serde_json::from_value(value).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    #[test]
    fn what_is_added_can_be_removed() {
        let mut n = node("n");
        n.add(Arc::new(asking("a", "1")));
        n.add(Arc::new(asking("b", "500m")));
        assert_eq!(n.requested.milli_cpu, 1500);
        assert!(n.remove("a").is_some());
        assert!(n.remove("a").is_none());
        assert_eq!(n.requested.milli_cpu, 500);
    }
}
