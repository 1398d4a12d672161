//! The scheduler's representation of pods and nodes: only the fields that affect scheduling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, Node, Pod, PodAffinityTerm, Taint, Toleration};

use rkube_component_helpers::host_ports::{HostPort, host_ports};
use rkube_component_helpers::label_selector::{Labels, Selector};
use rkube_component_helpers::node_affinity::{NodeTerm, node_terms};

use crate::resources::{Resources, allowed_pods, pod_requests};

/// The namespace and name of an object.
pub type Key = (String, String);

/// A compiled inter-pod affinity term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityTerm {
    /// Selects pods by label.
    pub selector: Selector,
    /// Names of namespaces whose pods may match,
    pub namespaces: BTreeSet<String>,
    /// in addition to namespaces whose labels match this selector.
    pub namespace_selector: Selector,
    /// The node label whose values define the topology domains.
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

    /// Returns whether the term selects the pod. `namespace_labels` are the labels of the pod's
    /// namespace.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: Option<&Labels>) -> bool {
        let empty = Labels::new();
        (self.namespaces.contains(&pod.namespace)
            || self
                .namespace_selector
                .matches(namespace_labels.unwrap_or(&empty)))
            && self.selector.matches(&pod.labels)
    }
}

/// A term with a weight of 1 to 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted<T> {
    /// The weight.
    pub weight: i64,
    /// The term.
    pub term: T,
}

/// A pod's node and inter-pod affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Required node terms, of which one must match; `None` allows any node.
    pub node: Option<Vec<NodeTerm>>,
    /// The nodes that the required terms name. `None` if a term names none: it may match any node.
    pub named: Option<BTreeSet<String>>,
    /// Preferred node terms.
    pub preferred_nodes: Vec<Weighted<NodeTerm>>,
    /// Required pod affinity terms.
    pub near: Vec<AffinityTerm>,
    /// Required pod anti-affinity terms.
    pub apart: Vec<AffinityTerm>,
    /// Preferred pod affinity terms.
    pub preferred_near: Vec<Weighted<AffinityTerm>>,
    /// Preferred pod anti-affinity terms.
    pub preferred_apart: Vec<Weighted<AffinityTerm>>,
}

/// A compiled topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Maximum difference in matching pods between a domain and the least populated one.
    pub max_skew: i64,
    /// The node label whose values define the topology domains.
    pub topology_key: String,
    /// Whether the constraint is required (`DoNotSchedule`) rather than preferred.
    pub hard: bool,
    /// Selects the pods that are counted.
    pub selector: Selector,
    /// If there are fewer domains than this, the global minimum counts as 0.
    pub min_domains: i64,
    /// Whether to count only nodes that match the pod's node selector and affinity.
    pub honor_affinity: bool,
    /// Whether to count only nodes whose taints the pod tolerates.
    pub honor_taints: bool,
}

/// A disk that pods on the same node may share only if all of them mount it read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Identifies the disk across all volume types.
    pub identity: String,
    /// Whether the mount is read-only, so that it may be shared with other read-only mounts.
    pub read_only: bool,
}

/// A reference from a pod to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The claim's name; its namespace is the pod's.
    pub name: String,
    /// Whether the claim belongs to an ephemeral volume of the pod.
    pub ephemeral: bool,
}

/// The fields of a pod that affect scheduling.
#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.priority`.
    pub priority: i32,
    /// `spec.schedulerName`.
    pub scheduler: String,
    /// Name of the node that the pod is bound to, or empty.
    pub node: String,
    /// Name of the nominated node, where preemption is freeing resources, or empty.
    pub nominated: String,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `status.startTime`, used to rank preemption victims.
    pub started: Option<Timestamp>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether the scheduler has chosen it as a preemption victim.
    pub preempted: bool,
    /// Whether it has scheduling gates.
    pub gated: bool,
    /// Whether the preemption policy is `Never`.
    pub never_preempts: bool,
    /// Effective requests, checked against what nodes can allocate.
    pub requests: Resources,
    /// Effective requests with defaults for missing ones, used in scores.
    pub scored: Resources,
    /// `spec.nodeSelector`.
    pub node_selector: Labels,
    /// Node and inter-pod affinity.
    pub affinity: Affinity,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
    /// Host ports of its containers.
    pub host_ports: Vec<HostPort>,
    /// Images of its containers, init containers and image volumes.
    pub images: Vec<String>,
    /// Claims that its volumes refer to.
    pub claims: Vec<ClaimRef>,
    /// Its claims of devices.
    pub device_claims: Vec<DeviceClaimRef>,
    /// Disks that its volumes refer to directly, without a claim.
    pub disks: Vec<Disk>,
    /// Kind and name of its controller.
    pub owner: Option<(String, String)>,
    /// Types of its conditions, in order.
    pub condition_types: Vec<String>,
    /// Reason and message of the `PodScheduled` condition, used to skip updates without a change.
    pub condition: Option<(String, String)>,
}

impl PodInfo {
    /// Extracts the relevant fields of a pod.
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
            generation: meta.generation,
            resource_version: meta.resource_version,
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
            images: images(&spec),
            claims: claims(&spec, &name),
            device_claims: device_claims(&spec, &status),
            disks: spec.volumes.iter().flatten().filter_map(disk).collect(),
            owner: meta
                .owner_references
                .into_iter()
                .flatten()
                .find(|o| o.controller == Some(true))
                .map(|o| (o.kind, o.name)),
            condition_types: status
                .conditions
                .iter()
                .flatten()
                .map(|c| c.type_.clone())
                .collect(),
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

    /// Returns the namespace and name.
    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

/// Returns the image of each container, init container and image volume.
fn images(spec: &core::PodSpec) -> Vec<String> {
    let inits = spec.init_containers.iter().flatten();
    let containers = inits.chain(&spec.containers).map(|c| c.image.as_ref());
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.filter_map(|v| Some(v.image.as_ref()?.reference.as_ref()));
    containers
        .chain(volumes)
        .map(|image| image.cloned().unwrap_or_default())
        .collect()
}

/// Returns the nodes that all terms of a selector name, `None` if one of them names none.
fn named_nodes(selector: &core::NodeSelector) -> Option<BTreeSet<String>> {
    if selector.node_selector_terms.is_empty() {
        return None;
    }
    let of_term = |term: &core::NodeSelectorTerm| {
        term.match_fields
            .iter()
            .flatten()
            .filter(|field| field.key == "metadata.name" && field.operator == "In")
            .map(|field| field.values.iter().flatten().cloned().collect())
            .reduce(|a: BTreeSet<String>, b| &a & &b)
    };
    let names: Option<Vec<BTreeSet<String>>> =
        selector.node_selector_terms.iter().map(of_term).collect();
    Some(names?.into_iter().flatten().collect())
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
        all.named = node
            .required_during_scheduling_ignored_during_execution
            .as_ref()
            .and_then(named_nodes);
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

/// A claim of devices that a pod refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceClaimRef {
    /// The claim of this name.
    Named(String),
    /// The claim of this name, which was made for the pod from a template.
    Generated(String),
    /// A claim that is to be made from a template.
    NotCreated,
    /// None: the template did not need one.
    NotNeeded,
}

fn device_claims(spec: &core::PodSpec, status: &core::PodStatus) -> Vec<DeviceClaimRef> {
    let made = status
        .resource_claim_statuses
        .as_deref()
        .unwrap_or_default();
    let wanted = spec.resource_claims.iter().flatten();
    wanted
        .map(|claim| match &claim.resource_claim_name {
            Some(name) => DeviceClaimRef::Named(name.clone()),
            None => match made.iter().find(|made| made.name == claim.name) {
                None => DeviceClaimRef::NotCreated,
                Some(made) => match &made.resource_claim_name {
                    Some(name) => DeviceClaimRef::Generated(name.clone()),
                    None => DeviceClaimRef::NotNeeded,
                },
            },
        })
        .collect()
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
        // Even read-only mounts may not share an EBS volume.
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

/// The relevant fields of a node and the pods on it.
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
    /// Allocatable resources.
    pub allocatable: Resources,
    /// Maximum number of pods.
    pub max_pods: i64,
    /// Size in bytes of each image on the node, by each of the image's names.
    pub images: BTreeMap<String, i64>,
    /// Sum of the pods' effective requests.
    pub requested: Resources,
    /// Sum of the pods' requests as used in scores.
    pub scored: Resources,
    /// Bound and assumed pods.
    pub pods: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    /// Extracts the relevant fields of a node. The result has no pods.
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

    /// Adds a pod and its requests.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.pods.push(pod);
    }

    /// Removes a pod and its requests; returns the pod, if it was on the node.
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

    /// Returns a pod in namespace `default` with this spec.
    pub(crate) fn pod(name: &str, spec: Value) -> PodInfo {
        labelled(name, json!({}), spec)
    }

    /// Returns a pod with labels.
    pub(crate) fn labelled(name: &str, labels: Value, mut spec: Value) -> PodInfo {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        let value = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec});
        PodInfo::new(serde_json::from_value(value).unwrap())
    }

    /// Returns a pod that requests an amount of CPU.
    pub(crate) fn asking(name: &str, cpu: &str) -> PodInfo {
        pod(
            name,
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}),
        )
    }

    /// Returns a node with four cores, 8 GiB and 110 pods, labelled with its hostname.
    pub(crate) fn node(name: &str) -> NodeInfo {
        node_with(name, json!({}), json!({}))
    }

    /// Returns the same node with labels and a spec.
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
