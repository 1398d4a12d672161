//! The graph of owners and dependents, and the tasks that follow from its changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::served::Served;

/// Finalizer of an object whose dependents are deleted first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents are orphaned instead of deleted.
pub const ORPHAN: &str = "orphan";

/// An owner reference of a dependent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// UID of the owner.
    pub uid: String,
    /// API group of the owner. Any version of it names the same object.
    pub group: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Whether a foreground deletion of the owner must wait for this dependent.
    pub blocks: bool,
}

/// An object with the properties that matter to garbage collection.
#[derive(Clone, Debug)]
pub struct Node {
    /// The object's resource.
    pub resource: Arc<Served>,
    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Its owner references.
    pub owners: Vec<Owner>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it is being deleted in the foreground, that is, after its dependents.
    pub waits_for_dependents: bool,
    /// Whether it is being deleted after its dependents were orphaned.
    pub orphans_dependents: bool,
}

impl Owner {
    /// Returns the owner that `reference` names.
    pub fn of(reference: &OwnerReference) -> Self {
        let group = reference.api_version.split_once('/');
        Self {
            uid: reference.uid.clone(),
            group: group.map_or("", |(group, _)| group).to_owned(),
            kind: reference.kind.clone(),
            name: reference.name.clone(),
            blocks: reference.block_owner_deletion == Some(true),
        }
    }
}

impl Node {
    /// Returns whether this object may own `dependent`: it is cluster-scoped, or in the same
    /// namespace. A reference to another owner counts as one to an object that does not exist.
    pub fn may_own(&self, dependent: &Node) -> bool {
        self.namespace.is_empty() || self.namespace == dependent.namespace
    }

    /// Returns whether `reference`, whose UID is this object's, also has its group, kind and name.
    /// If not, only the API server can tell whether the owner exists.
    pub fn is_meant_by(&self, reference: &Owner) -> bool {
        self.name == reference.name
            && self.resource.kind == reference.kind
            && self.resource.group == reference.group
    }
}

/// Work that a change of the graph requires. Both hold the UID of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// Check the object's owners, or its dependents if it is being deleted in the foreground.
    Check(String),
    /// Remove the object's UID from the owner references of its dependents.
    Orphan(String),
}

/// All objects by UID, and their dependencies.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    /// UIDs of dependents by the owner's UID. The owner need not be known.
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    /// Returns the object with this UID.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Returns the UIDs of the objects that have this one as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Returns the UIDs of the dependents that a foreground deletion of the owner must wait for.
    pub fn blocking_dependents(&self, uid: &str) -> Vec<String> {
        let blocks = |dependent: &String| {
            self.nodes.get(dependent).is_some_and(|node| {
                node.owners
                    .iter()
                    .any(|owner| owner.uid == uid && owner.blocks)
            })
        };
        let mut all = self.dependents(uid);
        all.retain(blocks);
        all
    }

    /// Returns the number of objects of a resource in a namespace.
    pub fn count(&self, group: &str, plural: &str, namespace: &str) -> usize {
        let counts = |node: &&Node| {
            node.namespace == namespace
                && node.resource.plural == plural
                && node.resource.group == group
        };
        self.nodes.values().filter(counts).count()
    }

    /// Returns the UIDs of all objects of a resource.
    pub fn of_resource(&self, resource: &Served) -> Vec<String> {
        let same = |node: &Node| {
            node.resource.plural == resource.plural && node.resource.group == resource.group
        };
        let matching = self.nodes.iter().filter(|(_, node)| same(node));
        matching.map(|(uid, _)| uid.clone()).collect()
    }

    fn link(&mut self, uid: &str, owners: &[Owner]) {
        for owner in owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.to_owned());
        }
    }

    fn unlink(&mut self, uid: &str, owners: &[Owner]) {
        for owner in owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Returns whether all owners of the object are known under the names that it gives them, may own
    /// it, and none is being deleted in the foreground.
    pub fn owners_stand(&self, node: &Node) -> bool {
        node.owners.iter().all(|reference| {
            self.nodes.get(&reference.uid).is_some_and(|owner| {
                owner.is_meant_by(reference) && owner.may_own(node) && !owner.waits_for_dependents
            })
        })
    }

    /// Adds or updates an object and returns the resulting tasks.
    pub fn put(&mut self, resource: &Arc<Served>, meta: &ObjectMeta) -> Vec<Task> {
        let Some(uid) = meta.uid.clone() else {
            return Vec::new();
        };
        let has = |finalizer: &str| {
            meta.finalizers
                .iter()
                .flatten()
                .any(|present| present == finalizer)
        };
        let deleting = meta.deletion_timestamp.is_some();
        let node = Node {
            resource: resource.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta
                .owner_references
                .iter()
                .flatten()
                .map(Owner::of)
                .collect(),
            deleting,
            waits_for_dependents: deleting && has(FOREGROUND),
            orphans_dependents: deleting && has(ORPHAN),
        };
        let old = self.nodes.remove(&uid);
        let mut tasks = Vec::new();
        let owners_changed = match &old {
            Some(old) => {
                self.unlink(&uid, &old.owners.clone());
                old.owners != node.owners
            }
            None => !node.owners.is_empty(),
        };
        self.link(&uid, &node.owners);
        if owners_changed {
            // A new owner may already be deleted or being deleted.
            if !self.owners_stand(&node) {
                tasks.push(Task::Check(uid.clone()));
            }
            // A former owner's foreground deletion may no longer have to wait for this object.
            for owner in old.iter().flat_map(|old| &old.owners) {
                if self
                    .nodes
                    .get(&owner.uid)
                    .is_some_and(|owner| owner.waits_for_dependents)
                {
                    tasks.push(Task::Check(owner.uid.clone()));
                }
            }
        }
        if node.waits_for_dependents && !old.as_ref().is_some_and(|old| old.waits_for_dependents) {
            tasks.push(Task::Check(uid.clone()));
            tasks.extend(self.dependents(&uid).into_iter().map(Task::Check));
        }
        if node.orphans_dependents && !old.as_ref().is_some_and(|old| old.orphans_dependents) {
            tasks.push(Task::Orphan(uid.clone()));
        }
        self.nodes.insert(uid, node);
        tasks
    }

    /// Removes an object, known or not, and returns it with the resulting tasks.
    pub fn remove(&mut self, uid: &str) -> (Option<Node>, Vec<Task>) {
        let node = self.nodes.remove(uid);
        let mut tasks: Vec<Task> = self.dependents(uid).into_iter().map(Task::Check).collect();
        if let Some(node) = &node {
            self.unlink(uid, &node.owners);
            for owner in &node.owners {
                if self
                    .nodes
                    .get(&owner.uid)
                    .is_some_and(|owner| owner.waits_for_dependents)
                {
                    tasks.push(Task::Check(owner.uid.clone()));
                }
            }
        }
        (node, tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn resource() -> Arc<Served> {
        Arc::new(Served {
            group: String::new(),
            version: "v1".into(),
            plural: "pods".into(),
            kind: "Pod".into(),
            namespaced: true,
            verbs: vec![],
        })
    }

    fn meta(uid: &str, owners: &[&str]) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            name: Some(uid.into()),
            namespace: Some("ns".into()),
            owner_references: Some(
                owners
                    .iter()
                    .map(|owner| OwnerReference {
                        api_version: "v1".into(),
                        kind: "Pod".into(),
                        name: (*owner).into(),
                        uid: (*owner).into(),
                        block_owner_deletion: Some(true),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        }
    }

    fn check(uid: &str) -> Task {
        Task::Check(uid.into())
    }

    #[test]
    fn dependents_are_checked_when_the_owner_goes() {
        let mut graph = Graph::default();
        assert_eq!(graph.put(&resource(), &meta("owner", &[])), []);
        assert_eq!(graph.put(&resource(), &meta("child", &["owner"])), []);
        let (node, tasks) = graph.remove("owner");
        assert!(node.is_some());
        assert_eq!(tasks, [check("child")]);
        assert_eq!(
            graph.put(&resource(), &meta("late", &["owner"])),
            [check("late")]
        );
    }

    #[test]
    fn a_foreground_deletion_waits_for_blocking_dependents() {
        let mut graph = Graph::default();
        graph.put(&resource(), &meta("owner", &[]));
        graph.put(&resource(), &meta("child", &["owner"]));
        let mut deleted = meta("owner", &[]);
        deleted.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        deleted.finalizers = Some(vec![FOREGROUND.into()]);
        assert_eq!(
            graph.put(&resource(), &deleted),
            [check("owner"), check("child")]
        );
        assert_eq!(graph.blocking_dependents("owner"), ["child"]);
        assert_eq!(graph.remove("child").1, [check("owner")]);
        assert!(graph.blocking_dependents("owner").is_empty());
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut graph = Graph::default();
        let mut deleted = meta("owner", &[]);
        deleted.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        deleted.finalizers = Some(vec![ORPHAN.into()]);
        assert_eq!(
            graph.put(&resource(), &deleted),
            [Task::Orphan("owner".into())]
        );
        assert_eq!(graph.put(&resource(), &deleted), []);
    }

    #[test]
    fn letting_go_is_noticed_by_the_owner_that_waits() {
        let mut graph = Graph::default();
        let mut owner = meta("owner", &[]);
        owner.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        owner.finalizers = Some(vec![FOREGROUND.into()]);
        graph.put(&resource(), &meta("child", &["owner"]));
        graph.put(&resource(), &owner);
        let tasks = graph.put(&resource(), &meta("child", &[]));
        assert!(tasks.contains(&check("owner")));
        assert_eq!(graph.count("", "pods", "ns"), 2);
    }

    #[test]
    fn an_owner_in_another_namespace_does_not_stand() {
        let mut graph = Graph::default();
        graph.put(&resource(), &meta("owner", &[]));
        let mut child = meta("child", &["owner"]);
        child.namespace = Some("other".into());
        assert_eq!(graph.put(&resource(), &child), [check("child")]);
        let mut cluster = meta("cluster", &[]);
        cluster.namespace = None;
        graph.put(&resource(), &cluster);
        assert_eq!(graph.put(&resource(), &meta("b", &["cluster"])), []);
    }

    #[test]
    fn an_owner_known_under_another_name_does_not_stand() {
        let as_owner = |api_version: &str, kind: &str, name: &str| {
            let mut graph = Graph::default();
            graph.put(&resource(), &meta("owner", &[]));
            let mut child = meta("child", &["owner"]);
            for reference in child.owner_references.iter_mut().flatten() {
                reference.api_version = api_version.into();
                reference.kind = kind.into();
                reference.name = name.into();
            }
            graph.put(&resource(), &child)
        };
        assert_eq!(as_owner("v1", "Pod", "owner"), []);
        assert_eq!(as_owner("v2", "Pod", "owner"), []); // the same group
        assert_eq!(as_owner("v1", "Pod", "other"), [check("child")]);
        assert_eq!(as_owner("v1", "ConfigMap", "owner"), [check("child")]);
        assert_eq!(as_owner("apps/v1", "Pod", "owner"), [check("child")]);
    }
}
