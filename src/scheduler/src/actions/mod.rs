//! The scheduler's API requests: bindings, volumes, conditions, preemption and events.

mod devices;

use std::sync::Arc;

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

/// Directive of a patch that gives the order of the conditions.
const ORDER: &str = "$setElementOrder/conditions";

/// Returns the order of a pod's conditions once this one is set: a new one comes last.
fn order(pod: &PodInfo, kind: &str) -> Value {
    let known = pod.condition_types.iter().map(String::as_str);
    let new = (!pod.condition_types.iter().any(|c| c == kind)).then_some(kind);
    known.chain(new).map(|c| json!({ "type": c })).collect()
}

/// Returns the current time in the API's RFC 3339 format.
fn now() -> String {
    rkube_api::meta::rfc3339(Timestamp::now())
}

/// Returns an API error's message, without code and reason.
pub fn api_message(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
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
    pub async fn prepare_volumes(&self, decisions: &[Decision], node: &str) -> Result<(), Error> {
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
                        .await?;
                }
                Decision::Provision { claim } => {
                    let api: Api<PersistentVolumeClaim> =
                        Api::namespaced(self.client.clone(), &claim.0);
                    let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
                    api.patch(&claim.1, &PatchParams::default(), &Patch::Merge(&patch))
                        .await?;
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
                "observedGeneration": pod.generation,
                "status": "False",
                "reason": reason,
                "message": message,
                "lastProbeTime": null,
            });
            if first {
                condition["lastTransitionTime"] = now().into();
            }
            status.insert(ORDER.into(), order(pod, "PodScheduled"));
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

    /// Reports the node on which the pod is going to run, before that is certain.
    pub async fn nominate(&self, pod: &PodInfo, node: &str) -> Result<(), Error> {
        if pod.nominated == node {
            return Ok(());
        }
        self.patch_status(pod, json!({ "nominatedNodeName": node }))
            .await
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
        let condition = json!({ORDER: order(victim, "DisruptionTarget"), "conditions": [{
            "type": "DisruptionTarget",
            "observedGeneration": victim.generation,
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
            regarding: reference(pod),
            severity,
            reason: reason.into(),
            action: action.into(),
            message: message.into(),
            at: Timestamp::now(),
        });
    }
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        resource_version: pod.resource_version.clone(),
        ..ObjectReference::default()
    }
}
