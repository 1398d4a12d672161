//! Registers the node and reports its status and lease.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rkube_client::reflector::{Changes, Event};
use rkube_runtime::Runtime;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tracing::{debug, info, warn};

mod events;
mod lease;
mod status;

pub(crate) use lease::renew_lease;

use crate::client::{answered, retry_delay, unreachable};
use crate::host::Host;
use crate::kinds::*;
use crate::node_object::NodeObject;
use crate::plugins::Plugins;
use crate::pressure::Pressure;
use crate::recorder::{Recorder, Severity, node_reference};
use status::NodeState;

/// Time between two reports of an unchanged status (the kubelet's default).
const STATUS_REPORT_PERIOD: Duration = Duration::from_secs(300);
/// Delay after a failed report.
const RETRY_PERIOD: Duration = Duration::from_secs(10);
/// Delay of a report of changed devices, for plugins often register together.
const DEVICES_DELAY: Duration = Duration::from_millis(100);
/// Delay of a report of changed images, so that several pulls cause one report.
const IMAGES_DELAY: Duration = Duration::from_secs(2);

/// Registers the node and reports its status.
pub(crate) struct Registrar {
    pub host: Arc<Host>,
    pub api: Api<Node>,
    pub runtime: Runtime,
    pub recorder: Recorder,
    pub node: NodeObject,
    pub pressure: watch::Receiver<Pressure>,
    /// Notified when the node's images change.
    pub images: watch::Receiver<u64>,
    /// What device plugins offer is part of the status.
    pub plugins: Arc<Plugins>,
}

/// Registers the node, then reports its status until the future is dropped.
pub(crate) async fn run(registrar: Registrar) -> anyhow::Result<()> {
    let name = registrar.host.name();
    registrar.node.set(registrar.register().await?);
    info!(node = %name, "registered");
    registrar.recorder.record(
        node_reference(name),
        Severity::Normal,
        "Starting",
        "Starting kubelet.",
    );
    let mut told = events::Told::default();
    registrar.tell(&mut told);
    let mut pressure = registrar.pressure.clone();
    let mut images = registrar.images.clone();
    let mut devices = registrar.plugins.devices.changes();
    let source = crate::watching::source::<Node>(None).fields(format!("metadata.name={name}"));
    let mut changes = Changes::new(registrar.api.clone().into_client(), source);
    let mut next = tokio::time::Instant::now() + STATUS_REPORT_PERIOD;
    loop {
        let mut lost = false;
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            Ok(()) = pressure.changed() => {}
            Ok(()) = images.changed() => {
                // Several pulls cause one report.
                tokio::time::sleep(IMAGES_DELAY).await;
                images.mark_unchanged();
            }
            Ok(()) = devices.changed() => {
                tokio::time::sleep(DEVICES_DELAY).await;
                devices.mark_unchanged();
            }
            Some(event) = changes.next() => match observed(event) {
                Observed::Node(node) => {
                    let given_up = status::is_given_up(&node);
                    registrar.node.set(*node);
                    registrar.tell(&mut told);
                    // The node controller took this node for dead, as after a suspension of
                    // the machine.
                    if !given_up {
                        continue;
                    }
                }
                Observed::Lost => lost = true,
                Observed::Nothing => continue,
            },
        }
        let result = if lost {
            // The object was deleted while the node is running.
            warn!("the node object is gone; registering again");
            registrar.register().await.map(Some)
        } else {
            registrar.patch_status().await
        };
        match result {
            Ok(Some(node)) => {
                registrar.node.set(node);
                registrar.tell(&mut told);
            }
            Ok(None) => {}
            Err(e) => {
                warn!("node status: {e:#}");
                next = tokio::time::Instant::now() + RETRY_PERIOD;
                continue;
            }
        }
        next = tokio::time::Instant::now() + STATUS_REPORT_PERIOD;
    }
}

/// What a change says about the node's object.
enum Observed {
    /// Its current version.
    Node(Box<Node>),
    /// It was deleted.
    Lost,
    /// Nothing new.
    Nothing,
}

/// Returns what a change says about the node's object, the only one that is watched. One that
/// cannot be read is not lost.
fn observed(event: Event<Node>) -> Observed {
    match event {
        Event::Applied(node) => Observed::Node(Box::new(node)),
        Event::Listed(mut list) => match list.objects.pop() {
            Some(node) => Observed::Node(Box::new(node)),
            None if list.unreadable.is_empty() => Observed::Lost,
            None => Observed::Nothing,
        },
        Event::Deleted(_) => Observed::Lost,
        Event::Unreadable(_) | Event::Failed(_) => Observed::Nothing,
    }
}

/// Makes a strategic patch replace the `addresses` of a status, if it has them. It would merge them by their type, of
/// which a node of two families has two.
fn replace_addresses(addresses: Option<&mut Value>) {
    if let Some(addresses) = addresses.and_then(Value::as_array_mut) {
        addresses.push(json!({"$patch": "replace"}));
    }
}

impl Registrar {
    fn state<'a>(&self, node: Option<&'a Node>) -> NodeState<'a> {
        NodeState {
            node,
            pressure: *self.pressure.borrow(),
            images: self.runtime.list_images(),
            user_namespaces: self.runtime.supports_users(),
            devices: self.plugins.devices.capacity(),
            now: now(),
        }
    }

    fn status(&self) -> k8s_openapi::api::core::v1::NodeStatus {
        status::status(&self.host, &self.state(self.node.get().as_deref()))
    }

    /// Records events about what has changed since the last ones.
    fn tell(&self, told: &mut events::Told) {
        let Some(node) = self.node.get() else { return };
        let name = self.host.name();
        for reason in told.changes(&node) {
            let message = format!("Node {name} status is now: {reason}");
            self.recorder
                .record(node_reference(name), Severity::Normal, reason, message);
        }
    }

    /// Creates the `Node` object or updates the existing one. Retries until it succeeds.
    async fn register(&self) -> anyhow::Result<Node> {
        let mut attempt = 0;
        loop {
            let node = status::node(&self.host, &self.state(self.node.get().as_deref()));
            let error = match self.api.create(&PostParams::default(), &node).await {
                Ok(created) => return Ok(created),
                Err(e) if answered(&e, 409) => match self.update(&node).await {
                    Ok(updated) => return Ok(updated),
                    Err(e) => e,
                },
                Err(e) => e,
            };
            if unreachable(&error) {
                debug!("registering: {error}");
            } else {
                warn!("registering: {error}");
            }
            tokio::time::sleep(retry_delay(attempt)).await;
            attempt += 1;
        }
    }

    async fn update(&self, wanted: &Node) -> Result<Node, kube::Error> {
        let spec = wanted.spec.as_ref();
        let labels = json!({
            "metadata": {"labels": wanted.metadata.labels, "annotations": wanted.metadata.annotations},
            "spec": {
                "podCIDR": spec.and_then(|s| s.pod_cidr.as_ref()),
                "podCIDRs": spec.and_then(|s| s.pod_cidrs.as_ref()),
                "providerID": spec.and_then(|s| s.provider_id.as_ref()),
            },
        });
        let name = self.host.name();
        let current = self
            .api
            .patch(name, &PatchParams::default(), &Patch::Merge(&labels))
            .await?;
        if let Some(boot) = events::rebooted(&current, wanted) {
            let message = format!("Node {name} has been rebooted, boot id: {boot}");
            self.recorder
                .record(node_reference(name), Severity::Warning, "Rebooted", message);
        }
        self.node.set(current);
        let mut status = json!({"status": self.status()});
        replace_addresses(status["status"].get_mut("addresses"));
        self.api
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(&status))
            .await
    }

    /// Reports the conditions and the changed fields of the status.
    async fn patch_status(&self) -> anyhow::Result<Option<Node>> {
        let wanted = serde_json::to_value(self.status())?;
        let node = self.node.get();
        let known = node
            .as_ref()
            .and_then(|n| n.status.as_ref())
            .map(serde_json::to_value)
            .transpose()?
            .unwrap_or(Value::Null);
        let mut patch = changed_fields(wanted, &known);
        replace_addresses(patch.get_mut("addresses"));
        let patch = json!({"status": patch});
        let result = self
            .api
            .patch_status(
                self.host.name(),
                &PatchParams::default(),
                &Patch::Strategic(&patch),
            )
            .await;
        match result {
            Ok(node) => Ok(Some(node)),
            Err(e) if answered(&e, 404) => Ok(Some(self.register().await?)),
            Err(e) => Err(e.into()),
        }
    }
}

/// Returns the fields of a status that differ from the known ones, and always the conditions: they
/// carry the heartbeat.
fn changed_fields(wanted: Value, known: &Value) -> Map<String, Value> {
    let Value::Object(fields) = wanted else {
        return Map::new();
    };
    fields
        .into_iter()
        .filter(|(field, value)| field == "conditions" || known.get(field) != Some(value))
        .collect()
}

#[cfg(test)]
mod tests {
    use rkube_client::reflector::{Listed, Unreadable};

    use super::*;

    #[test]
    fn a_node_that_cannot_be_read_is_not_lost() {
        let list = |objects, unreadable| {
            let mut list = Listed::new(objects, 1);
            list.unreadable = unreadable;
            Event::Listed(list)
        };
        let unreadable = || vec![Unreadable::default()];
        for (event, expected) in [
            (list(vec![Node::default()], vec![]), "node"),
            (list(vec![], unreadable()), "nothing"),
            (list(vec![], vec![]), "lost"),
            (Event::Applied(Node::default()), "node"),
            (Event::Deleted(Node::default()), "lost"),
            (Event::Unreadable(Unreadable::default()), "nothing"),
            (Event::Failed(String::new()), "nothing"),
        ] {
            let known = match observed(event) {
                Observed::Node(_) => "node",
                Observed::Lost => "lost",
                Observed::Nothing => "nothing",
            };
            assert_eq!(known, expected);
        }
    }

    #[test]
    fn conditions_are_always_reported() {
        let status = json!({"conditions": [1], "images": [2], "addresses": [3]});
        let changed = |known: &Value| Value::Object(changed_fields(status.clone(), known));
        assert_eq!(changed(&Value::Null), status);
        assert_eq!(changed(&status), json!({"conditions": [1]}));
        assert_eq!(
            changed(&json!({"images": [], "addresses": [3], "volumesInUse": []})),
            json!({"conditions": [1], "images": [2]})
        );
    }
}
