//! Types shared by all kinds of volumes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::host::Host;
use crate::kinds::*;
use crate::objects::ObjectState;
use crate::pods::images::ImagePuller;
use crate::pods::paths::pod_dir;

/// Handles to the parts of the node that set up volumes.
#[derive(Clone)]
pub(crate) struct VolumeSources {
    pub host: Arc<Host>,
    pub client: kube::Client,
    pub images: Arc<ImagePuller>,
}

/// Error returned for a volume that cannot be set up; displayed as the message of its event.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(super) volume: String,
    /// The step that failed, as upstream names it.
    pub(super) operation: Operation,
    pub(super) reason: String,
    /// The missing object, if it is watched.
    pub(super) dependency: Option<Dependency>,
}

/// A step of setting up a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    SetUp,
    MountOptions,
    MapDevice,
}

impl Operation {
    /// Returns the name in upstream's messages.
    fn name(self) -> &'static str {
        match self {
            Self::SetUp => "MountVolume.SetUp",
            Self::MountOptions => "MountVolume.MountOptionSupport check",
            Self::MapDevice => "MapVolume.SetUpDevice",
        }
    }
}

impl Problem {
    /// Returns the reason of the problem's event.
    pub(crate) fn event(&self) -> &'static str {
        match self.operation {
            Operation::SetUp | Operation::MountOptions => "FailedMount",
            Operation::MapDevice => "FailedMapVolume",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} failed for volume {:?} : {}",
            self.operation.name(),
            self.volume,
            self.reason
        )
    }
}

/// A watched object whose change may resolve a problem.
#[derive(Clone)]
pub(crate) enum Dependency {
    ConfigMap(watch::Receiver<ObjectState<ConfigMap>>),
    Secret(watch::Receiver<ObjectState<Secret>>),
}

impl std::fmt::Debug for Dependency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ConfigMap(..) => "ConfigMap",
            Self::Secret(..) => "Secret",
        })
    }
}

impl Dependency {
    /// Waits for the object's next change; forever if the watch has ended.
    pub(crate) async fn changed(&mut self) {
        let alive = match self {
            Self::ConfigMap(r) => r.changed().await,
            Self::Secret(r) => r.changed().await,
        };
        if alive.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The ways in which a pod's containers use a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// A container has it in `volumeMounts`.
    pub mount: bool,
    /// A container has it in `volumeDevices`.
    pub device: bool,
}

/// Source of the mounts of a volume.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Path { path: PathBuf, read_only: bool },
    Image(String),
}

/// Returns the directory of a pod's volume, named as by the kubelet.
pub(super) fn volume_dir(uid: &str, plugin: &str, name: &str) -> PathBuf {
    pod_dir(uid)
        .join("volumes")
        .join(format!("kubernetes.io~{plugin}"))
        .join(name)
}

/// Returns a problem without the volume's name, which [`super::set_up`] adds.
pub(super) fn problem(reason: impl fmt::Display) -> Problem {
    Problem {
        volume: String::new(),
        operation: Operation::SetUp,
        reason: reason.to_string(),
        dependency: None,
    }
}

/// Returns the pod's `fsGroup`.
pub(super) fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec()
        .security_context
        .as_ref()
        .and_then(|c| c.fs_group)
        .and_then(|g| u32::try_from(g).ok())
}
