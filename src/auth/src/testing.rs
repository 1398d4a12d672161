//! An in-memory cluster for the tests of this crate and of those that are built on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rkube_api::Object;

use crate::{ObjectReader, UserInfo, names, tree};

type Key = (String, String, String, String);

/// Objects in memory.
#[derive(Default)]
pub struct Cluster {
    objects: Mutex<BTreeMap<Key, Arc<Object>>>,
}

impl Cluster {
    /// Creates a cluster with the bootstrap objects.
    pub fn new() -> Arc<Cluster> {
        let cluster = Arc::new(Cluster::default());
        for o in crate::bootstrap::objects(&crate::bootstrap::BootstrapConfig::default()) {
            cluster.put(o.group, o.resource, o.object);
        }
        cluster
    }

    /// Stores an object under its group and resource.
    pub fn put(&self, group: &str, resource: &str, object: Object) {
        let key = (
            group.into(),
            resource.into(),
            tree::namespace(&object).into(),
            tree::name(&object).into(),
        );
        self.objects.lock().insert(key, Arc::new(object));
    }

    /// Removes an object if it exists.
    pub fn remove(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        self.objects
            .lock()
            .remove(&(group.into(), resource.into(), namespace.into(), name.into()));
    }
}

impl ObjectReader for Cluster {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects
            .lock()
            .get(&(group.into(), resource.into(), namespace.into(), name.into()))
            .cloned()
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let objects = self.objects.lock();
        let wanted =
            |key: &Key| key.0 == group && key.1 == resource && namespace.is_none_or(|n| n == key.2);
        objects
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(_, object)| object.clone())
            .collect()
    }
}

/// Returns the user of a node agent.
pub fn node(name: &str) -> UserInfo {
    UserInfo::authenticated(&format!("system:node:{name}"), &[names::NODES])
}

/// Returns the user of a service account.
pub fn account(namespace: &str, name: &str) -> UserInfo {
    let groups = names::service_account_groups(namespace);
    UserInfo::authenticated(
        &names::service_account_user(namespace, name),
        &[&groups[0], &groups[1]],
    )
}
