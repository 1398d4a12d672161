//! Config maps and secrets that one pod uses.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kinds::*;
use crate::objects::{Objects, Watched};

/// An [`ObjectHold`] shared by the pod's tasks.
pub(crate) type SharedHold = Arc<tokio::sync::Mutex<ObjectHold>>;

/// Keeps the watches of the config maps and secrets that one pod uses alive until it is dropped.
pub(crate) struct ObjectHold {
    objects: Arc<Objects>,
    namespace: String,
    config_maps: HashMap<String, Arc<Watched<ConfigMap>>>,
    secrets: HashMap<String, Arc<Watched<Secret>>>,
}

impl ObjectHold {
    /// Returns an empty hold for objects in the pod's namespace.
    pub(crate) fn new(objects: Arc<Objects>, namespace: &str) -> Self {
        Self {
            objects,
            namespace: namespace.to_owned(),
            config_maps: HashMap::new(),
            secrets: HashMap::new(),
        }
    }

    /// Returns the watch of a config map; starts it if necessary.
    pub(crate) fn watch_config_map(&mut self, name: &str) -> Arc<Watched<ConfigMap>> {
        self.config_maps
            .entry(name.to_owned())
            .or_insert_with(|| self.objects.config_map(&self.namespace, name))
            .clone()
    }

    /// Returns the watch of a secret; starts it if necessary.
    pub(crate) fn watch_secret(&mut self, name: &str) -> Arc<Watched<Secret>> {
        self.secrets
            .entry(name.to_owned())
            .or_insert_with(|| self.objects.secret(&self.namespace, name))
            .clone()
    }

    /// Returns a config map; `None` if it does not exist. Waits for the watch's first list.
    pub(crate) async fn config_map(&mut self, name: &str) -> Option<Arc<ConfigMap>> {
        self.watch_config_map(name).get().await
    }

    /// Returns a secret; `None` if it does not exist. Waits for the watch's first list.
    pub(crate) async fn secret(&mut self, name: &str) -> Option<Arc<Secret>> {
        self.watch_secret(name).get().await
    }
}
