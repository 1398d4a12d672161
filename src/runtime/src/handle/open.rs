//! Opening of the runtime, and connections to existing shims.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use rkube_cgroups::node as cgroup;
use tokio::sync::broadcast;

use super::types::{Inner, KILL_TIMEOUT, Runtime};
use crate::blocking::blocking;
use crate::client::{self, Watch};
use crate::container::{Container, ExitRecord};
use crate::error::{Context, Result};
use crate::image::store::Store;
use crate::sandbox::SandboxRecord;
use crate::shim::frame::Exit;
use crate::spec::RuntimeConfig;
use crate::status::{ContainerEventKind, ContainerState};

impl Runtime {
    /// Opens the runtime: creates its directories, connects to running shims, and cleans up after
    /// containers whose shim is gone.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        Self::open_as(config, false).await
    }

    /// Opens the runtime while another process has it open. An observer can list containers and
    /// list and change images, but cleans nothing up.
    pub async fn observe(config: RuntimeConfig) -> Result<Self> {
        Self::open_as(config, true).await
    }

    async fn open_as(config: RuntimeConfig, observer: bool) -> Result<Self> {
        let (events, _) = broadcast::channel(4096);
        let opened = blocking(move || -> Result<_> {
            for dir in ["containers", "sandboxes"] {
                let path = config.root.join(dir);
                fs::create_dir_all(&path).context(|| format!("cannot make {}", path.display()))?;
            }
            for dir in ["shims", "sandboxes"] {
                let path = config.run.join(dir);
                fs::create_dir_all(&path).context(|| format!("cannot make {}", path.display()))?;
            }
            let store = Arc::new(Store::open(&config.images, &config.root)?);
            Ok(Inner {
                config,
                store,
                observer,
                events,
                sandboxes: Mutex::default(),
                containers: Mutex::default(),
                users_supported: std::sync::OnceLock::new(),
            })
        })
        .await?;
        let runtime = Self {
            inner: Arc::new(opened),
        };
        let again = runtime.clone();
        let found = blocking(move || again.load()).await?;
        // At once, because a shim that does not answer must not hold up the others.
        futures::future::join_all(found.into_iter().map(|found| runtime.adopt(found))).await;
        Ok(runtime)
    }

    /// Loads sandboxes and containers from disk. Removes incomplete ones, except as an observer.
    fn load(&self) -> Result<Vec<Arc<Container>>> {
        let list = |path: PathBuf| -> Result<Vec<PathBuf>> {
            fs::read_dir(&path)
                .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect())
                .context(|| format!("cannot read {}", path.display()))
        };
        let mut unread = BTreeSet::new();
        for dir in list(self.inner.config.root.join("sandboxes"))? {
            let id = dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let run = self.sandbox_run(&id);
            match SandboxRecord::load(&dir, run) {
                Ok(Some(record)) => {
                    self.watch_pause(&record);
                    self.inner.sandboxes.lock().insert(id, record);
                }
                // It may be in use, so nothing of it is removed.
                Err(e) => {
                    tracing::error!(sandbox = id, "its record cannot be read: {e}");
                    unread.insert(id);
                }
                Ok(None) if self.inner.observer => {}
                Ok(None) => {
                    tracing::warn!(sandbox = id, "removing what is left of a half-made sandbox");
                    self.discard_sandbox(&id)?;
                }
            }
        }
        // Pinned namespaces whose sandbox was never recorded.
        for dir in list(self.inner.config.run.join("sandboxes"))? {
            let id = dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let known = unread.contains(&id) || self.inner.sandboxes.lock().contains_key(&id);
            if !self.inner.observer && !known {
                self.discard_sandbox(&id)?;
            }
        }
        let mut found = Vec::new();
        for dir in list(self.inner.config.root.join("containers"))? {
            match Container::load(&dir, |id| self.socket(id)) {
                Ok(Some(container)) => {
                    let container = Arc::new(container);
                    let id = container.meta.id.clone();
                    self.inner.containers.lock().insert(id, container.clone());
                    found.push(container);
                }
                // It may be running, so nothing of it is removed.
                Err(e) => {
                    tracing::error!(dir = %dir.display(), "a container's record cannot be read: {e}");
                }
                Ok(None) if self.inner.observer => {}
                Ok(None) => {
                    tracing::warn!(dir = %dir.display(), "removing what is left of a half-made container");
                    self.discard_container(&dir)?;
                }
            }
        }
        Ok(found)
    }

    /// Connects to the shim of a container found on disk, or records its exit if the shim is gone.
    async fn adopt(&self, container: Arc<Container>) {
        if container.status().state == ContainerState::Exited {
            if !self.inner.observer {
                self.settle(&container);
            }
            return;
        }
        if !container.was_started() {
            return;
        }
        let began = container
            .live
            .lock()
            .started_at
            .unwrap_or_else(Timestamp::now);
        match self.connect(&container, began).await {
            Ok(watch) => self.follow(&container, watch),
            Err(_) if self.inner.observer => {}
            Err(e) => {
                tracing::warn!(
                    container = container.meta.id,
                    "container found without its shim: {e}"
                );
                let record = container.unseen_end();
                if container.set_exited(record, || {}) {
                    self.settle(&container);
                }
            }
        }
    }

    /// Cleans up after a container has exited: its cgroup, socket and mounts.
    pub(super) fn settle(&self, container: &Container) {
        if !cgroup::destroy(&container.meta.cgroup, KILL_TIMEOUT) {
            tracing::warn!(
                container = container.meta.id,
                "its cgroup cannot be removed yet"
            );
        }
        let _ = fs::remove_file(&container.socket);
        if let Err(e) = self.unmount_container(&container.dir) {
            tracing::warn!(container = container.meta.id, "{e}");
        }
    }

    /// Connects to a container's shim and records that the container runs, or has run. The caller
    /// must pass the result to [`Self::follow`], after it has announced the start.
    pub(super) async fn connect(
        &self,
        container: &Arc<Container>,
        began: Timestamp,
    ) -> Result<Watch> {
        let mut watch = client::watch_container(&container.meta.id, &container.socket).await?;
        match watch.running.take() {
            Some((handle, pid)) => container.set_running(pid, began, handle),
            None => container.set_began(began),
        }
        Ok(watch)
    }

    /// Handles the container's exit in the background.
    pub(super) fn follow(&self, container: &Arc<Container>, watch: Watch) {
        if self.inner.observer {
            return;
        }
        let (runtime, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let exit = watch.ended().await;
            if runtime.end(&container, exit) {
                tokio::task::spawn_blocking(move || runtime.settle(&container));
            }
        });
    }

    /// Records and announces the exit of a container that its shim reported, or `None` if the shim
    /// is gone. Returns false if the container had already exited.
    fn end(&self, container: &Container, exit: Option<Exit>) -> bool {
        let record = match exit {
            Some(exit) => container.read_exit().unwrap_or(ExitRecord {
                exit,
                reason: String::new(),
                message: String::new(),
            }),
            None => {
                // The shim is gone, so no process supervises the container: kill the rest of it.
                cgroup::kill(&container.meta.cgroup);
                container.unseen_end()
            }
        };
        self.exited(container, record)
    }

    /// Records and announces an exit. Returns false if the container had already exited.
    pub(super) fn exited(&self, container: &Container, record: ExitRecord) -> bool {
        container.set_exited(record, || {
            self.announce(container, ContainerEventKind::Exited);
        })
    }
}
