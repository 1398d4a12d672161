//! The life cycle of containers after their creation.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rkube_cgroups::node as cgroup;

use super::types::{KILL_TIMEOUT, Runtime};
use crate::blocking::blocking;
use crate::container::{Container, ExitRecord, START_FAILED};
use crate::error::{Context, Result, RuntimeError};
use crate::shim::frame::{Exit, Request};
use crate::snapshot;
use crate::status::{ContainerEventKind, ContainerState, ContainerStatus};

impl Runtime {
    /// Starts a created container. If its command cannot be run, the container becomes `Exited`
    /// with code 128 and reason `StartError`, and the error is returned.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _step = container.step.lock().await;
        let state = container.live.lock().state;
        if state != ContainerState::Created {
            return Err(RuntimeError::State {
                id: id.to_string(),
                state: state.as_str(),
                wanted: "created",
            });
        }
        let binary = self.inner.config.binary.clone();
        let subject = container.clone();
        let sandbox = self.sandbox(&container.meta.sandbox_id)?;
        let started = blocking(move || {
            let users = sandbox.users()?;
            // The mounts are lost after a restart of the node.
            snapshot::mount_root(&subject.dir, &subject.meta.layers, users.as_ref())?;
            for (point, layers) in &subject.meta.image_mounts {
                snapshot::mount_image(point, layers, users.as_ref())?;
            }
            start_shim(&binary, &subject.shim_file())
        })
        .await;
        let began = Timestamp::now();
        let result = match started {
            Ok(pid) => self.watch_start(&container, pid, began).await,
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            self.fail_start(&container, &e).await?;
            return Err(e);
        }
        Ok(())
    }

    /// Connects to the shim of a container that was just started. The start is recorded and
    /// announced before the exit can be, however short the container's life is.
    async fn watch_start(
        &self,
        container: &Arc<Container>,
        pid: i32,
        began: Timestamp,
    ) -> Result<()> {
        let watch = match self.connect(container, began).await {
            Ok(watch) => Ok(watch),
            // The shim of a short container may have exited already.
            Err(e) => {
                let record = container.read_exit().ok_or(e)?;
                container.set_began(began);
                Err(record)
            }
        };
        // Followed in any case: nothing else would notice the exit.
        let saved = container.save_started(pid, began);
        if saved.is_ok() {
            self.announce(container, ContainerEventKind::Started);
        }
        match watch {
            Ok(watch) => self.follow(container, watch),
            Err(record) => {
                if self.exited(container, record) {
                    let (runtime, subject) = (self.clone(), container.clone());
                    tokio::task::spawn_blocking(move || runtime.settle(&subject));
                }
            }
        }
        saved
    }

    /// Records that a container could not be started, and cleans up.
    async fn fail_start(&self, container: &Arc<Container>, error: &RuntimeError) -> Result<()> {
        let record = ExitRecord {
            exit: Exit {
                code: START_FAILED,
                signal: None,
                oom: false,
                at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0),
            },
            reason: "StartError".into(),
            message: error.to_string(),
        };
        // The exit counts even if it cannot be recorded, for example on a full disk.
        if let Err(e) = container.save_exit(&record) {
            tracing::warn!(
                container = container.meta.id,
                "its end is not recorded: {e}"
            );
        }
        self.exited(container, record);
        let (runtime, subject) = (self.clone(), container.clone());
        blocking(move || {
            runtime.settle(&subject);
            Ok(())
        })
        .await
    }

    /// Sends the stop signal, waits at most `grace`, then kills the container. Returns once it has
    /// exited, and at once if it is not running. Can be called again with a shorter grace period.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let container = self.container(id)?;
        if container.live.lock().state != ContainerState::Running {
            return Ok(());
        }
        // A frozen process would take no signal, and on version 1 not even end.
        self.set_container_frozen(id, false).await?;
        if !grace.is_zero() {
            let signal = container.meta.stop_signal;
            let stopped = async {
                self.signal(&container, signal).await?;
                container.ended().await;
                Ok(())
            };
            if let Ok(result) = tokio::time::timeout(grace, stopped).await {
                return result;
            }
        }
        self.kill_and_wait(&container).await
    }

    /// Opens the PID namespace of a running container.
    pub(super) async fn pid_namespace(&self, id: &str) -> Result<File> {
        let container = self.container(id)?;
        let not_running = || RuntimeError::State {
            id: id.to_string(),
            state: "not running",
            wanted: "running",
        };
        let pid = container.live.lock().pid.ok_or_else(not_running)?;
        let path = format!("/proc/{pid}/ns/pid");
        let namespace = File::open(&path).map_err(|_| not_running())?;
        // The number may be another process's by now. If the shim can still send a signal to the
        // container's first process, it has not reaped it, and that one was just opened.
        let shim = self.running(&container)?;
        shim.ask(Request::Kill { signal: 0 }).await?;
        Ok(namespace)
    }

    /// Sends a signal. Succeeds if the container has exited.
    async fn signal(&self, container: &Container, signal: i32) -> Result<()> {
        let handle = container.live.lock().shim.clone();
        let Some(handle) = handle else { return Ok(()) };
        match handle.ask(Request::Kill { signal }).await {
            Err(_) if container.live.lock().state != ContainerState::Running => Ok(()),
            // The shim is exiting; its observer then kills the cgroup.
            Err(RuntimeError::Shim { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Kills a container and waits for its exit: first its first process, then, after a timeout
    /// each, its cgroup and its shim.
    pub(super) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        if container.live.lock().state != ContainerState::Running {
            return Ok(());
        }
        // It may have been frozen since it was asked to stop.
        if let Err(e) = self.set_container_frozen(&container.meta.id, false).await {
            tracing::warn!(container = container.meta.id, "it stays frozen: {e}");
        }
        let killed = async {
            self.signal(container, libc::SIGKILL).await?;
            container.ended().await;
            Ok(())
        };
        if let Ok(result) = tokio::time::timeout(KILL_TIMEOUT, killed).await {
            return result;
        }
        let subject = container.clone();
        blocking(move || {
            cgroup::kill(&subject.meta.cgroup);
            Ok::<(), RuntimeError>(())
        })
        .await?;
        if tokio::time::timeout(KILL_TIMEOUT, container.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
        // A shim that is stopped reports nothing. Its end is taken for that of the container.
        let handle = container.live.lock().shim.clone();
        if let Some(handle) = handle {
            tracing::warn!(
                container = container.meta.id,
                "killing a shim that does not respond"
            );
            handle.kill_shim()?;
        }
        if tokio::time::timeout(KILL_TIMEOUT, container.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
        Err(RuntimeError::Shim {
            id: container.meta.id.clone(),
            reason: "the container did not end after SIGKILL".into(),
        })
    }

    /// Sends `signal` to the container's first process.
    pub async fn kill_container(&self, id: &str, signal: i32) -> Result<()> {
        let container = self.container(id)?;
        self.running(&container)?
            .ask(Request::Kill { signal })
            .await
            .map(drop)
    }

    /// Kills a running container, and removes all its files except its log. Can be repeated;
    /// succeeds if the container is unknown.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        let _step = container.step.lock().await;
        self.kill_and_wait(&container).await?;
        let (runtime, subject) = (self.clone(), container.clone());
        blocking(move || {
            if !cgroup::destroy(&subject.meta.cgroup, KILL_TIMEOUT) {
                return Err(RuntimeError::Invalid(format!(
                    "processes of container {} do not end",
                    subject.meta.id
                )));
            }
            let _ = fs::remove_file(&subject.socket);
            runtime.discard_container(&subject.dir)
        })
        .await?;
        if self.inner.containers.lock().remove(id).is_some() {
            self.announce(&container, ContainerEventKind::Removed);
        }
        Ok(())
    }

    /// Returns the status of a container.
    pub fn container_status(&self, id: &str) -> Option<ContainerStatus> {
        self.container(id).ok().map(|c| c.status())
    }

    /// Returns the status of all containers.
    pub fn list_containers(&self) -> Vec<ContainerStatus> {
        let all: Vec<Arc<Container>> = self.inner.containers.lock().values().cloned().collect();
        all.iter().map(|c| c.status()).collect()
    }

    /// Waits until the container has exited, and returns its status.
    pub async fn wait_container(&self, id: &str) -> Result<ContainerStatus> {
        let container = self.container(id)?;
        container.ended().await;
        Ok(container.status())
    }
}

/// Starts a shim. Returns the PID of the container's first process, which the shim reports as one
/// line.
fn start_shim(binary: &Path, config: &Path) -> Result<i32> {
    let mut child = Command::new(binary)
        .arg("shim")
        .arg(config)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(|| format!("cannot run {}", binary.display()))?;
    // Read one line only: the container's processes hold the pipe open a little longer.
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout.take(64 * 1024))
            .read_line(&mut line)
            .context(|| "cannot read from the shim".into())?;
    }
    // The child forks and exits. Another reaper may have collected it already.
    let _ = child.wait();
    let line = line.trim_end();
    if let Some(pid) = line.strip_prefix("ok ").and_then(|pid| pid.parse().ok()) {
        return Ok(pid);
    }
    Err(RuntimeError::Start(match line.strip_prefix("error ") {
        Some(reason) => format!("unable to start container process: {reason}"),
        None => "the shim ended without a word".into(),
    }))
}
