//! The `Node` object as the API server last returned it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::kinds::*;

/// Cache of the `Node` object, shared by all tasks.
#[derive(Clone, Default)]
pub(crate) struct NodeObject(Arc<watch::Sender<Option<Arc<Node>>>>);

impl NodeObject {
    /// Replaces the object.
    pub(crate) fn set(&self, node: Node) {
        self.0.send_replace(Some(Arc::new(node)));
    }

    /// Returns the object; `None` before the node is registered.
    pub(crate) fn get(&self) -> Option<Arc<Node>> {
        self.0.borrow().clone()
    }

    /// Waits until the node is registered.
    pub(crate) async fn registered(&self) {
        // The sender is `self`, so the channel is open.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    /// Returns the node's taints; empty before it is registered.
    pub(crate) fn taints(&self) -> Vec<k8s_openapi::api::core::v1::Taint> {
        self.get()
            .and_then(|n| n.spec.as_ref()?.taints.clone())
            .unwrap_or_default()
    }

    /// Returns the node's labels; empty before it is registered.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.get()
            .and_then(|n| n.metadata.labels.clone())
            .unwrap_or_default()
    }
}
