//! Reports a pod's state to the API and to the node's endpoint.

use std::sync::Arc;
use std::time::Instant;

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};

use super::super::instance::{Instance, latest};
use super::super::status::{self, Facts};
use super::super::table::Snapshot;
use super::state::{Stage, TaskResult, Worker};
use crate::kinds::*;
use crate::static_pods;

impl Worker {
    /// Returns whether all containers have stopped and none will be restarted. While a driver has
    /// prepared claims of the pod, they must not be given to others.
    fn is_terminal(&self) -> bool {
        !matches!(self.stage, Stage::Live | Stage::Stopping)
            && status::all_stopped(&self.pod, &self.instances)
            && !self.context.plugins.claims.is_used_by(self.uid())
    }

    /// Returns the pod's status.
    fn generate_status(&self) -> PodStatus {
        let ready_sandbox = self
            .sandbox
            .as_ref()
            .filter(|s| s.ready)
            .map(|s| s.id.clone());
        let status = status::generate(&Facts {
            pod: &self.pod,
            instances: &self.instances,
            waiting: &self.waiting,
            resets: &self.resets,
            health: &|name| self.probes.health(name),
            node_ips: self.context.host.config.ips(),
            pod_ips: self.context.host.pod_ips(self.ip),
            sandbox: ready_sandbox.as_deref(),
            terminal: self.is_terminal(),
            failure: self
                .failure
                .as_ref()
                .filter(|_| self.stage != Stage::Stopping)
                .filter(|_| !self.context.plugins.claims.is_used_by(self.uid())),
            is_disrupted: self.eviction.as_ref().is_some_and(|e| e.is_disruption),
            resizing: self.resizing(),
            resources: &|i| self.record.actual(i).cloned(),
            devices: &|name| self.context.plugins.resource_statuses(&self.pod, name),
            now: now(),
        });
        PodStatus {
            start_time: self
                .pod
                .status
                .as_ref()
                .and_then(|s| s.start_time.clone())
                .or_else(|| Some(self.accepted_at.clone())),
            ..status
        }
    }

    /// Publishes the pod's status to the node's endpoint and, if it changed, to the API.
    ///
    /// Once the final status of a deleted pod is in the API, deletes the pod there.
    pub(super) fn report(&mut self) {
        let status = self.generate_status();
        let patch = self.patch(&status);
        let mut shown = Pod::clone(&self.pod);
        shown.status = Some(status);
        let shown = Arc::new(shown);
        if static_pods::is_static(&shown) {
            // Its status is not in the API, but only a copy.
            self.pod = shown.clone();
        }
        self.snapshot.send_replace(Snapshot {
            pod: shown,
            instances: Arc::new(self.instances.clone()),
            sandbox: self.sandbox.as_ref().map(|s| s.id.clone()),
            mirror: self.mirror.as_ref().map(|m| m.uid().to_owned()),
            evicting: self.eviction.is_some(),
            cleaned: self.stage == Stage::Over,
        });
        if self.may_publish() {
            self.publish(patch);
        }
    }

    /// Returns the change of the status in the API, if there is one: that of a static pod's mirror.
    fn patch(&self, status: &PodStatus) -> Option<serde_json::Value> {
        let shown = match static_pods::is_static(&self.pod) {
            true => self.mirror.as_ref()?,
            false => &self.pod,
        };
        status::patch(shown.uid(), shown.status.as_ref(), status)
    }

    /// Returns whether the API may get the status now, and sets the times to try again.
    fn may_publish(&mut self) -> bool {
        if self.removed {
            // Nothing is written any more. A time that has passed would wake the worker at once,
            // again and again.
            self.publication.held_until = None;
            self.publication.retry_at = None;
            return false;
        }
        if self.in_flight.publish {
            return false;
        }
        self.publication.held_until = self.restarting.held(
            |name| latest(&self.instances, name).is_some_and(Instance::running),
            Instant::now(),
        );
        if self.publication.held_until.is_some() {
            return false;
        }
        self.publication
            .retry_at
            .is_none_or(|at| at <= Instant::now())
    }

    /// Publishes a change of the status to the API. Once the final status of a deleted pod is there,
    /// deletes the pod.
    fn publish(&mut self, patch: Option<serde_json::Value>) {
        self.publication.retry_at = None;
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), self.pod.namespace());
        let name = self.pod.name().to_owned();
        match patch {
            Some(patch) => {
                self.in_flight.publish = true;
                self.spawn(async move {
                    let done = api
                        .patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch))
                        .await;
                    TaskResult::StatusPublished(Box::new(done))
                });
            }
            // The final status is in the API, so a pod that is being deleted can be removed.
            None if self.stage == Stage::Over
                && self.pod.deleting()
                && self.records_removed
                && !self.in_flight.delete =>
            {
                self.in_flight.delete = true;
                let uid = self.uid().to_owned();
                self.spawn(async move {
                    let params = DeleteParams {
                        grace_period_seconds: Some(0),
                        preconditions: Some(Preconditions {
                            uid: Some(uid),
                            resource_version: None,
                        }),
                        ..Default::default()
                    };
                    TaskResult::PodDeleted(api.delete(&name, &params).await.map(|_| ()))
                });
            }
            None => {}
        }
    }
}
