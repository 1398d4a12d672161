//! Read access to the watch cache for authorization and admission.

use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::Object;
use rkube_auth::ObjectReader;

use crate::cache::{Cache, Filter};

/// An object reader backed by the watch cache.
pub struct CacheReader(pub Arc<Cache>);

impl ObjectReader for CacheReader {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        Some(
            self.0
                .existing(group, resource)?
                .get(namespace, name)?
                .tree(),
        )
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let Some(cache) = self.0.existing(group, resource) else {
            return Vec::new();
        };
        let filter = Filter::new(namespace.map(str::to_owned), None, None, None);
        cache
            .list(&filter)
            .iter()
            .map(|object| object.tree())
            .collect()
    }

    fn pods_on_node(&self, node: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(cache) = self.0.existing("", "pods") else {
            return Vec::new();
        };
        // Filters on the extracted field `spec.nodeName`, so that pods of other nodes are not
        // parsed.
        let filter = Filter::new(Some(namespace.to_owned()), None, None, None);
        cache
            .list(&filter)
            .iter()
            .filter(|pod| pod.field("spec.nodeName") == Some(node))
            .map(|pod| pod.tree())
            .collect()
    }

    fn changed(&self, group: &str, resource: &str) -> Option<BoxFuture<'static, ()>> {
        let mut news = self.0.resource(group, resource).news();
        Some(Box::pin(async move {
            // An error means that the server has shut down; the waiting task ends with it.
            let _ = news.changed().await;
        }))
    }

    fn generation(&self, group: &str, resource: &str) -> Option<u64> {
        Some(
            self.0
                .existing(group, resource)
                .map_or(0, |cache| cache.last_change()),
        )
    }
}
