//! Config maps and secrets that a pod uses.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kinds::*;
use crate::objects::{Objects, Watched};

/// A hold that the pod's tasks share.
pub(crate) type SharedHold = Arc<tokio::sync::Mutex<ObjectHold>>;

/// Shares in the watches of the objects that one pod uses, kept while the pod is here.
pub(crate) struct ObjectHold {
    objects: Arc<Objects>,
    namespace: String,
    config_maps: HashMap<String, Arc<Watched<ConfigMap>>>,
    secrets: HashMap<String, Arc<Watched<Secret>>>,
}

impl ObjectHold {
    /// Returns a hold of objects in a pod's namespace.
    pub(crate) fn new(objects: Arc<Objects>, namespace: &str) -> Self {
        Self {
            objects,
            namespace: namespace.to_owned(),
            config_maps: HashMap::new(),
            secrets: HashMap::new(),
        }
    }

    /// Returns the watch of a config map.
    pub(crate) fn watch_config_map(&mut self, name: &str) -> Arc<Watched<ConfigMap>> {
        self.config_maps
            .entry(name.to_owned())
            .or_insert_with(|| self.objects.config_map(&self.namespace, name))
            .clone()
    }

    /// Returns the watch of a secret.
    pub(crate) fn watch_secret(&mut self, name: &str) -> Arc<Watched<Secret>> {
        self.secrets
            .entry(name.to_owned())
            .or_insert_with(|| self.objects.secret(&self.namespace, name))
            .clone()
    }

    /// Returns a config map; `None` when it does not exist.
    pub(crate) async fn config_map(&mut self, name: &str) -> Option<Arc<ConfigMap>> {
        self.watch_config_map(name).get().await
    }

    /// Returns a secret; `None` when it does not exist.
    pub(crate) async fn secret(&mut self, name: &str) -> Option<Arc<Secret>> {
        self.watch_secret(name).get().await
    }
}
