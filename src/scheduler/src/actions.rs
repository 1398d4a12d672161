//! The scheduler's API requests: bindings, volumes, conditions, preemption and events.

use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Client, Error};
use rkube_client::events::{Recorder, Report, Severity};
use serde_json::{Value, json};

use crate::model::PodInfo;
use crate::plugins::volume_binding::Decision;

/// Sends the scheduler's API requests. Clones share the client.
#[derive(Clone)]
pub struct Actions {
    client: Client,
    recorder: Recorder,
    /// The scheduler's name, reported in events and conditions.
    name: Arc<str>,
}

/// Returns the current time in the API's RFC 3339 format.
fn now() -> String {
    rkube_api::meta::rfc3339(Timestamp::now())
}

/// Returns whether the error is a 404 response.
pub fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

impl Actions {
    /// Returns actions that use `client` and report as `name`.
    pub fn new(client: Client, recorder: Recorder, name: &str) -> Self {
        Actions {
            client,
            recorder,
            name: name.into(),
        }
    }

    fn pods(&self, pod: &PodInfo) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    /// Binds a pod to a node. The pod's UID is a precondition.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let _: Status = self
            .pods(pod)
            .create_subresource("binding", &pod.name, &PostParams::default(), &binding)
            .await?;
        Ok(())
    }

    /// Requests binding or provisioning of the volumes of the pod's claims; does not wait for
    /// completion.
    pub async fn prepare_volumes(&self, decisions: &[Decision], node: &str) -> anyhow::Result<()> {
        for decision in decisions {
            match decision {
                Decision::Bind { claim, uid, volume } => {
                    let api: Api<PersistentVolume> = Api::all(self.client.clone());
                    let patch = json!({
                        "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                        "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                            "namespace": claim.0, "name": claim.1, "uid": uid}},
                    });
                    api.patch(volume, &PatchParams::default(), &Patch::Merge(&patch))
                        .await
                        .with_context(|| {
                            format!("binding volume {volume} to claim {}/{}", claim.0, claim.1)
                        })?;
                }
                Decision::Provision { claim } => {
                    let api: Api<PersistentVolumeClaim> =
                        Api::namespaced(self.client.clone(), &claim.0);
                    let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
                    api.patch(&claim.1, &PatchParams::default(), &Patch::Merge(&patch))
                        .await
                        .with_context(|| {
                            format!("choosing a node for claim {}/{}", claim.0, claim.1)
                        })?;
                }
            }
        }
        Ok(())
    }

    /// Removes the selected node from claims whose volumes were not provisioned, so that another
    /// node can be chosen. Errors are logged.
    pub async fn release_volumes(&self, decisions: &[Decision]) {
        for decision in decisions {
            if let Decision::Provision { claim } = decision {
                let api: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.client.clone(), &claim.0);
                let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": null}}});
                if let Err(error) = api
                    .patch(&claim.1, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                {
                    tracing::warn!(claim = %claim.1, %error, "could not take the chosen node back");
                }
            }
        }
    }

    /// Sets the pod's `PodScheduled` condition to false and updates its nominated node.
    ///
    /// `nominated` is `None` to keep the nomination, or an empty string to clear it.
    pub async fn report_unschedulable(
        &self,
        pod: &PodInfo,
        reason: &str,
        message: &str,
        nominated: Option<&str>,
    ) -> Result<(), Error> {
        let same = pod
            .condition
            .as_ref()
            .is_some_and(|(r, m)| r == reason && m == message);
        let mut status = serde_json::Map::new();
        if !same {
            // The transition time changes only with the status, not with reason or message.
            let first = pod.condition.is_none();
            let mut condition = json!({
                "type": "PodScheduled",
                "status": "False",
                "reason": reason,
                "message": message,
                "lastProbeTime": null,
            });
            if first {
                condition["lastTransitionTime"] = now().into();
            }
            status.insert("conditions".into(), json!([condition]));
        }
        if let Some(node) = nominated
            && node != pod.nominated
        {
            let value = if node.is_empty() {
                Value::Null
            } else {
                node.into()
            };
            status.insert("nominatedNodeName".into(), value);
        }
        if status.is_empty() {
            return Ok(());
        }
        self.patch_status(pod, Value::Object(status)).await
    }

    /// Clears the pod's nominated node.
    pub async fn clear_nomination(&self, pod: &PodInfo) -> Result<(), Error> {
        self.patch_status(pod, json!({"nominatedNodeName": null}))
            .await
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
        self.pods(pod)
            .patch_status(
                &pod.name,
                &PatchParams::default(),
                &Patch::Strategic(&patch),
            )
            .await
            .map(|_| ())
    }

    /// Preempts a victim: sets its `DisruptionTarget` condition, deletes it and reports an event.
    ///
    /// Succeeds if the victim is already gone.
    pub async fn evict(&self, victim: &PodInfo, by: &PodInfo, node: &str) -> Result<(), Error> {
        let condition = json!({"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", self.name),
            "lastProbeTime": null,
            "lastTransitionTime": now(),
        }]});
        match self.patch_status(victim, condition).await {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
        let only_this = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(victim.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.pods(victim).delete(&victim.name, &only_this).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.event(
            victim,
            Severity::Normal,
            "Preempted",
            "Preempting",
            format!("Preempted by pod {} on node {node}", by.uid),
        );
        Ok(())
    }

    /// Reports an event about a pod. Does not wait for it to be written.
    pub fn event(
        &self,
        pod: &PodInfo,
        severity: Severity,
        reason: &'static str,
        action: &'static str,
        message: impl Into<String>,
    ) {
        self.recorder.record(Report {
            component: self.name.to_string().into(),
            regarding: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            },
            severity,
            reason: reason.into(),
            action: action.into(),
            message: message.into(),
            at: Timestamp::now(),
        });
    }
}
