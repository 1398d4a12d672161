//! Node lifecycle: marks nodes without heartbeats as unreachable and their pods as not ready, and
//! derives taints from conditions.
//!
//! Heartbeats are renewed leases or status updates. Instead of polling periodically, each node is
//! checked when its next heartbeat is overdue; a heartbeat only records the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Patch;
use parking_lot::Mutex;
use serde_json::json;

use super::{health, reference, taints};
use crate::common::pods;
use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Normal;
use crate::informers::{Change, Key};
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

const NAME: &str = "node-controller";
/// Grace period in which a new node must first report.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Number of nodes processed concurrently.
const CONCURRENCY: usize = 8;

/// When each node's last heartbeat was received, by the monotonic clock: a step of the wall clock
/// neither silences nodes nor hides that they are silent.
#[derive(Default)]
struct Heartbeats {
    heard: Mutex<HashMap<String, Instant>>,
}

impl Heartbeats {
    fn note(&self, node: &str, at: Instant) {
        self.heard.lock().insert(node.to_owned(), at);
    }

    /// Returns how long the node may remain silent. A node that was never heard counts as heard now.
    fn left(&self, node: &str, grace: Duration, now: Instant) -> Duration {
        let heard = *self.heard.lock().entry(node.to_owned()).or_insert(now);
        grace.saturating_sub(now.saturating_duration_since(heard))
    }

    fn forget(&self, node: &str) {
        self.heard.lock().remove(node);
    }
}

/// The controller that notices silent nodes and taints nodes.
pub struct LifecycleController {
    ctx: Context,
    queue: Queue<Key>,
    heartbeats: Arc<Heartbeats>,
}

fn heartbeat(node: &Node) -> Option<&Time> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref()
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

fn zone_of(node: &Node) -> String {
    let labels = label_selector::labels_or_empty(node.metadata.labels.as_ref());
    let label = |key: &str| labels.get(key).map_or("", String::as_str);
    format!(
        "{}:{}",
        label("topology.kubernetes.io/region"),
        label("topology.kubernetes.io/zone")
    )
}

impl LifecycleController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            heartbeats: Arc::default(),
        }
    }
}

impl Controller for LifecycleController {
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
        let (ctx, heartbeats) = (self.ctx.clone(), self.heartbeats.clone());
        watches.watches(&informers.nodes, move |change, queue| {
            note_node(&ctx, &heartbeats, change);
            queue.add(Key::of(&change.object().metadata));
        });
        let (ctx, heartbeats) = (self.ctx.clone(), self.heartbeats.clone());
        watches.watches(&informers.leases, move |change, _| {
            note_lease(&ctx, &heartbeats, change);
        });
        watches.reads(&informers.pods);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

fn note_node(ctx: &Context, heartbeats: &Heartbeats, change: &Change<Node>) {
    let node = change.object();
    let name = name(node);
    match change {
        Change::Added(_) => {
            heartbeats.note(name, Instant::now());
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            ctx.recorder
                .event_about(NAME, reference(node), Normal, "RegisteredNode", message);
        }
        Change::Updated(old, _) if heartbeat(old) != heartbeat(node) => {
            heartbeats.note(name, Instant::now());
        }
        Change::Updated(..) => {}
        Change::Deleted(_) => {
            heartbeats.forget(name);
            let message = format!("Node {name} event: Removing Node {name} from Controller");
            ctx.recorder
                .event_about(NAME, reference(node), Normal, "RemovingNode", message);
        }
    }
}

fn note_lease(ctx: &Context, heartbeats: &Heartbeats, change: &Change<Lease>) {
    let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    let lease = change.object();
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    let is_renewal =
        !change.is_deletion() && change.old().and_then(|old| renewed(old)) != renewed(lease);
    // Anyone with the permission can create leases of any name, and a lease outlives its node for a
    // while: remember heartbeats of nodes only. A node that appears later begins with its own.
    if is_renewal && ctx.informers.nodes.get("", name).is_some() {
        heartbeats.note(name, Instant::now());
    }
}

impl LifecycleController {
    async fn sync(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.nodes;
        let Some(mut node) = store.by_key(&key) else {
            return Ok(());
        };
        let now = self.ctx.now();
        let grace = match heartbeat(&node) {
            Some(_) => self.ctx.config.node_grace_period,
            None => STARTUP_GRACE,
        };
        let left = self.heartbeats.left(&key.name, grace, Instant::now());
        if left.is_zero() {
            if let Some(conditions) = health::silent(&node, now) {
                tracing::info!(node = %key, "node is silent");
                let was_ready = taints::condition(&node, "Ready") == Some("True");
                let mut changed = Node::clone(&node);
                changed.status.get_or_insert_default().conditions = Some(conditions);
                let Some(updated) = optional(self.ctx.update_status(store, &changed).await)? else {
                    return Ok(());
                };
                node = updated;
                if was_ready {
                    let message = format!("Node {key} status is now: NodeNotReady");
                    self.ctx.recorder.event_about(
                        NAME,
                        reference(&node),
                        Normal,
                        "NodeNotReady",
                        message,
                    );
                }
            }
            // No timer needed: the next heartbeat updates the node.
        } else {
            self.queue
                .add_after(key.clone(), left + Duration::from_millis(100));
        }
        self.taint(&node).await?;
        if taints::condition(&node, "Ready").is_some_and(|ready| ready != "True") {
            self.mark_pods(&key.name).await?;
        }
        Ok(())
    }

    async fn taint(&self, node: &Arc<Node>) -> Result<()> {
        let nodes = self.ctx.informers.nodes.list();
        let mut zones: HashMap<String, (usize, usize)> = HashMap::new();
        for node in &nodes {
            let (ready, unready) = zones.entry(zone_of(node)).or_default();
            match taints::condition(node, "Ready") {
                Some("True") => *ready += 1,
                _ => *unready += 1,
            }
        }
        let state = |(ready, unready): (usize, usize)| health::zone(ready, unready);
        let all: Vec<_> = zones.values().copied().map(state).collect();
        let own = state(zones.get(&zone_of(node)).copied().unwrap_or_default());
        let evict = health::evicts(own, &all, nodes.len());
        let Some(taints) = taints::desired(node, evict, self.ctx.now()) else {
            return Ok(());
        };
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let store = &self.ctx.informers.nodes;
        optional(
            self.ctx
                .patch(store, &node.metadata, None, &Patch::Merge(patch))
                .await,
        )?;
        // Whether other nodes may have evictions can depend on this node.
        for other in nodes {
            if name(&other) != name(node) && taints::condition(&other, "Ready") != Some("True") {
                self.queue.add(Key::of(&other.metadata));
            }
        }
        Ok(())
    }

    /// Marks the pods of a node as not ready, since their readiness is unknown.
    async fn mark_pods(&self, node: &str) -> Result<()> {
        for pod in self.ctx.informers.pods.indexed(node) {
            if pods::is_ready(&pod) {
                let patch = not_ready(&pod, self.ctx.now());
                optional(
                    self.ctx
                        .patch(
                            &self.ctx.informers.pods,
                            &pod.metadata,
                            Some("status"),
                            &Patch::Strategic(patch),
                        )
                        .await,
                )?;
                let message = "Node is not ready";
                self.ctx.recorder.event(
                    NAME,
                    &*pod,
                    crate::events::Severity::Warning,
                    "NodeNotReady",
                    message,
                );
            }
        }
        Ok(())
    }
}

fn not_ready(pod: &Pod, now: Timestamp) -> serde_json::Value {
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": Time(now)}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_silent_when_its_grace_is_over() {
        let (heartbeats, start) = (Heartbeats::default(), Instant::now());
        let seconds = Duration::from_secs;
        let grace = seconds(40);
        let left = |after| heartbeats.left("n", grace, start + seconds(after));
        assert_eq!(left(0), grace);
        assert_eq!(left(30), seconds(10));
        heartbeats.note("n", start + seconds(30));
        assert_eq!(left(30), grace);
        assert_eq!(left(70), Duration::ZERO);
        assert_eq!(left(90), Duration::ZERO);
        heartbeats.forget("n");
        assert_eq!(left(90), grace);
    }
}
