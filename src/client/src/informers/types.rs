//! Keys, objects and changes of the informers.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use crate::reflector::Versioned;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

/// The key of an object within its kind.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// Returns the key of `namespace`/`name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Returns the key of the object with this metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// A built-in kind, whose path and names are known at compile time.
pub trait Object: Versioned + kube::Resource<DynamicType = ()> + Serialize {}

impl<K: Versioned + kube::Resource<DynamicType = ()> + Serialize> Object for K {}

/// A change of an object. Changes are delivered in the order of the watch.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object was created.
    Added(Arc<K>),
    /// The object was updated: its state in the last notification and its current state.
    Updated(Arc<K>, Arc<K>),
    /// The object was deleted: its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// Returns the object in its current or, after deletion, last state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Updated(_, object) | Change::Deleted(object) => object,
        }
    }

    /// Returns the previous state, for updates.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Updated(old, _) => Some(old),
            _ => None,
        }
    }

    /// Returns all states in this change, the older one first.
    pub fn states(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old().into_iter().chain(std::iter::once(self.object()))
    }

    /// Returns whether the object was deleted.
    pub fn is_deletion(&self) -> bool {
        matches!(self, Change::Deleted(_))
    }
}
