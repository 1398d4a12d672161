//! The scheduler's picture of the cluster: what the watches say, plus the pods
//! it assumes to be where it just put them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Key, NodeInfo, PodInfo};
use rkube_component_helpers::label_selector::{Labels, Selector};
use rkube_component_helpers::node_affinity::NodeTerm;

/// A persistent volume claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// The volume it is bound to, or empty.
    pub volume: String,
    /// Is the binding complete?
    pub bound: bool,
    /// `Lost`: its volume is gone.
    pub lost: bool,
    /// Is it being deleted?
    pub deleting: bool,
    /// Its class; `None` when it names none.
    pub class: Option<String>,
    /// The node its volume shall be made for.
    pub selected_node: Option<String>,
    /// Access modes.
    pub modes: Vec<String>,
    /// Bytes.
    pub size: i64,
    /// `Filesystem` or `Block`.
    pub mode: String,
    /// Which volumes it takes; everything when it does not say.
    pub selector: Selector,
    /// The pod an ephemeral claim was made for, by UID.
    pub owner: Option<String>,
    /// `metadata.uid`.
    pub uid: String,
}

/// A persistent volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    /// `metadata.labels`.
    pub labels: Labels,
    /// Node terms one of which must match; `None`: any node.
    pub node: Option<Vec<NodeTerm>>,
    /// Its class, empty for none.
    pub class: String,
    /// Bytes.
    pub size: i64,
    /// Access modes.
    pub modes: Vec<String>,
    /// `Filesystem` or `Block`.
    pub mode: String,
    /// The claim it is meant for or bound to.
    pub claim: Option<Key>,
    /// The claim's UID, when it is known.
    pub claim_uid: Option<String>,
    /// `status.phase`.
    pub phase: String,
    /// Is it being deleted?
    pub deleting: bool,
}

/// A storage class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    /// Is binding put off until a pod is scheduled?
    pub waits: bool,
    /// Who makes volumes.
    pub provisioner: String,
    /// Node terms one of which must match; empty: any node.
    pub topologies: Vec<NodeTerm>,
}

/// A pod disruption budget.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    /// Its namespace.
    pub namespace: String,
    /// The pods it guards.
    pub selector: Selector,
    /// How many may go now.
    pub allowed: i64,
    /// Pods already on their way out count no more.
    pub disrupted: Vec<String>,
}

/// The picture.
#[derive(Default)]
pub struct Cluster {
    /// Nodes by name. A node that has pods but is not known is kept apart.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Pods on nodes that are not known (yet).
    strays: HashMap<String, Vec<Arc<PodInfo>>>,
    /// Bound and assumed pods: UID to node.
    placed: HashMap<String, String>,
    /// Of these, the assumed ones.
    assumed: HashMap<String, Arc<PodInfo>>,
    /// Pods that wait for a node, by UID.
    pub nominated: HashMap<String, (String, Arc<PodInfo>)>,
    /// Labels of namespaces.
    pub namespaces: HashMap<String, Labels>,
    /// Claims by namespace and name.
    pub claims: HashMap<Key, Claim>,
    /// Volumes by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Classes by name.
    pub classes: HashMap<String, Class>,
    /// Disruption budgets.
    pub budgets: HashMap<Key, Budget>,
    /// Selectors of services, by namespace and name.
    pub services: HashMap<Key, Selector>,
    /// Selectors of replicated objects, by kind, namespace and name.
    pub owners: HashMap<(&'static str, String, String), Selector>,
    /// How many placed pods have rules about their neighbours: when none has,
    /// nobody needs to ask.
    repelling: usize,
    caring: usize,
}

impl Cluster {
    /// Adds a node or changes what is known of it; its pods stay.
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

    /// Forgets a node. Its pods are remembered until they go.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name)
            && !node.pods.is_empty()
        {
            self.strays.insert(name.to_owned(), node.pods);
        }
    }

    /// A pod is on its node, as the API says.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.place(pod);
    }

    /// A pod is on a node as far as the scheduler is concerned.
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

    /// Is the pod only assumed to be on its node?
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains_key(uid)
    }

    /// A pod has a place, be it assumed?
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// The binding failed: the pod is nowhere. A pod that the API has meanwhile
    /// confirmed stays.
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

    /// The pod is gone. Returns it, if it was anywhere.
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

    /// Does any placed pod keep others away?
    pub fn any_repelling(&self) -> bool {
        self.repelling > 0
    }

    /// Does any placed pod have a wish about its neighbours?
    pub fn any_caring(&self) -> bool {
        self.caring > 0
    }

    /// What selects the pod: its services, and the object that made it. It is
    /// what the default spreading rules count by; `None` when nothing does.
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

/// The nodes, with one of them perhaps as it would be.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The picture.
    pub cluster: &'a Cluster,
    /// Stands for the node of the same name.
    pub instead: Option<&'a NodeInfo>,
}

impl<'a> View<'a> {
    /// The cluster as it is.
    pub fn of(cluster: &'a Cluster) -> Self {
        View {
            cluster,
            instead: None,
        }
    }

    /// The cluster with one node as it would be.
    pub fn with(cluster: &'a Cluster, node: &'a NodeInfo) -> Self {
        View {
            cluster,
            instead: Some(node),
        }
    }

    /// All nodes.
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
