//! Pod garbage collection: removes pods of deleted nodes, pods that were deleted before they were
//! scheduled, and the oldest terminated pods beyond a limit.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Patch;
use serde_json::json;

use crate::common::{conditions, pods};
use crate::context::{Context, Deletion, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::{Change, Key, Store};
use crate::queue::Queue;

const NAME: &str = "pod-garbage-collector-controller";
/// Time that a node must be missing before its pods are removed.
const QUARANTINE_PERIOD: Duration = Duration::from_secs(40);
/// Taint by which an administrator confirms that a node is shut down.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Number of items processed concurrently.
const CONCURRENCY: usize = 8;

/// An item that the pod collector processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A pod that may have to be removed.
    Pod(Key),
    /// A node that has been missing for the quarantine period.
    Missing(String),
    /// The number of terminated pods may exceed the limit.
    Finished,
}

/// Returns the terminated pods beyond the limit: evicted ones first, then the oldest.
pub fn surplus(all: &[Arc<Pod>], most: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<Arc<Pod>> = all
        .iter()
        .filter(|pod| pods::is_terminal(pod))
        .cloned()
        .collect();
    let count = finished.len().saturating_sub(most);
    if count == 0 {
        return Vec::new();
    }
    finished.sort_by_key(|pod| {
        let evicted = pod
            .status
            .as_ref()
            .and_then(|status| status.reason.as_deref())
            == Some("Evicted");
        let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!evicted, made, pod.metadata.name.clone())
    });
    finished.truncate(count);
    finished
}

fn is_out_of_service(node: &Node) -> bool {
    let ready = crate::nodes::taints::condition(node, "Ready") == Some("True");
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    !ready
        && taints
            .into_iter()
            .flatten()
            .any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The controller that removes pods which no node agent will remove.
pub struct PodCollector {
    ctx: Context,
    queue: Queue<Item>,
}

impl PodCollector {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for PodCollector {
    type Item = Item;

    fn name(&self) -> &'static str {
        NAME
    }

    fn workers(&self) -> usize {
        CONCURRENCY
    }

    fn queue(&self) -> &Queue<Item> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Item>) {
        let informers = &self.ctx.informers;
        let (pods, nodes) = (informers.pods.clone(), informers.nodes.clone());
        watches
            .watches(&informers.pods, move |change, queue| {
                enqueue(queue, &nodes, change);
            })
            .watches(&informers.nodes, move |change, queue| {
                let node = change.object();
                let name = node.metadata.name.clone().unwrap_or_default();
                if change.is_deletion() {
                    queue.add_after(Item::Missing(name), QUARANTINE_PERIOD);
                } else if is_out_of_service(node) {
                    for pod in pods.indexed(&name) {
                        queue.add(Item::Pod(Key::of(&pod.metadata)));
                    }
                }
            });
    }

    async fn reconcile(&self, item: Item) -> Result<()> {
        self.sync(item).await
    }
}

fn enqueue(queue: &Queue<Item>, nodes: &Store<Node>, change: &Change<Pod>) {
    let pod = change.object();
    if change.is_deletion() {
        return;
    }
    let node = pods::node_name(pod);
    if pods::is_deleting(pod) {
        queue.add(Item::Pod(Key::of(&pod.metadata)));
    } else if !node.is_empty()
        && change.old().is_none_or(|old| pods::node_name(old) != node)
        && nodes.get("", node).is_none()
    {
        queue.add_after(Item::Missing(node.to_owned()), QUARANTINE_PERIOD);
    }
    if pods::is_terminal(pod) && !change.old().is_some_and(|old| pods::is_terminal(old)) {
        queue.add_after(Item::Finished, Duration::from_secs(1));
    }
}

impl PodCollector {
    async fn sync(&self, item: Item) -> Result<()> {
        let informers = &self.ctx.informers;
        match item {
            Item::Pod(key) => {
                let Some(pod) = informers
                    .pods
                    .by_key(&key)
                    .filter(|pod| pods::is_deleting(pod))
                else {
                    return Ok(());
                };
                let node = pods::node_name(&pod);
                if node.is_empty() {
                    // No node agent will ever terminate an unscheduled pod.
                    return self.remove(&pod, None).await;
                }
                if informers
                    .nodes
                    .get("", node)
                    .is_some_and(|node| is_out_of_service(&node))
                {
                    return self
                        .remove(
                            &pod,
                            Some("PodGC: deletion of a pod on a node that is out of service"),
                        )
                        .await;
                }
                Ok(())
            }
            Item::Missing(node) => {
                if informers.nodes.get("", &node).is_some() {
                    return Ok(());
                }
                if optional(self.ctx.get::<Node>("", &node).await)?.is_some() {
                    return Ok(());
                }
                for pod in informers.pods.indexed(&node) {
                    self.remove(&pod, Some("PodGC: node no longer exists"))
                        .await?;
                }
                Ok(())
            }
            Item::Finished => {
                for pod in surplus(&informers.pods.list(), self.ctx.config.terminated_pods) {
                    self.remove(&pod, None).await?;
                }
                Ok(())
            }
        }
    }

    /// Removes a pod immediately. Its phase is first set to `Failed` if it was not terminal;
    /// `disrupted` is the message of its `DisruptionTarget` condition.
    async fn remove(&self, pod: &Pod, disrupted: Option<&str>) -> Result<()> {
        let store = &self.ctx.informers.pods;
        if !pods::is_terminal(pod) {
            let mut patch = match disrupted {
                Some(message) => {
                    let (reason, now) = ("DeletionByPodGC", self.ctx.now());
                    conditions::patch(pod, conditions::disruption(pod, reason, message, now))
                }
                None => json!({"metadata": {"uid": pod.metadata.uid}}),
            };
            patch["status"]["phase"] = json!("Failed");
            patch["status"]["observedGeneration"] = json!(pod.metadata.generation);
            let patched = self
                .ctx
                .patch(
                    store,
                    &pod.metadata,
                    Some("status"),
                    &Patch::Strategic(patch),
                )
                .await;
            optional(patched)?;
        }
        let at_once = Deletion {
            grace_seconds: Some(0),
            ..Default::default()
        };
        optional(self.ctx.delete(store, &pod.metadata, &at_once).await).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn the_oldest_finished_pods_go() {
        let aged = |name: &str, phase: &str, made: i64| {
            let mut pod = pod(name, "n", phase, None);
            pod.metadata.creation_timestamp = Some(Time(at(made)));
            Arc::new(pod)
        };
        let all = [
            aged("new", "Succeeded", 30),
            aged("old", "Failed", 10),
            aged("running", "Running", 1),
            aged("middle", "Succeeded", 20),
        ];
        let names = |most| -> Vec<String> {
            surplus(&all, most)
                .iter()
                .map(|pod| pod.metadata.name.clone().unwrap())
                .collect()
        };
        assert_eq!(names(1), ["old", "middle"]);
        assert!(names(3).is_empty());
    }
}
