//! Applies the messages of the watches to the scheduler's state.

use std::sync::Arc;
use std::time::Instant;

use rkube_client::events::Severity;

use super::Engine;
use crate::model::{Key, NodeInfo, PodInfo};
use crate::plugins::types::Event;
use crate::watch::{Change, Message};

impl Engine {
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Synced => self.unsynced = self.unsynced.saturating_sub(1),
            Message::Pod(Change::Set(key, pod)) => self.upsert_pod(key, pod),
            Message::Pod(Change::Gone(key)) => self.pod_gone(&key),
            Message::Node(Change::Set(_, node)) => self.node_is(*node),
            Message::Node(Change::Gone((_, name))) => {
                self.cluster.remove_node(&name);
                self.on_event(Event::NodeRemoved);
            }
            Message::Namespace(Change::Set((_, name), labels)) => {
                let old = self.cluster.namespaces.insert(name, labels.clone());
                if old.as_ref() != Some(&labels) {
                    self.on_event(Event::Namespace);
                }
            }
            Message::Namespace(Change::Gone((_, name))) => {
                self.cluster.namespaces.remove(&name);
            }
            Message::Claim(Change::Set(key, claim)) => {
                self.cluster.claims.insert(key.clone(), claim);
                self.claim_changed(&key);
                let (namespace, name) = key;
                self.queue
                    .on_event_for(Event::Claim, Instant::now(), |pod| {
                        pod.namespace == namespace && pod.claims.iter().any(|c| c.name == name)
                    });
            }
            Message::Claim(Change::Gone(key)) => {
                self.cluster.claims.remove(&key);
                self.claim_changed(&key);
            }
            Message::DeviceClaim(Change::Set(key, claim)) => {
                self.device_claim_is(key, claim);
            }
            Message::DeviceClaim(Change::Gone(key)) => {
                if self.cluster.devices.remove_claim(&key) {
                    self.on_event(Event::DeviceClaim);
                }
            }
            Message::DeviceClass(Change::Set((_, name), class)) => {
                self.cluster.devices.classes.insert(name, *class);
                self.on_event(Event::Device);
            }
            Message::DeviceClass(Change::Gone((_, name))) => {
                self.cluster.devices.classes.remove(&name);
            }
            Message::DeviceSlice(Change::Set((_, name), slice)) => {
                self.cluster.devices.slices.insert(name, slice);
                self.on_event(Event::Device);
            }
            Message::DeviceSlice(Change::Gone((_, name))) => {
                self.cluster.devices.slices.remove(&name);
            }
            Message::Volume(Change::Set((_, name), volume)) => {
                self.cluster.volumes.insert(name, volume);
                self.on_event(Event::Volume);
            }
            Message::Volume(Change::Gone((_, name))) => {
                self.cluster.volumes.remove(&name);
            }
            Message::Class(Change::Set((_, name), class)) => {
                self.cluster.classes.insert(name, class);
                self.on_event(Event::StorageClass);
            }
            Message::Class(Change::Gone((_, name))) => {
                self.cluster.classes.remove(&name);
            }
            Message::Budget(Change::Set(key, budget)) => {
                self.cluster.budgets.insert(key, budget);
            }
            Message::Budget(Change::Gone(key)) => {
                self.cluster.budgets.remove(&key);
            }
            Message::Service(Change::Set(key, selector)) => {
                self.cluster.services.insert(key, selector);
            }
            Message::Service(Change::Gone(key)) => {
                self.cluster.services.remove(&key);
            }
            Message::Owner(kind, Change::Set((namespace, name), selector)) => {
                self.cluster
                    .owners
                    .insert((kind, namespace, name), selector);
            }
            Message::Owner(kind, Change::Gone((namespace, name))) => {
                self.cluster.owners.remove(&(kind, namespace, name));
            }
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        self.queue.on_event(event, Instant::now());
    }

    fn upsert_pod(&mut self, key: Key, pod: Arc<PodInfo>) {
        // A pod of the same name with another UID: the old pod's deletion was missed.
        if self.uids.get(&key).is_some_and(|uid| *uid != pod.uid) {
            self.pod_gone(&key);
        }
        self.uids.insert(key, pod.uid.clone());
        if pod.node.is_empty() {
            self.pod_waits(pod);
            return;
        }
        self.queue.remove(&pod.uid);
        self.lacking_claims.remove(&pod.uid);
        self.cluster.nominated.remove(&pod.uid);
        let uid = pod.uid.clone();
        let known = self.cluster.is_placed(&uid) && !self.cluster.is_assumed(&uid);
        let before = self.cluster.remove_pod(&uid);
        let changed = before.as_ref().is_none_or(|old| {
            old.labels != pod.labels || old.deleting != pod.deleting || old.node != pod.node
        });
        let shrunk = known && before.is_some_and(|old| old.requests != pod.requests);
        self.cluster.set_pod(pod);
        if changed {
            self.on_event(Event::PodPlaced);
        }
        if shrunk {
            // A pod whose requests shrank frees resources, as a deleted pod does.
            self.on_event(Event::PodRemoved);
        }
    }

    fn pod_waits(&mut self, pod: Arc<PodInfo>) {
        let uid = &pod.uid;
        if pod.scheduler != self.config.name {
            return;
        }
        if pod.deleting {
            if self.queue.may_run(uid) {
                let message = format!("skip schedule deleting pod: {}/{}", pod.namespace, pod.name);
                let (reason, action) = ("FailedScheduling", "Scheduling");
                self.actions
                    .event(&pod, Severity::Warning, reason, action, message);
            }
            self.queue.remove(uid);
            self.lacking_claims.remove(uid);
            self.cluster.nominated.remove(uid);
            return;
        }
        if self.cluster.is_assumed(uid) {
            // The watch lags behind: the pod is already being bound.
            if let Some(queued) = self.binding.get_mut(uid) {
                let before = std::mem::replace(&mut queued.pod, pod);
                if queued.pod.nominated.is_empty() && !before.nominated.is_empty() {
                    Arc::make_mut(&mut queued.pod).nominated = before.nominated.clone();
                }
            }
            return;
        }
        if pod.nominated.is_empty() {
            self.cluster.nominated.remove(uid);
        } else {
            self.cluster
                .nominated
                .insert(uid.clone(), (pod.nominated.clone(), Arc::clone(&pod)));
        }
        // As upstream, a pod is not tried before its claims exist.
        let known = self.queue.contains(uid);
        if !known && self.cluster.devices.claims_of(&pod).is_err() {
            self.lacking_claims.insert(uid.clone(), pod);
            return;
        }
        self.lacking_claims.remove(uid);
        self.queue.set(pod, Instant::now());
    }

    fn pod_gone(&mut self, key: &Key) {
        let Some(uid) = self.uids.remove(key) else {
            return;
        };
        self.queue.remove(&uid);
        self.lacking_claims.remove(&uid);
        if self.waiting.remove(&uid).is_some() {
            self.unreserve(key, &uid);
        }
        let nominated = self.cluster.nominated.remove(&uid).is_some();
        let placed = self.cluster.remove_pod(&uid).is_some();
        if placed || nominated {
            self.on_event(Event::PodRemoved);
        }
    }

    fn node_is(&mut self, node: NodeInfo) {
        let mut events = Vec::new();
        match self.cluster.nodes.get(&node.name) {
            None => events.push(Event::NodeAdded),
            Some(old) => {
                if old.labels != node.labels {
                    events.push(Event::NodeLabels);
                }
                if old.taints != node.taints || old.unschedulable != node.unschedulable {
                    events.push(Event::NodeTaints);
                }
                if old.allocatable != node.allocatable || old.max_pods != node.max_pods {
                    events.push(Event::NodeResources);
                }
            }
        }
        self.cluster.set_node(node);
        for event in events {
            self.on_event(event);
        }
    }
}
