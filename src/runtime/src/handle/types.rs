//! The handle, and helpers shared by its operations.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::client;
use crate::container::Container;
use crate::error::{Context, Result, RuntimeError};
use crate::image::store::Store;
use crate::sandbox::SandboxRecord;
use crate::snapshot;
use crate::spec::RuntimeConfig;
use crate::stage::Stage;
use crate::status::{ContainerEvent, ContainerEventKind};

/// Timeout for the exit of a container's processes after SIGKILL.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A container runtime: the images, sandboxes and containers of one node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

/// The state shared by all clones of a handle.
pub(crate) struct Inner {
    pub(crate) config: RuntimeConfig,
    pub(crate) store: Arc<Store>,
    /// Whether another process has the runtime open and does the cleanup.
    pub(super) observer: bool,
    pub(super) events: broadcast::Sender<ContainerEvent>,
    pub(super) sandboxes: Mutex<BTreeMap<String, SandboxRecord>>,
    pub(super) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Whether sandboxes can have user namespaces, once it was tried.
    pub(super) users_supported: std::sync::OnceLock<()>,
}

/// Returns 64 random hexadecimal digits, the form of IDs in CRI runtimes.
pub(super) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// Removes a directory recursively. Succeeds if it does not exist.
pub(super) fn remove_dir(path: &Path) -> Result<()> {
    rkube_fsutil::remove_tree(path).context(|| format!("cannot remove {}", path.display()))
}

impl Runtime {
    /// Sends an event about a container to all subscribers.
    pub(super) fn announce(&self, container: &Container, kind: ContainerEventKind) {
        // Without subscribers, sending fails, which is fine.
        let _ = self.inner.events.send(ContainerEvent {
            container_id: container.meta.id.clone(),
            sandbox_id: container.meta.sandbox_id.clone(),
            kind,
        });
    }

    /// Returns the configuration that the runtime was opened with.
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }

    /// Subscribes to changes of containers' states. A slow subscriber gets `Lagged` and must list
    /// the containers again.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }

    /// Returns the directory of a sandbox's pinned namespaces.
    pub(super) fn sandbox_run(&self, id: &str) -> PathBuf {
        self.inner.config.run.join("sandboxes").join(id)
    }

    /// Returns the directory of a sandbox's record.
    pub(super) fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.inner.config.root.join("sandboxes").join(id)
    }

    /// Returns the path of the socket of a container's shim.
    pub(super) fn socket(&self, id: &str) -> PathBuf {
        self.inner
            .config
            .run
            .join("shims")
            .join(format!("{id}.sock"))
    }

    /// Returns the container with an ID.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.inner
            .containers
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| RuntimeError::ContainerNotFound(id.to_string()))
    }

    /// Returns the sandbox with an ID.
    pub(super) fn sandbox(&self, id: &str) -> Result<SandboxRecord> {
        self.inner
            .sandboxes
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| RuntimeError::SandboxNotFound(id.to_string()))
    }

    /// Returns the stage of a container.
    pub(super) fn stage(&self, container: &str) -> Stage {
        Stage::new(&self.inner.config.run, container)
    }

    /// Unmounts the root file system, image volumes and stage of the container in `dir`.
    pub(crate) fn unmount_container(&self, dir: &Path) -> Result<()> {
        if let Some(id) = dir.file_name().and_then(|name| name.to_str()) {
            self.stage(id).clear()?;
        }
        snapshot::unmount(&snapshot::rootfs(dir))?;
        for place in ["images", "lower"] {
            for entry in fs::read_dir(dir.join(place))
                .into_iter()
                .flatten()
                .flatten()
            {
                snapshot::unmount(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Unmounts a container and removes its directory.
    pub(super) fn discard_container(&self, dir: &Path) -> Result<()> {
        self.unmount_container(dir)?;
        remove_dir(dir)
    }

    /// Returns the connection to a running container's shim. Fails if it is not running.
    pub(super) fn running(&self, container: &Container) -> Result<client::Handle> {
        let live = container.live.lock();
        live.shim.clone().ok_or_else(|| RuntimeError::State {
            id: container.meta.id.clone(),
            state: live.state.as_str(),
            wanted: "running",
        })
    }
}
