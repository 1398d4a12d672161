//! Tells node agents for how long they may keep secrets and config maps of pods: the more nodes there
//! are, the longer.

use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Node;
use kube::api::Patch;
use serde_json::json;

use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::Key;
use crate::queue::Queue;

/// Annotation with the time in seconds.
const TTL: &str = "node.alpha.kubernetes.io/ttl";

/// Sizes of clusters: the least and greatest number of nodes, and the time in seconds. They overlap,
/// so that a node more or less does not change the times of all.
const SIZES: &[(usize, usize, u32)] = &[
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, 10_000, 300),
    (9000, usize::MAX, 600),
];

/// Returns the place in [`SIZES`] of a cluster with this number of nodes, which was at `before`.
fn size(before: usize, nodes: usize) -> usize {
    let mut at = before.min(SIZES.len() - 1);
    while nodes > SIZES[at].1 {
        at += 1;
    }
    while nodes < SIZES[at].0 {
        at -= 1;
    }
    at
}

/// The controller of the annotation on nodes.
pub struct TtlController {
    ctx: Context,
    queue: Queue<Key>,
    size: AtomicUsize,
}

impl TtlController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            size: AtomicUsize::new(0),
        }
    }
}

impl Controller for TtlController {
    type Item = Key;

    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.present(&self.ctx.informers.nodes);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.nodes;
        let Some(node) = store.by_key(&key) else {
            return Ok(());
        };
        let at = size(self.size.load(Ordering::Relaxed), store.list().len());
        self.size.store(at, Ordering::Relaxed);
        let wanted = SIZES[at].2.to_string();
        if annotation(&node) == Some(&wanted) {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {TTL: wanted}}});
        let patch = Patch::Strategic(patch);
        optional(self.ctx.patch(store, &node.metadata, None, &patch).await).map(drop)
    }
}

fn annotation(node: &Node) -> Option<&String> {
    node.metadata.annotations.as_ref()?.get(TTL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_overlap() {
        for (before, nodes, seconds) in [
            (0, 1, 0),
            (0, 100, 0),
            (0, 101, 15),
            (1, 90, 15),
            (1, 89, 0),
            (0, 20_000, 600),
            (5, 3, 0),
        ] {
            assert_eq!(SIZES[size(before, nodes)].2, seconds, "{nodes}");
        }
    }
}
