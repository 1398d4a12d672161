//! The agent's handle on the runtime.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::error::{ImageError, Result, RuntimeError};
use crate::session::Session;
use crate::spec::*;
use crate::status::*;

/// Images, sandboxes and containers of one node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    config: RuntimeConfig,
    events: broadcast::Sender<ContainerEvent>,
}

fn later<T>() -> Result<T> {
    Err(RuntimeError::Invalid("not there yet".into()))
}
fn later_image<T>() -> Result<T, ImageError> {
    Err(ImageError::Malformed("not there yet".into()))
}

impl Runtime {
    /// Opens the runtime: makes its directories, connects to the shims that run,
    /// and cleans up after containers that died with their shim.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        let (events, _) = broadcast::channel(1024);
        Ok(Self {
            inner: Arc::new(Inner { config, events }),
        })
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

    // Images.

    /// Pulls `image` (a name, with a tag or digest; `docker.io/library` and
    /// `latest` by default) for this machine's platform. `auth` is tried by
    /// registry, the longest match first, then anonymously.
    pub async fn pull_image(
        &self,
        _image: &str,
        _auth: &[RegistryAuth],
        _progress: impl Fn(PullProgress) + Send + Sync + 'static,
    ) -> Result<ImageStatus, ImageError> {
        later_image()
    }

    /// The image that a name, `name@digest`, ID or ID prefix (12 digits or more) stands for.
    pub fn image_status(&self, _image: &str) -> Option<ImageStatus> {
        None
    }

    /// All images of this node.
    pub fn list_images(&self) -> Vec<ImageStatus> {
        Vec::new()
    }

    /// Forgets the image with all its names, and deletes what no other image
    /// or node uses. An unknown image is no error; one in use by a container is.
    pub async fn remove_image(&self, _image: &str) -> Result<(), ImageError> {
        later_image()
    }

    /// Forgets one name; the image with its last one.
    pub async fn untag_image(&self, _name: &str) -> Result<(), ImageError> {
        later_image()
    }

    /// Gives the image another name.
    pub async fn tag_image(&self, _image: &str, _name: &str) -> Result<(), ImageError> {
        later_image()
    }

    /// Loads a docker-archive or OCI-layout tar, plain, gzip or zstd; returns
    /// the images' names (or IDs of those without a name).
    pub async fn load_image(&self, _archive: &Path) -> Result<Vec<String>, ImageError> {
        later_image()
    }

    /// The same from a stream, which is spooled to disk first.
    pub async fn load_image_from(
        &self,
        _archive: impl tokio::io::AsyncRead + Send + Unpin,
    ) -> Result<Vec<String>, ImageError> {
        later_image()
    }

    /// Makes an image whose root holds nothing but `binary` as `/rkube` (a hard
    /// link where possible) and `/tmp`, run as `entrypoint`, listening on `ports`
    /// (`8080/tcp`). Cheap when it is there already.
    pub async fn install_builtin_image(
        &self,
        _name: &str,
        _entrypoint: &[&str],
        _ports: &[&str],
        _binary: &Path,
    ) -> Result<ImageStatus, ImageError> {
        later_image()
    }

    /// The file system that images live on.
    pub fn image_fs_info(&self) -> Result<FsInfo> {
        later()
    }

    // Sandboxes.

    /// Makes a sandbox: its namespaces, host name, kernel parameters and
    /// `/dev/shm`. The network is the caller's to attach to `netns_path`.
    pub async fn run_sandbox(&self, _spec: SandboxSpec) -> Result<Sandbox> {
        later()
    }

    /// Kills all containers of the sandbox and gives up its namespaces. May be repeated.
    pub async fn stop_sandbox(&self, _id: &str) -> Result<()> {
        later()
    }

    /// Stops and forgets the sandbox and all its containers. May be repeated;
    /// an unknown one is no error.
    pub async fn remove_sandbox(&self, _id: &str) -> Result<()> {
        later()
    }

    /// The sandbox as it is.
    pub fn sandbox_status(&self, _id: &str) -> Option<Sandbox> {
        None
    }

    /// All sandboxes.
    pub fn list_sandboxes(&self) -> Vec<Sandbox> {
        Vec::new()
    }

    /// Connects to `port` on the loopback address inside the sandbox
    /// (`port-forward`); IPv4 first, then IPv6.
    pub async fn connect_sandbox(&self, _id: &str, _port: u16) -> Result<tokio::net::TcpStream> {
        later()
    }

    // Containers.

    /// Makes a container in a sandbox: resolves the image, its user and command,
    /// and mounts its file system. Returns its ID.
    pub async fn create_container(
        &self,
        _sandbox_id: &str,
        _spec: ContainerSpec,
    ) -> Result<String> {
        later()
    }

    /// Starts a created container. When its command cannot be run the container
    /// is `Exited` with code 128 and reason `StartError`, and that is the error.
    pub async fn start_container(&self, _id: &str) -> Result<()> {
        later()
    }

    /// Sends the stop signal, waits `grace` at most, then kills. Returns when the
    /// container has exited; at once when it has already. May be called again
    /// with a shorter grace.
    pub async fn stop_container(&self, _id: &str, _grace: Duration) -> Result<()> {
        later()
    }

    /// Sends `signal` to the container's first process.
    pub async fn kill_container(&self, _id: &str, _signal: i32) -> Result<()> {
        later()
    }

    /// Kills the container if it runs, and removes everything of it but its log.
    /// May be repeated; an unknown one is no error.
    pub async fn remove_container(&self, _id: &str) -> Result<()> {
        later()
    }

    /// The container as it is.
    pub fn container_status(&self, _id: &str) -> Option<ContainerStatus> {
        None
    }

    /// All containers.
    pub fn list_containers(&self) -> Vec<ContainerStatus> {
        Vec::new()
    }

    /// Waits until the container has exited.
    pub async fn wait_container(&self, _id: &str) -> Result<ContainerStatus> {
        later()
    }

    /// Changes a container's limits in place; only the fields that are set.
    pub async fn update_resources(&self, _id: &str, _resources: &Resources) -> Result<()> {
        later()
    }

    /// Runs a command in a running container. A command that cannot be run is
    /// an error here.
    pub async fn exec(&self, _id: &str, _spec: ExecSpec) -> Result<Session> {
        later()
    }

    /// Runs a command to its end and collects its output (16 MiB each at most);
    /// kills it after `timeout` (none when zero) and returns `Timeout`.
    pub async fn exec_sync(
        &self,
        _id: &str,
        _command: &[String],
        _timeout: Duration,
    ) -> Result<ExecOutput> {
        later()
    }

    /// Attaches to a running container's streams, from now on.
    pub async fn attach(&self, _id: &str, _stdin: bool) -> Result<Session> {
        later()
    }

    /// Opens the container's log file anew, after it was renamed.
    pub async fn reopen_log(&self, _id: &str) -> Result<()> {
        later()
    }

    /// The container's use of CPU and memory.
    pub fn stats(&self, _id: &str) -> Result<Stats> {
        later()
    }

    /// Use of CPU and memory by any cgroup of this node (`/`, `/kubepods/pod…`).
    pub fn cgroup_stats(&self, _cgroup: &str) -> Result<Stats> {
        later()
    }

    /// Bytes and inodes of the container's writable layer. Walks it: not for hot paths.
    pub async fn writable_layer_usage(&self, _id: &str) -> Result<FsUsage> {
        later()
    }

    /// Where the container's merged root is mounted on the node.
    pub fn container_rootfs(&self, _id: &str) -> Option<std::path::PathBuf> {
        None
    }
}
