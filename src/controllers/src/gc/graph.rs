//! The graph of owners and dependents: who there is, and who is to be looked at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::discovery::Served;

/// Finalizer of an object whose dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents stay.
pub const ORPHAN: &str = "orphan";

/// An owner, as a dependent names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The owner's uid.
    pub uid: String,
    /// Whether the owner must not go (in the foreground) before the dependent.
    pub blocks: bool,
}

/// An object, as far as the collector minds.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub resource: Arc<Served>,
    /// Its namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub owners: Vec<Owner>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it waits for its dependents to go.
    pub waits_for_dependents: bool,
    /// Whether it waits for its dependents to be let go.
    pub orphans_dependents: bool,
}

/// What a change makes necessary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// See whether this object's owners are still there.
    Check(String),
    /// Let go of this object's dependents.
    Orphan(String),
}

/// All objects by uid, and who depends on whom.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    /// Dependents by the owner's uid, whether the owner is known or not.
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    /// The object with this uid.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The uids of those that name this one as owner.
    pub fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The uids of the dependents that an owner deleted in the foreground waits for.
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

    /// How many objects of a resource a namespace has.
    pub fn count(&self, group: &str, plural: &str, namespace: &str) -> usize {
        let counts = |node: &&Node| {
            node.namespace == namespace
                && node.resource.plural == plural
                && node.resource.group == group
        };
        self.nodes.values().filter(counts).count()
    }

    /// The uids of all objects of a resource.
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

    /// Whether all owners of an object are known and none waits for it to go.
    pub fn owners_stand(&self, node: &Node) -> bool {
        node.owners.iter().all(|owner| {
            self.nodes
                .get(&owner.uid)
                .is_some_and(|owner| !owner.waits_for_dependents)
        })
    }

    /// Takes in a new or changed object.
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
                .map(|owner| Owner {
                    uid: owner.uid.clone(),
                    blocks: owner.block_owner_deletion == Some(true),
                })
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
            // A new owner may be gone or about to go already.
            if !self.owners_stand(&node) {
                tasks.push(Task::Check(uid.clone()));
            }
            // An owner that waited for this one might wait no longer.
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

    /// Takes in that an object is gone; it may never have been known.
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
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

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
}
