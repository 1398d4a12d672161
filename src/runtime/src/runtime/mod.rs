//! The agent's handle on the runtime: opening it, and containers' lives.

mod commands;
mod images;
mod sandboxes;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::cgroup;
use crate::client;
use crate::container::{Container, ExitRecord, Meta, START_FAILED, signal_number, write_json};
use crate::error::{Context, Result, RuntimeError};
use crate::image::store::{Image, Store};
use crate::oci;
use crate::oci::PidNamespace;
use crate::sandbox::SandboxRecord;
use crate::shim::ShimConfig;
use crate::shim::frame::{Exit, Request};
use crate::snapshot;
use crate::spec::*;
use crate::status::*;

/// How long a killed container may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Images, sandboxes and containers of one node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    config: RuntimeConfig,
    store: Arc<Store>,
    /// Another process has the runtime open and cleans up.
    observer: bool,
    events: broadcast::Sender<ContainerEvent>,
    sandboxes: Mutex<BTreeMap<String, SandboxRecord>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

/// Runs blocking work on the runtime's thread pool.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// 64 random hexadecimal digits, as the CRI's runtimes name things.
fn new_id() -> String {
    crate::image::digest::hex(&rand::random::<[u8; 32]>())
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Runtime {
    /// Opens the runtime: makes its directories, connects to the shims that run,
    /// and cleans up after containers that died with their shim.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        Self::open_as(config, false).await
    }

    /// Opens the runtime beside another process that has it open: sees its
    /// containers and images and may change images, but cleans nothing up.
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
            })
        })
        .await?;
        let runtime = Self {
            inner: Arc::new(opened),
        };
        let again = runtime.clone();
        let found = blocking(move || again.load()).await?;
        for container in found {
            runtime.adopt(container).await;
        }
        Ok(runtime)
    }

    /// Reads sandboxes and containers from disk; removes what is not whole.
    fn load(&self) -> Result<Vec<Arc<Container>>> {
        let list = |path: PathBuf| -> Result<Vec<PathBuf>> {
            fs::read_dir(&path)
                .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect())
                .context(|| format!("cannot read {}", path.display()))
        };
        for dir in list(self.inner.config.root.join("sandboxes"))? {
            let id = dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let run = self.sandbox_run(&id);
            match SandboxRecord::load(&dir, run) {
                Some(record) => {
                    self.watch_pause(&record);
                    self.inner.sandboxes.lock().insert(id, record);
                }
                None if self.inner.observer => {}
                None => {
                    tracing::warn!(sandbox = id, "removing what is left of a half-made sandbox");
                    self.discard_sandbox(&id)?;
                }
            }
        }
        // Pins whose sandbox was never recorded.
        for dir in list(self.inner.config.run.join("sandboxes"))? {
            let id = dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !self.inner.observer && !self.inner.sandboxes.lock().contains_key(&id) {
                self.discard_sandbox(&id)?;
            }
        }
        let mut found = Vec::new();
        for dir in list(self.inner.config.root.join("containers"))? {
            match Container::load(&dir, |id| self.socket(id)) {
                Some(container) => {
                    let container = Arc::new(container);
                    let id = container.meta.id.clone();
                    self.inner.containers.lock().insert(id, container.clone());
                    found.push(container);
                }
                None if self.inner.observer => {}
                None => {
                    tracing::warn!(dir = %dir.display(), "removing what is left of a half-made container");
                    self.discard_container(&dir)?;
                }
            }
        }
        Ok(found)
    }

    /// Connects to the shim of a container found on disk, or settles its end.
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
        if let Err(e) = self.connect(&container, began).await {
            if self.inner.observer {
                return;
            }
            tracing::warn!(
                container = container.meta.id,
                "container found without its shim: {e}"
            );
            let record = container.unseen_end();
            if container.set_exited(record) {
                self.settle(&container);
            }
        }
    }

    /// Cleans up after a container's processes.
    fn settle(&self, container: &Container) {
        if !cgroup::destroy(&container.meta.cgroup, KILL_PATIENCE) {
            tracing::warn!(
                container = container.meta.id,
                "its cgroup cannot be removed yet"
            );
        }
        let _ = fs::remove_file(&container.socket);
        if let Err(e) = unmount_container(&container.dir) {
            tracing::warn!(container = container.meta.id, "{e}");
        }
    }

    /// Connects to a container's shim.
    async fn connect(&self, container: &Arc<Container>, began: Timestamp) -> Result<()> {
        let runtime = self.clone();
        let ended = container.clone();
        let on_end = move |exit: Option<Exit>| {
            if runtime.inner.observer {
                return;
            }
            let record = match exit {
                Some(exit) => ended.read_exit().unwrap_or(ExitRecord {
                    exit,
                    reason: String::new(),
                    message: String::new(),
                }),
                None => {
                    // The shim is gone; nobody else holds the container's processes.
                    cgroup::kill(&ended.meta.cgroup);
                    ended.unseen_end()
                }
            };
            if ended.set_exited(record) {
                runtime.announce(&ended, ContainerEventKind::Exited);
                let runtime = runtime.clone();
                tokio::task::spawn_blocking(move || runtime.settle(&ended));
            }
        };
        let (handle, pid) =
            client::watch_container(&container.meta.id, &container.socket, on_end).await?;
        let pid = pid.ok_or_else(|| RuntimeError::Shim {
            id: container.meta.id.clone(),
            reason: "it did not tell the container's process".into(),
        })?;
        container.set_running(pid, began, handle);
        Ok(())
    }

    fn announce(&self, container: &Container, kind: ContainerEventKind) {
        // Nobody listening is no fault.
        let _ = self.inner.events.send(ContainerEvent {
            container_id: container.meta.id.clone(),
            sandbox_id: container.meta.sandbox_id.clone(),
            kind,
        });
    }

    /// What it was opened with.
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }

    /// Every change of a container's state from now on. A receiver that lags
    /// gets `Lagged` and lists the containers anew.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }

    fn sandbox_run(&self, id: &str) -> PathBuf {
        self.inner.config.run.join("sandboxes").join(id)
    }

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.inner.config.root.join("sandboxes").join(id)
    }

    fn socket(&self, id: &str) -> PathBuf {
        self.inner
            .config
            .run
            .join("shims")
            .join(format!("{id}.sock"))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.inner
            .containers
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| RuntimeError::ContainerNotFound(id.to_string()))
    }

    fn sandbox(&self, id: &str) -> Result<SandboxRecord> {
        self.inner
            .sandboxes
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| RuntimeError::SandboxNotFound(id.to_string()))
    }

    /// Makes a container in a sandbox: resolves the image, its user and command,
    /// and mounts its file system. Returns its ID.
    pub async fn create_container(&self, sandbox_id: &str, spec: ContainerSpec) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(RuntimeError::Invalid(format!(
                "sandbox {sandbox_id} is not running"
            )));
        }
        let target = match &spec.pid {
            PidMode::Sandbox => None,
            PidMode::Container(id) => {
                let pid = self.container(id)?.live.lock().pid;
                Some(pid.ok_or_else(|| RuntimeError::State {
                    id: id.clone(),
                    state: "not running",
                    wanted: "running",
                })?)
            }
        };
        let runtime = self.clone();
        let container = blocking(move || {
            let id = new_id();
            let dir = runtime.inner.config.root.join("containers").join(&id);
            let result = runtime.make_container(id, &dir, &sandbox, target, spec);
            if result.is_err()
                && let Err(e) = runtime.discard_container(&dir)
            {
                tracing::warn!("{e}");
            }
            result
        })
        .await?;
        let id = container.meta.id.clone();
        let container = Arc::new(container);
        self.inner
            .containers
            .lock()
            .insert(id.clone(), container.clone());
        self.announce(&container, ContainerEventKind::Created);
        Ok(id)
    }

    fn make_container(
        &self,
        id: String,
        dir: &Path,
        sandbox: &SandboxRecord,
        target: Option<i32>,
        spec: ContainerSpec,
    ) -> Result<Container> {
        let layers_of = |image: &Image| -> Vec<PathBuf> {
            image
                .record
                .layers
                .iter()
                .map(|chain| self.inner.store.layer_path(chain))
                .collect()
        };
        let image = self.inner.store.image(&spec.image)?;
        let layers = layers_of(&image);
        fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
        snapshot::mount_root(dir, &layers)?;
        let rootfs = snapshot::rootfs(dir);

        let mut image_mounts = Vec::new();
        let mut image_volumes = Vec::new();
        for (index, volume) in spec.image_mounts.iter().enumerate() {
            let image = self.inner.store.image(&volume.image)?;
            let point = dir.join("images").join(index.to_string());
            let layers = layers_of(&image);
            snapshot::mount_image(&point, &layers)?;
            let source = match crate::beneath::clean(Path::new(&volume.sub_path)) {
                // Links within the image must not lead out of it.
                Some(sub) => {
                    let root = crate::beneath::open_dir(&point)
                        .context(|| format!("cannot open {}", point.display()))?;
                    let fd = crate::beneath::open_in_root(
                        std::os::fd::AsFd::as_fd(&root),
                        &sub,
                        libc::O_PATH,
                        0,
                    )
                    .context(|| format!("image {:?} has no {:?}", volume.image, volume.sub_path))?;
                    fs::read_link(format!(
                        "/proc/self/fd/{}",
                        std::os::fd::AsRawFd::as_raw_fd(&fd)
                    ))
                    .context(|| format!("image {:?} has no {:?}", volume.image, volume.sub_path))?
                }
                None => point.clone(),
            };
            image_volumes.push((source, volume.container_path.clone()));
            image_mounts.push((point, layers));
        }

        let user = oci::user::resolve(&rootfs, &spec.security, &image.config.config.user)?;
        let mut namespaces = sandbox.namespaces();
        if let Some(pid) = target {
            namespaces.pid = PidNamespace::Join(PathBuf::from(format!("/proc/{pid}/ns/pid")));
        }
        let parent = if sandbox.spec.cgroup_parent.is_empty() {
            &self.inner.config.cgroup_parent
        } else {
            &sandbox.spec.cgroup_parent
        };
        let cgroup = format!("/{}/{id}", parent.trim_matches('/')).replace("//", "/");
        let oci::Generated {
            config,
            plan,
            devices,
        } = oci::generate(&oci::Inputs {
            spec: &spec,
            image: &image.config.config,
            user: &user,
            rootfs: &rootfs,
            hostname: &sandbox.hostname(),
            shm: &sandbox.shm(),
            namespaces: &namespaces,
            cgroup: &cgroup,
            image_volumes: &image_volumes,
        })?;
        make_working_dir(&rootfs, &plan.cwd);
        let stop_signal = match spec.stop_signal.as_deref().filter(|s| !s.is_empty()) {
            Some(text) => signal_number(text)?,
            // An image's odd signal is no reason not to run it.
            None => signal_number(&image.config.config.stop_signal).unwrap_or(libc::SIGTERM),
        };
        let socket = self.socket(&id);
        let shim = ShimConfig {
            id: id.clone(),
            bundle: dir.to_path_buf(),
            state: dir.join("state"),
            socket: socket.clone(),
            exit_file: dir.join("exit.json"),
            cgroup: cgroup.clone(),
            own_pid_namespace: matches!(namespaces.pid, PidNamespace::New),
            tty: spec.tty,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            log_path: spec.log_path.clone(),
            devices,
            plan,
        };
        fs::create_dir_all(&shim.state)
            .context(|| format!("cannot make {}", shim.state.display()))?;
        write_json(&dir.join("config.json"), &config)?;
        write_json(&dir.join("shim.json"), &shim)?;
        let image_ref = image
            .record
            .digests
            .first()
            .cloned()
            .unwrap_or_else(|| image.record.config.to_string());
        let container = Container::new(
            Meta {
                id,
                sandbox_id: sandbox.id.clone(),
                image_id: image.record.config.to_string(),
                image_ref,
                layers,
                image_mounts,
                created_at: Timestamp::now(),
                user: user.user,
                cgroup,
                stop_signal,
                spec,
            },
            dir.to_path_buf(),
            socket,
        );
        // Written last: a directory without it is not a container.
        container.save()?;
        Ok(container)
    }

    fn discard_container(&self, dir: &Path) -> Result<()> {
        unmount_container(dir)?;
        remove_dir(dir)
    }

    /// Starts a created container. When its command cannot be run the container
    /// is `Exited` with code 128 and reason `StartError`, and that is the error.
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
        let started = blocking(move || {
            // A node that was restarted has lost its mounts.
            snapshot::mount_root(&subject.dir, &subject.meta.layers)?;
            for (point, layers) in &subject.meta.image_mounts {
                snapshot::mount_image(point, layers)?;
            }
            start_shim(&binary, &subject.shim_file())
        })
        .await;
        let began = Timestamp::now();
        let result = match started {
            Ok(pid) => match self.connect(&container, began).await {
                Ok(()) => container.save_started(pid, began),
                // A quick container's shim may be gone already.
                Err(e) => match container.read_exit() {
                    Some(record) => {
                        container.live.lock().started_at = Some(began);
                        container.save_started(pid, began)?;
                        if container.set_exited(record) {
                            self.announce(&container, ContainerEventKind::Started);
                            self.announce(&container, ContainerEventKind::Exited);
                            let (runtime, subject) = (self.clone(), container.clone());
                            tokio::task::spawn_blocking(move || runtime.settle(&subject));
                        }
                        return Ok(());
                    }
                    None => Err(e),
                },
            },
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => {
                self.announce(&container, ContainerEventKind::Started);
                Ok(())
            }
            Err(e) => {
                let record = ExitRecord {
                    exit: Exit {
                        code: START_FAILED,
                        signal: None,
                        oom: false,
                        at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0),
                    },
                    reason: "StartError".into(),
                    message: e.to_string(),
                };
                container.save_exit(&record)?;
                if container.set_exited(record) {
                    self.announce(&container, ContainerEventKind::Exited);
                }
                let (runtime, subject) = (self.clone(), container.clone());
                blocking(move || {
                    runtime.settle(&subject);
                    Ok::<(), RuntimeError>(())
                })
                .await?;
                Err(e)
            }
        }
    }

    /// Sends the stop signal, waits `grace` at most, then kills. Returns when the
    /// container has exited; at once when it has already. May be called again
    /// with a shorter grace.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let container = self.container(id)?;
        if container.live.lock().state != ContainerState::Running {
            return Ok(());
        }
        if !grace.is_zero() {
            let signal = container.meta.stop_signal;
            self.signal(&container, signal).await?;
            if tokio::time::timeout(grace, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_and_wait(&container).await
    }

    /// Sends a signal; one that has ended is no error.
    async fn signal(&self, container: &Container, signal: i32) -> Result<()> {
        let handle = container.live.lock().shim.clone();
        let Some(handle) = handle else { return Ok(()) };
        match handle.ask(Request::Kill { signal }).await {
            Err(_) if container.live.lock().state != ContainerState::Running => Ok(()),
            // The shim's end is about to be seen; the cgroup is killed then.
            Err(RuntimeError::Shim { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        if container.live.lock().state != ContainerState::Running {
            return Ok(());
        }
        self.signal(container, libc::SIGKILL).await?;
        if tokio::time::timeout(KILL_PATIENCE, container.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let subject = container.clone();
        blocking(move || {
            cgroup::kill(&subject.meta.cgroup);
            Ok::<(), RuntimeError>(())
        })
        .await?;
        if tokio::time::timeout(KILL_PATIENCE, container.ended())
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

    fn running(&self, container: &Container) -> Result<client::Handle> {
        let live = container.live.lock();
        live.shim.clone().ok_or_else(|| RuntimeError::State {
            id: container.meta.id.clone(),
            state: live.state.as_str(),
            wanted: "running",
        })
    }

    /// Kills the container if it runs, and removes everything of it but its log.
    /// May be repeated; an unknown one is no error.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        let _step = container.step.lock().await;
        self.kill_and_wait(&container).await?;
        let (runtime, subject) = (self.clone(), container.clone());
        blocking(move || {
            if !cgroup::destroy(&subject.meta.cgroup, KILL_PATIENCE) {
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

    /// The container as it is.
    pub fn container_status(&self, id: &str) -> Option<ContainerStatus> {
        self.container(id).ok().map(|c| c.status())
    }

    /// All containers.
    pub fn list_containers(&self) -> Vec<ContainerStatus> {
        let all: Vec<Arc<Container>> = self.inner.containers.lock().values().cloned().collect();
        all.iter().map(|c| c.status()).collect()
    }

    /// Waits until the container has exited.
    pub async fn wait_container(&self, id: &str) -> Result<ContainerStatus> {
        let container = self.container(id)?;
        container.ended().await;
        Ok(container.status())
    }

    /// Changes a container's limits in place; only the fields that are set.
    pub async fn update_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let container = self.container(id)?;
        self.running(&container)?;
        let resources = resources.clone();
        blocking(move || cgroup::update(&container.meta.cgroup, &resources)).await
    }

    /// Makes a cgroup of this node that containers are to be in
    /// (`/kubepods/burstable/pod…`), and sets its weight and limits.
    pub async fn configure_cgroup(&self, cgroup: &str, resources: &Resources) -> Result<()> {
        let (cgroup, mut resources) = (cgroup.to_owned(), resources.clone());
        if let Some(shares) = resources.cpu_shares.filter(|_| cgroup::is_v2()) {
            resources.cpu_shares = None;
            resources
                .unified
                .insert("cpu.weight".into(), cgroup::pod_weight(shares).to_string());
        }
        blocking(move || cgroup::configure(&cgroup, &resources)).await
    }

    /// Removes such a cgroup, unless containers are still in it.
    pub async fn remove_cgroup(&self, cgroup: &str) {
        let cgroup = cgroup.to_owned();
        let _: Result<()> = blocking(move || {
            cgroup::remove_empty(&cgroup);
            Ok(())
        })
        .await;
    }

    /// The container's use of CPU and memory.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        let container = self.container(id)?;
        self.running(&container)?;
        cgroup::stats(&container.meta.cgroup)
    }

    /// Use of CPU and memory by any cgroup of this node (`/`, `/kubepods/pod…`).
    pub fn cgroup_stats(&self, cgroup: &str) -> Result<Stats> {
        cgroup::stats(cgroup)
    }

    /// Bytes and inodes of the container's writable layer. Walks it: not for hot paths.
    pub async fn writable_layer_usage(&self, id: &str) -> Result<FsUsage> {
        let upper = snapshot::upper(&self.container(id)?.dir);
        blocking(move || Ok(snapshot::usage(&upper))).await
    }

    /// Where the container's merged root is mounted on the node.
    pub fn container_rootfs(&self, id: &str) -> Option<PathBuf> {
        self.container(id).ok().map(|c| snapshot::rootfs(&c.dir))
    }
}

/// Makes the working directory while the root can be written to. One that cannot
/// be made is the process's to complain of: a volume may bring it yet.
fn make_working_dir(rootfs: &Path, cwd: &str) {
    let made = crate::beneath::open_dir(rootfs).and_then(|root| {
        let path = crate::beneath::clean(Path::new(cwd)).unwrap_or_default();
        crate::beneath::make_dirs(std::os::fd::AsFd::as_fd(&root), &path, |_, _| Ok(()))
    });
    if let Err(e) = made {
        tracing::debug!(cwd, "cannot make the working directory: {e}");
    }
}

/// Takes down a container's mounts.
fn unmount_container(dir: &Path) -> Result<()> {
    snapshot::unmount(&snapshot::rootfs(dir))?;
    for entry in fs::read_dir(dir.join("images"))
        .into_iter()
        .flatten()
        .flatten()
    {
        snapshot::unmount(&entry.path())?;
    }
    Ok(())
}

/// Starts a shim and reads its word: the PID of the container's first process.
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
    // One line only: the container's processes hold the pipe a moment longer.
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout.take(64 * 1024))
            .read_line(&mut line)
            .context(|| "cannot read from the shim".into())?;
    }
    // The child forks and ends at once. A reaper may have been quicker.
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
