//! A pod's containers as the worker sees them: each attempt of each name.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use rkube_runtime::{ContainerState as State, ContainerStatus as RuntimeStatus};

/// Labels and annotations that the agent puts on containers and sandboxes, the kubelet's names.
pub(crate) mod keys {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// The `resources` that the container was created with, as JSON.
    pub(crate) const RESOURCES: &str = "rkube.dev/resources";
    /// The image's name for the container's status.
    pub(crate) const IMAGE_NAME: &str = "rkube.dev/image-name";
}

/// One attempt of a container.
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
    /// Resources that it was created with.
    pub resources: Option<ResourceRequirements>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    /// The termination message; read once the container has exited.
    pub message: String,
    pub user: rkube_runtime::ContainerUser,
}

impl Instance {
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
            exit_code: status.exit_code.unwrap_or(0),
            reason: status.reason.clone(),
            message: status.message.clone(),
            user: status.user.clone(),
        }
    }

    pub(crate) fn running(&self) -> bool {
        self.state == State::Running
    }

    pub(crate) fn exited(&self) -> bool {
        self.state == State::Exited
    }
}

/// All attempts by name, oldest first.
pub(crate) type Instances = BTreeMap<String, Vec<Instance>>;

/// Returns the latest attempt of a container.
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
            exit_code,
            reason: String::new(),
            message: String::new(),
            user: Default::default(),
        }
    }
}
