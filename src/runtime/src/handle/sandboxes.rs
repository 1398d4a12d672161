//! Operations on sandboxes.

use std::sync::Arc;

use super::types::{Runtime, new_id, remove_dir};
use crate::blocking::blocking;
use crate::container::Container;
use crate::error::{Context, Result, RuntimeError};
use crate::sandbox::{self, SandboxRecord};
use crate::shim::sys;
use crate::spec::SandboxSpec;
use crate::status::{ContainerEvent, ContainerEventKind, Sandbox};
use crate::users;

impl Runtime {
    /// Creates a sandbox: its namespaces, host name, kernel parameters and `/dev/shm`. The caller
    /// must attach `netns_path` to the network. Fails if the ID is in use.
    pub async fn run_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let id = spec.id.clone().unwrap_or_else(new_id);
        if id.is_empty()
            || !id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Err(RuntimeError::Invalid(format!("invalid sandbox ID {id:?}")));
        }
        if self.inner.sandboxes.lock().contains_key(&id) {
            return Err(RuntimeError::Invalid(format!(
                "sandbox {id} exists already"
            )));
        }
        let (run, dir) = (self.sandbox_run(&id), self.sandbox_dir(&id));
        let binary = self.inner.config.binary.clone();
        let record = blocking(move || {
            let record = SandboxRecord::create(id, spec, run, &binary)?;
            if let Err(e) = record.save(&dir) {
                let _ = record.tear_down();
                return Err(e);
            }
            Ok(record)
        })
        .await?;
        self.watch_pause(&record);
        let status = record.status();
        self.inner
            .sandboxes
            .lock()
            .insert(record.id.clone(), record);
        Ok(status)
    }

    /// Returns whether sandboxes can have user namespaces: the kernel makes them, and shows files of
    /// the runtime's file systems with other IDs.
    pub fn supports_users(&self) -> bool {
        let known = &self.inner.users_supported;
        if known.get().is_some() {
            return true;
        }
        let config = &self.inner.config;
        match users::supported(&[&config.root, &config.images, &config.run]) {
            Ok(()) => known.set(()).is_ok() || known.get().is_some(),
            // Tried again, as the lack may be one of the moment.
            Err(e) => {
                tracing::debug!("pods cannot have user namespaces: {e}");
                false
            }
        }
    }

    /// Watches a sandbox's `pause` process, and reports its unexpected exit as an event.
    pub(super) fn watch_pause(&self, record: &SandboxRecord) {
        let Some(pid) = record.pid.filter(|_| record.is_ready()) else {
            return;
        };
        let Ok(fd) = sys::pidfd(pid) else {
            return;
        };
        let Ok(handle) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (runtime, id) = (self.clone(), record.id.clone());
        handle.spawn(async move {
            // SAFETY: the `OwnedFd` keeps the same descriptor open as long as it lives.
            let Ok(fd) = (unsafe { tokio::io::unix::AsyncFd::register(fd) }) else {
                return;
            };
            if fd.readable().await.is_err() {
                return;
            }
            let alive = runtime
                .inner
                .sandboxes
                .lock()
                .get(&id)
                .is_some_and(|r| !r.stopped);
            if alive {
                let _ = runtime.inner.events.send(ContainerEvent {
                    container_id: String::new(),
                    sandbox_id: id,
                    kind: ContainerEventKind::SandboxDied,
                });
            }
        });
    }

    /// Kills all containers of the sandbox and releases its namespaces. Can be repeated.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let record = {
            let mut sandboxes = self.inner.sandboxes.lock();
            let Some(record) = sandboxes.get_mut(id) else {
                return Err(RuntimeError::SandboxNotFound(id.to_string()));
            };
            record.stopped = true;
            record.clone()
        };
        let containers: Vec<Arc<Container>> = self.containers_of(id);
        let stops = containers.iter().map(|c| self.kill_and_wait(c));
        for result in futures::future::join_all(stops).await {
            result?;
        }
        let dir = self.sandbox_dir(id);
        blocking(move || {
            record.save(&dir)?;
            record.tear_down()
        })
        .await
    }

    /// Returns the containers of a sandbox.
    pub(super) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.inner
            .containers
            .lock()
            .values()
            .filter(|c| c.meta.sandbox_id == sandbox)
            .cloned()
            .collect()
    }

    /// Stops and removes the sandbox and all its containers. Can be repeated; succeeds if the
    /// sandbox is unknown.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        match self.stop_sandbox(id).await {
            Err(RuntimeError::SandboxNotFound(_)) => return Ok(()),
            other => other?,
        }
        for container in self.containers_of(id) {
            self.remove_container(&container.meta.id).await?;
        }
        let (runtime, owned) = (self.clone(), id.to_string());
        blocking(move || runtime.discard_sandbox(&owned)).await?;
        self.inner.sandboxes.lock().remove(id);
        Ok(())
    }

    /// Unmounts a sandbox's namespaces and removes its directories.
    pub(super) fn discard_sandbox(&self, id: &str) -> Result<()> {
        sandbox::release(&self.sandbox_run(id))?;
        remove_dir(&self.sandbox_dir(id))
    }

    /// Returns the status of a sandbox.
    pub fn sandbox_status(&self, id: &str) -> Option<Sandbox> {
        self.inner
            .sandboxes
            .lock()
            .get(id)
            .map(SandboxRecord::status)
    }

    /// Returns the status of all sandboxes.
    pub fn list_sandboxes(&self) -> Vec<Sandbox> {
        self.inner
            .sandboxes
            .lock()
            .values()
            .map(SandboxRecord::status)
            .collect()
    }

    /// Connects to `port` on the loopback address inside the sandbox, first over IPv4, then IPv6.
    /// Used by `port-forward`.
    pub async fn connect_sandbox(&self, id: &str, port: u16) -> Result<tokio::net::TcpStream> {
        let netns = self.sandbox(id)?.netns();
        let stream = blocking(move || sandbox::connect(netns, port)).await?;
        stream
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpStream::from_std(stream))
            .context(|| format!("cannot connect to port {port} in the sandbox"))
    }
}
