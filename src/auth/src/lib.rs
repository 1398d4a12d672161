//! Who a request comes from, what it may do, and what must be true of what it
//! writes: authentication, authorization, admission, and the objects that a
//! fresh cluster is born with.
//!
//! No HTTP server and no storage live here. Present objects are read through
//! [`ObjectReader`], which the API server's watch cache implements.
//!
//! # Secure by default
//! A request without credentials is `system:anonymous` on `/healthz`, `/livez`
//! and `/readyz` (and the paths below them) and is refused with 401 anywhere
//! else, as upstream does when its authentication configuration limits
//! anonymous access to those paths.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::Object;

pub mod admission;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod impersonation;
pub mod names;
mod references;
#[cfg(test)]
mod testing;
pub mod token;
mod tree;

/// Who is asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, `system:serviceaccount:NS:NAME` for a service account.
    pub name: String,
    /// A unique id, empty when the authenticator knows none.
    pub uid: String,
    /// The groups that the user is in.
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows, keys in lower case.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// An authenticated user of this name in these groups and in
    /// `system:authenticated`.
    pub fn authenticated(name: &str, groups: &[&str]) -> UserInfo {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == names::ALL_AUTHENTICATED) {
            groups.push(names::ALL_AUTHENTICATED.to_owned());
        }
        UserInfo {
            name: name.to_owned(),
            groups,
            ..UserInfo::default()
        }
    }

    /// `system:anonymous` in `system:unauthenticated`.
    pub fn anonymous() -> UserInfo {
        UserInfo {
            name: names::ANONYMOUS.to_owned(),
            groups: vec![names::ALL_UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The `UserInfo` object of `authentication.k8s.io/v1`.
    pub fn to_value(&self) -> Object {
        let mut user = serde_json::Map::new();
        if !self.name.is_empty() {
            user.insert("username".into(), self.name.clone().into());
        }
        if !self.uid.is_empty() {
            user.insert("uid".into(), self.uid.clone().into());
        }
        if !self.groups.is_empty() {
            user.insert("groups".into(), self.groups.clone().into());
        }
        if !self.extra.is_empty() {
            let extra = self
                .extra
                .iter()
                .map(|(k, v)| (k.clone(), v.clone().into()))
                .collect();
            user.insert("extra".into(), Object::Object(extra));
        }
        Object::Object(user)
    }
}

/// What authentication, authorization and admission read the cluster through:
/// cheap, synchronous, from memory.
pub trait ObjectReader: Send + Sync {
    /// One object; `namespace` is empty for a cluster-scoped resource.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// Every object of a resource, in one namespace or in all.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>>;

    /// The pods of a namespace that are bound to a node. A reader that indexes
    /// `spec.nodeName` need not look at the others.
    fn pods_on_node(&self, node: &str, namespace: &str) -> Vec<Arc<Object>> {
        let mut pods = self.list("", "pods", Some(namespace));
        pods.retain(|pod| tree::text(pod, &["spec", "nodeName"]) == node);
        pods
    }

    /// Waits until any object of the resource has changed after this was
    /// called; `None` where the reader cannot tell.
    fn changed(&self, _group: &str, _resource: &str) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// A number that differs whenever any object of the resource has changed
    /// (the revision of the newest change does). It spares the RBAC index from
    /// comparing lists; `None` where the reader cannot tell.
    fn generation(&self, _group: &str, _resource: &str) -> Option<u64> {
        None
    }
}
