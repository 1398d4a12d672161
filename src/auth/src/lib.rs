//! Authentication and authorization of API requests, and the objects that are created in a new
//! cluster.
//!
//! This crate has no HTTP server and no storage. It reads existing objects through
//! [`ObjectReader`], which the API server's watch cache implements.
//!
//! # Secure by default
//! A request without credentials is `system:anonymous` on `/healthz`, `/livez`, `/readyz` and
//! the paths below them. On other paths it is rejected with 401, as in upstream with an
//! authentication configuration that limits anonymous access to these paths.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::Object;

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod impersonation;
pub mod names;
pub mod references;
pub mod testing;
pub mod token;
pub mod tree;

/// The user of a request (upstream: `user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name; `system:serviceaccount:NS:NAME` for a service account.
    pub name: String,
    /// A unique ID; empty if the authenticator has none.
    pub uid: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// Additional attributes from the authenticator; keys are lower-case.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Creates an authenticated user. Adds `system:authenticated` to the groups.
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

    /// Creates the user `system:anonymous` in the group `system:unauthenticated`.
    pub fn anonymous() -> UserInfo {
        UserInfo {
            name: names::ANONYMOUS.to_owned(),
            groups: vec![names::ALL_UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        }
    }

    /// Returns whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Converts the user to a `UserInfo` object of `authentication.k8s.io/v1`.
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

/// Read access to the objects of the cluster. Calls must be fast and must not block: they are
/// answered from memory.
pub trait ObjectReader: Send + Sync {
    /// Returns one object; `namespace` is empty for a cluster-scoped resource.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// Returns every object of a resource, in one namespace or in all.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>>;

    /// Returns the pods of a namespace that are bound to a node. Readers with an index on
    /// `spec.nodeName` override the default, which filters the list.
    fn pods_on_node(&self, node: &str, namespace: &str) -> Vec<Arc<Object>> {
        let mut pods = self.list("", "pods", Some(namespace));
        pods.retain(|pod| tree::text(pod, &["spec", "nodeName"]) == node);
        pods
    }

    /// Returns a future that completes when any object of the resource changes after this
    /// call; `None` if the reader does not support it.
    fn changed(&self, _group: &str, _resource: &str) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Returns a number that changes whenever an object of the resource changes, such as the
    /// newest revision. It lets the RBAC index skip comparing lists. `None` if the reader does
    /// not support it.
    fn generation(&self, _group: &str, _resource: &str) -> Option<u64> {
        None
    }
}
