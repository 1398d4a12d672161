//! The scheduler's view of the cluster: the watched objects plus the pods assumed to be on the
//! nodes just chosen for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::devices::Devices;
use crate::model::{Key, NodeInfo, PodInfo};
use rkube_component_helpers::label_selector::{Labels, Selector};
use rkube_component_helpers::node_affinity::NodeTerm;

/// A persistent volume claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// Name of the volume it is bound to, or empty.
    pub volume: String,
    /// Whether the binding is complete.
    pub bound: bool,
    /// Whether the phase is `Lost`: its volume was deleted.
    pub lost: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Name of its storage class, if any.
    pub class: Option<String>,
    /// The node for which its volume is to be provisioned (annotation `selected-node`).
    pub selected_node: Option<String>,
    /// Access modes.
    pub modes: Vec<String>,
    /// Requested size in bytes.
    pub size: i64,
    /// `Filesystem` or `Block`.
    pub mode: String,
    /// Selects eligible volumes; empty selects all.
    pub selector: Selector,
    /// UID of the pod that owns an ephemeral claim.
    pub owner: Option<String>,
    /// `metadata.uid`.
    pub uid: String,
}

/// A persistent volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    /// `metadata.labels`.
    pub labels: Labels,
    /// Node affinity terms, of which one must match; `None` allows any node.
    pub node: Option<Vec<NodeTerm>>,
    /// Name of its storage class, or empty.
    pub class: String,
    /// Capacity in bytes.
    pub size: i64,
    /// Access modes.
    pub modes: Vec<String>,
    /// `Filesystem` or `Block`.
    pub mode: String,
    /// The claim that it is reserved for or bound to.
    pub claim: Option<Key>,
    /// UID of that claim, if known.
    pub claim_uid: Option<String>,
    /// `status.phase`.
    pub phase: String,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// A storage class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    /// Whether binding waits for the first consumer (`WaitForFirstConsumer`).
    pub waits: bool,
    /// Name of the provisioner.
    pub provisioner: String,
    /// Allowed topologies, of which one must match; empty allows any node.
    pub topologies: Vec<NodeTerm>,
}

/// A pod disruption budget.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    /// `metadata.namespace`.
    pub namespace: String,
    /// Selects the pods that the budget protects.
    pub selector: Selector,
    /// Number of disruptions that are currently allowed.
    pub allowed: i64,
    /// Names of evicted pods whose deletion is not observed yet; `allowed` accounts for them.
    pub disrupted: Vec<String>,
}

/// The scheduler's view of the cluster.
#[derive(Default)]
pub struct Cluster {
    /// Nodes by name. Pods of unknown nodes are in `strays`.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Pods on nodes that are not known (yet), by node name.
    strays: HashMap<String, Vec<Arc<PodInfo>>>,
    /// The node of each bound or assumed pod, by pod UID.
    placed: HashMap<String, String>,
    /// The assumed pods among these, by UID.
    assumed: HashMap<String, Arc<PodInfo>>,
    /// Pods with a nominated node, by UID: the node's name and the pod.
    pub nominated: HashMap<String, (String, Arc<PodInfo>)>,
    /// Labels of each namespace.
    pub namespaces: HashMap<String, Labels>,
    /// Claims by namespace and name.
    pub claims: HashMap<Key, Claim>,
    /// Resource claims and devices.
    pub devices: Devices,
    /// Persistent volumes by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Storage classes by name.
    pub classes: HashMap<String, Class>,
    /// Disruption budgets by namespace and name.
    pub budgets: HashMap<Key, Budget>,
    /// Selectors of services by namespace and name.
    pub services: HashMap<Key, Selector>,
    /// Selectors of replica sets and other pod owners, by kind, namespace and name.
    pub owners: HashMap<(&'static str, String, String), Selector>,
    /// Number of placed pods with required anti-affinity (`repelling`) and with other pod affinity
    /// terms (`caring`). If zero, inter-pod affinity need not visit all pods.
    repelling: usize,
    caring: usize,
}

impl Cluster {
    /// Adds or updates a node. The pods placed on it are kept.
    pub fn set_node(&mut self, mut node: NodeInfo) {
        match self.nodes.get_mut(&node.name) {
            Some(old) => {
                node.pods = std::mem::take(&mut old.pods);
                node.requested = std::mem::take(&mut old.requested);
                node.scored = std::mem::take(&mut old.scored);
                *old = node;
            }
            None => {
                for pod in self.strays.remove(&node.name).unwrap_or_default() {
                    node.add(pod);
                }
                self.nodes.insert(node.name.clone(), node);
            }
        }
    }

    /// Removes a node. Its pods are kept in `strays` until they are deleted.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name)
            && !node.pods.is_empty()
        {
            self.strays.insert(name.to_owned(), node.pods);
        }
    }

    /// Records a pod that the API server reports as bound.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.place(pod);
    }

    /// Assumes that the pod runs on `node` until the watch confirms it or [`Self::forget`] is
    /// called.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        self.remove_pod(&pod.uid);
        self.nominated.remove(&pod.uid);
        let pod = Arc::new(PodInfo {
            node: node.to_owned(),
            ..pod.clone()
        });
        self.assumed.insert(pod.uid.clone(), Arc::clone(&pod));
        self.place(pod);
    }

    /// Returns whether the pod is assumed and not yet confirmed by the watch.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains_key(uid)
    }

    /// Returns whether the pod is bound or assumed.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// Drops an assumed pod after its binding failed. A pod that the watch has confirmed in the
    /// meantime stays.
    pub fn forget(&mut self, uid: &str) {
        if self.assumed.contains_key(uid) {
            self.remove_pod(uid);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>) {
        self.placed.insert(pod.uid.clone(), pod.node.clone());
        self.repelling += usize::from(!pod.affinity.apart.is_empty());
        self.caring += usize::from(cares(&pod));
        match self.nodes.get_mut(&pod.node) {
            Some(node) => node.add(pod),
            None => self.strays.entry(pod.node.clone()).or_default().push(pod),
        }
    }

    /// Removes a pod and returns it, if it was placed.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.assumed.remove(uid);
        let node = self.placed.remove(uid)?;
        let pod = match self.nodes.get_mut(&node) {
            Some(node) => node.remove(uid),
            None => {
                let strays = self.strays.get_mut(&node)?;
                let at = strays.iter().position(|p| p.uid == uid)?;
                let pod = strays.swap_remove(at);
                if strays.is_empty() {
                    self.strays.remove(&node);
                }
                Some(pod)
            }
        }?;
        self.repelling -= usize::from(!pod.affinity.apart.is_empty());
        self.caring -= usize::from(cares(&pod));
        Some(pod)
    }

    /// Returns whether any placed pod has required anti-affinity terms.
    pub fn any_repelling(&self) -> bool {
        self.repelling > 0
    }

    /// Returns whether any placed pod has required affinity or preferred (anti-)affinity terms.
    pub fn any_caring(&self) -> bool {
        self.caring > 0
    }

    /// Returns the selector for the default spreading constraints: the conjunction of the selectors
    /// of the pod's services and of its owner. Returns `None` if there is neither.
    pub fn default_selector(&self, pod: &PodInfo) -> Option<Selector> {
        let mut all = Selector::default();
        for ((namespace, _), selector) in &self.services {
            if *namespace == pod.namespace
                && !selector.is_everything()
                && selector.matches(&pod.labels)
            {
                all.extend(selector);
            }
        }
        if let Some((kind, name)) = &pod.owner
            && let Some(kind) = ["ReplicaSet", "StatefulSet", "ReplicationController"]
                .into_iter()
                .find(|k| k == kind)
            && let Some(selector) = self
                .owners
                .get(&(kind, pod.namespace.clone(), name.clone()))
        {
            all.extend(selector);
        }
        (!all.is_everything()).then_some(all)
    }
}

fn cares(pod: &PodInfo) -> bool {
    let a = &pod.affinity;
    !(a.near.is_empty() && a.preferred_near.is_empty() && a.preferred_apart.is_empty())
}

/// The cluster, optionally with one node replaced by a hypothetical state.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The actual cluster.
    pub cluster: &'a Cluster,
    /// Replaces the node of the same name.
    pub instead: Option<&'a NodeInfo>,
}

impl<'a> View<'a> {
    /// Returns a view of the actual cluster.
    pub fn of(cluster: &'a Cluster) -> Self {
        View {
            cluster,
            instead: None,
        }
    }

    /// Returns a view in which `node` replaces the node of the same name.
    pub fn with(cluster: &'a Cluster, node: &'a NodeInfo) -> Self {
        View {
            cluster,
            instead: Some(node),
        }
    }

    /// Returns all nodes.
    pub fn nodes(self) -> impl Iterator<Item = &'a NodeInfo> {
        self.cluster
            .nodes
            .values()
            .map(move |node| match self.instead {
                Some(instead) if instead.name == node.name => instead,
                _ => node,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;

    #[test]
    fn assumed_until_confirmed_or_forgotten() {
        let mut c = Cluster::default();
        c.set_node(node("n"));
        let p = asking("p", "1");
        c.assume(&p, "n");
        assert!(c.is_assumed("p"));
        assert_eq!(c.nodes["n"].requested.milli_cpu, 1000);
        let confirmed = PodInfo {
            node: "n".into(),
            ..p.clone()
        };
        c.set_pod(Arc::new(confirmed));
        assert!(!c.is_assumed("p"));
        assert_eq!(c.nodes["n"].requested.milli_cpu, 1000);
        c.forget("p");
        assert!(c.is_placed("p"), "a confirmed pod is not forgotten");
        c.remove_pod("p");
        assert_eq!(c.nodes["n"].requested.milli_cpu, 0);
    }

    #[test]
    fn pods_may_come_before_their_node() {
        let mut c = Cluster::default();
        let p = PodInfo {
            node: "n".into(),
            ..asking("p", "1")
        };
        c.set_pod(Arc::new(p));
        c.set_node(node("n"));
        assert_eq!(c.nodes["n"].requested.milli_cpu, 1000);
        c.remove_node("n");
        assert!(c.remove_pod("p").is_some());
        c.set_node(node("n"));
        assert!(c.nodes["n"].pods.is_empty());
    }
}
