//! Evicts pods from nodes with `NoExecute` taints that they do not tolerate, immediately or after
//! `tolerationSeconds`.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::api::Patch;
use parking_lot::Mutex;

use super::taints::{TolerationTime, no_execute, toleration_time};
use crate::common::{conditions, pods};
use crate::context::{Context, Deletion, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Normal;
use crate::informers::{Change, Key, Store};
use crate::queue::Queue;

const NAME: &str = "taint-eviction-controller";
/// Number of pods processed concurrently.
const CONCURRENCY: usize = 8;

/// The controller that evicts pods from tainted nodes.
pub struct EvictionController {
    ctx: Context,
    queue: Queue<Key>,
    /// When the toleration period of each temporarily tolerating pod began, by UID.
    since: Mutex<HashMap<String, Timestamp>>,
}

impl EvictionController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            since: Mutex::default(),
        }
    }
}

impl Controller for EvictionController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn workers(&self) -> usize {
        CONCURRENCY
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let (pods, nodes) = (informers.pods.clone(), informers.nodes.clone());
        watches
            .watches(&informers.nodes, move |change, queue| {
                let old = change
                    .old()
                    .map(|node| no_execute(node))
                    .unwrap_or_default();
                let node = change.object();
                if change.is_deletion() || old == no_execute(node) {
                    return;
                }
                for pod in pods.indexed(node.metadata.name.as_deref().unwrap_or_default()) {
                    queue.add(Key::of(&pod.metadata));
                }
            })
            .watches(&informers.pods, move |change, queue| {
                enqueue(queue, &nodes, change);
            });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

fn enqueue(queue: &Queue<Key>, nodes: &Store<Node>, change: &Change<Pod>) {
    let pod = change.object();
    let moved = match change {
        Change::Updated(old, new) => {
            let tolerations = |pod: &Pod| pod.spec.as_ref().map(|spec| spec.tolerations.clone());
            pods::node_name(old) != pods::node_name(new) || tolerations(old) != tolerations(new)
        }
        _ => true,
    };
    let tainted = || {
        nodes
            .get("", pods::node_name(pod))
            .is_some_and(|node| !no_execute(&node).is_empty())
    };
    if moved && (change.is_deletion() || tainted()) {
        queue.add(Key::of(&pod.metadata));
    }
}

/// Returns the time until the pod must be evicted.
pub fn deadline(wait: Duration, since: Timestamp, now: Timestamp) -> Duration {
    pods::until(since, wait.as_secs().cast_signed(), now)
}

impl EvictionController {
    async fn sync(&self, key: Key) -> Result<()> {
        let Some(pod) = self.ctx.informers.pods.by_key(&key) else {
            // The key's UID is no longer known, so drop the entries of all deleted pods.
            let known: std::collections::HashSet<String> = if self.since.lock().is_empty() {
                return Ok(());
            } else {
                let pods = self.ctx.informers.pods.list();
                pods.iter()
                    .filter_map(|pod| pod.metadata.uid.clone())
                    .collect()
            };
            self.since.lock().retain(|uid, _| known.contains(uid));
            return Ok(());
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Some(node) = self.ctx.informers.nodes.get("", pods::node_name(&pod)) else {
            return Ok(());
        };
        if pods::is_deleting(&pod) {
            return Ok(());
        }
        let tolerations = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.tolerations.clone())
            .unwrap_or_default();
        let now = self.ctx.now();
        match toleration_time(&no_execute(&node), &tolerations) {
            TolerationTime::Forever => {
                if self.since.lock().remove(&uid).is_some() {
                    self.record_event(&key, format!("Cancelling deletion of Pod {key}"));
                }
                Ok(())
            }
            TolerationTime::Never => self.evict(&key, &pod).await,
            TolerationTime::For(wait) => {
                let since = *self.since.lock().entry(uid).or_insert(now);
                let left = deadline(wait, since, now);
                if left.is_zero() {
                    return self.evict(&key, &pod).await;
                }
                self.queue.add_after(key, left);
                Ok(())
            }
        }
    }

    /// Reports an event. As upstream's, it names the pod but not its UID.
    fn record_event(&self, key: &Key, message: String) {
        let pod = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            ..Default::default()
        };
        self.ctx
            .recorder
            .event_about(NAME, pod, Normal, "TaintManagerEviction", message);
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<()> {
        self.record_event(key, format!("Marking for deletion Pod {key}"));
        let text = "Taint manager: deleting due to NoExecute taint";
        let reason = "DeletionByTaintManager";
        let condition = conditions::disruption(pod, reason, text, self.ctx.now());
        let patch = conditions::patch(pod, condition);
        let store = &self.ctx.informers.pods;
        optional(
            self.ctx
                .patch(
                    store,
                    &pod.metadata,
                    Some("status"),
                    &Patch::Strategic(patch),
                )
                .await,
        )?;
        optional(
            self.ctx
                .delete(store, &pod.metadata, &Deletion::default())
                .await,
        )?;
        if let Some(uid) = &pod.metadata.uid {
            self.since.lock().remove(uid);
        }
        Ok(())
    }
}
