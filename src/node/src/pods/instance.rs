//! A pod's containers as its worker sees them: all attempts of each container.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use rkube_runtime::{ContainerState as State, ContainerStatus as RuntimeStatus};

use crate::delay;

/// Labels and annotations of containers and sandboxes, with the kubelet's names where it has one.
pub(crate) mod keys {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Hash of the container's definition, see [`hash`](crate::pods::plan::hash).
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    /// Attempt number of the container.
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Termination grace period of the pod at creation, in seconds.
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// The container's `resources` at creation, as JSON.
    pub(crate) const RESOURCES: &str = "rkube.dev/resources";
    /// The image name for the container's status.
    pub(crate) const IMAGE_NAME: &str = "rkube.dev/image-name";
}

/// One attempt of a container: each restart creates a new one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    pub state: State,
    pub image: String,
    pub image_ref: String,
    pub hash: Option<String>,
    /// Resources that the container was created with.
    pub resources: Option<ResourceRequirements>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Time of the exit by the monotonic clock.
    pub ended: Option<Instant>,
    pub exit_code: i32,
    pub reason: String,
    /// Termination message; empty until the container has exited.
    pub message: String,
    pub user: rkube_runtime::ContainerUser,
}

impl Instance {
    /// Returns the attempt that corresponds to a container of the runtime.
    pub(crate) fn new(status: &RuntimeStatus) -> Self {
        let spec = &status.spec;
        Self {
            id: status.id.clone(),
            sandbox_id: status.sandbox_id.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            state: status.state,
            image: spec
                .annotations
                .get(keys::IMAGE_NAME)
                .unwrap_or(&spec.image)
                .clone(),
            image_ref: status.image_ref.clone(),
            hash: spec.annotations.get(keys::HASH).cloned(),
            resources: spec
                .annotations
                .get(keys::RESOURCES)
                .and_then(|text| serde_json::from_str(text).ok()),
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            ended: (status.state == State::Exited)
                .then(|| delay::instant(status.finished_at.unwrap_or(status.created_at))),
            exit_code: status.exit_code.unwrap_or(0),
            reason: status.reason.clone(),
            message: status.message.clone(),
            user: status.user.clone(),
        }
    }

    /// Returns whether the container is running.
    pub(crate) fn running(&self) -> bool {
        self.state == State::Running
    }

    /// Returns why the container has exited, as in its status.
    pub(crate) fn exit_reason(&self) -> &str {
        match (self.reason.as_str(), self.exit_code) {
            ("", 0) => "Completed",
            ("", _) => "Error",
            (reason, _) => reason,
        }
    }

    /// Returns whether the container has exited.
    pub(crate) fn exited(&self) -> bool {
        self.state == State::Exited
    }
}

/// All attempts per container name, oldest first.
pub(crate) type Instances = BTreeMap<String, Vec<Instance>>;

/// Returns the latest attempt of a container; `None` if it was never created.
pub(crate) fn latest<'a>(instances: &'a Instances, name: &str) -> Option<&'a Instance> {
    instances.get(name)?.last()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns a container's first attempt.
    pub(crate) fn instance(name: &str, sandbox: &str, state: State, exit_code: i32) -> Instance {
        Instance {
            id: format!("{name}-id"),
            sandbox_id: sandbox.into(),
            name: name.into(),
            attempt: 0,
            state,
            image: String::new(),
            image_ref: String::new(),
            hash: None,
            resources: None,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            ended: None,
            exit_code,
            reason: String::new(),
            message: String::new(),
            user: Default::default(),
        }
    }
}
