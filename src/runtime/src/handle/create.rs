//! Creation of containers.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::types::{Runtime, new_id};
use crate::beneath;
use crate::blocking::blocking;
use crate::container::{Container, Meta, signal_number, write_json};
use crate::error::{Context, Result, RuntimeError};
use crate::image::store::Image;
use crate::oci::{self, PidNamespace};
use crate::sandbox::SandboxRecord;
use crate::shim::ShimConfig;
use crate::snapshot;
use crate::spec::{ContainerSpec, ImageMount, PidMode};
use crate::status::ContainerEventKind;

impl Runtime {
    /// Creates a container in a sandbox: resolves the image, its user and its command, and mounts
    /// the root file system. Returns the container's ID. The image must be on the node.
    pub async fn create_container(&self, sandbox_id: &str, spec: ContainerSpec) -> Result<String> {
        self.create_container_of(sandbox_id, spec, None).await
    }

    /// Creates a container of `image`, or of the image that the specification names.
    pub(crate) async fn create_container_of(
        &self,
        sandbox_id: &str,
        spec: ContainerSpec,
        image: Option<Image>,
    ) -> Result<String> {
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
            let new = NewContainer {
                runtime: &runtime,
                id,
                dir: &dir,
                sandbox: &sandbox,
                target,
                image,
                spec,
            };
            let result = new.create();
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
}

/// The parameters of a container's creation.
struct NewContainer<'a> {
    runtime: &'a Runtime,
    id: String,
    /// Directory of the container.
    dir: &'a Path,
    sandbox: &'a SandboxRecord,
    /// Process whose PID namespace the container joins instead of the sandbox's.
    target: Option<i32>,
    /// The image, if it is not the one that the specification names.
    image: Option<Image>,
    spec: ContainerSpec,
}

/// The images mounted as volumes of a container.
#[derive(Default)]
struct ImageVolumes {
    /// Sources on the node and their target paths in the container.
    volumes: Vec<(PathBuf, PathBuf)>,
    /// Mount points on the node and their layers.
    mounts: Vec<(PathBuf, Vec<PathBuf>)>,
}

impl NewContainer<'_> {
    /// Creates the container's directory, mounts and configuration. On failure, the caller removes
    /// the directory.
    fn create(mut self) -> Result<Container> {
        let dir = self.dir;
        let image = match self.image.take() {
            Some(image) => image,
            None => self.runtime.inner.store.image(&self.spec.image)?,
        };
        let layers = self.layers(&image);
        fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
        snapshot::mount_root(dir, &layers)?;
        let rootfs = snapshot::rootfs(dir);
        let image_volumes = self.mount_image_volumes()?;
        let image_config = &image.config.config;
        let user = oci::user::resolve(&rootfs, &self.spec.security, &image_config.user)?;
        let namespaces = self.namespaces();
        let cgroup = self.cgroup();
        let generated = oci::generate(&oci::Inputs {
            spec: &self.spec,
            image: image_config,
            user: &user,
            rootfs: &rootfs,
            hostname: &self.sandbox.hostname(),
            shm: &self.sandbox.shm(),
            namespaces: &namespaces,
            cgroup: &cgroup,
            image_volumes: &image_volumes.volumes,
        })?;
        make_working_dir(&rootfs, &generated.plan.cwd);
        let stop_signal = self.stop_signal(&image_config.stop_signal)?;
        let config = generated.config;
        let shim = ShimConfig {
            id: self.id.clone(),
            bundle: dir.to_path_buf(),
            state: dir.join("state"),
            socket: self.runtime.socket(&self.id),
            exit_file: dir.join("exit.json"),
            cgroup: cgroup.clone(),
            own_pid_namespace: matches!(namespaces.pid, PidNamespace::New),
            tty: self.spec.tty,
            stdin: self.spec.stdin,
            stdin_once: self.spec.stdin_once,
            log_path: self.spec.log_path.clone(),
            devices: generated.devices,
            plan: generated.plan,
        };
        fs::create_dir_all(&shim.state)
            .context(|| format!("cannot make {}", shim.state.display()))?;
        write_json(&dir.join("config.json"), &config)?;
        write_json(&dir.join("shim.json"), &shim)?;
        let container = Container::new(
            Meta {
                id: self.id,
                sandbox_id: self.sandbox.id.clone(),
                image_id: image.record.config.to_string(),
                image_ref: image_ref(&image),
                layers,
                image_mounts: image_volumes.mounts,
                created_at: Timestamp::now(),
                user: user.user,
                cgroup,
                stop_signal,
                spec: self.spec,
            },
            dir.to_path_buf(),
            shim.socket,
        );
        // Written last: a directory without this file is not a container.
        container.save()?;
        Ok(container)
    }

    /// Returns the directories of the image's layers, bottom first.
    fn layers(&self, image: &Image) -> Vec<PathBuf> {
        let layers = image.record.layers.iter();
        layers
            .map(|chain| self.runtime.inner.store.layer_path(chain))
            .collect()
    }

    fn mount_image_volumes(&self) -> Result<ImageVolumes> {
        let mut mounted = ImageVolumes::default();
        for (index, volume) in self.spec.image_mounts.iter().enumerate() {
            let image = self.runtime.inner.store.image(&volume.image)?;
            let point = self.dir.join("images").join(index.to_string());
            let layers = self.layers(&image);
            snapshot::mount_image(&point, &layers)?;
            let source = volume_source(volume, &point)?;
            mounted
                .volumes
                .push((source, volume.container_path.clone()));
            mounted.mounts.push((point, layers));
        }
        Ok(mounted)
    }

    fn namespaces(&self) -> oci::Namespaces {
        let mut namespaces = self.sandbox.namespaces();
        if let Some(pid) = self.target {
            namespaces.pid = PidNamespace::Join(PathBuf::from(format!("/proc/{pid}/ns/pid")));
        }
        namespaces
    }

    fn cgroup(&self) -> String {
        let own = &self.sandbox.spec.cgroup_parent;
        let parent = if own.is_empty() {
            &self.runtime.inner.config.cgroup_parent
        } else {
            own
        };
        format!("/{}/{}", parent.trim_matches('/'), self.id).replace("//", "/")
    }

    /// Returns the signal of the specification, or else that of the image. An unknown signal in the
    /// image is replaced by SIGTERM.
    fn stop_signal(&self, of_image: &str) -> Result<i32> {
        match self.spec.stop_signal.as_deref().filter(|s| !s.is_empty()) {
            Some(text) => signal_number(text),
            None => Ok(signal_number(of_image).unwrap_or(libc::SIGTERM)),
        }
    }
}

/// Returns the path of a volume's source. Links within the image cannot lead outside it.
fn volume_source(volume: &ImageMount, point: &Path) -> Result<PathBuf> {
    let Some(sub) = beneath::clean(Path::new(&volume.sub_path)) else {
        return Ok(point.to_owned());
    };
    let missing = || format!("image {:?} has no {:?}", volume.image, volume.sub_path);
    let root = beneath::open_dir(point).context(|| format!("cannot open {}", point.display()))?;
    let fd = beneath::open_in_root(root.as_fd(), &sub, libc::O_PATH, 0).context(missing)?;
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).context(missing)
}

/// Returns the image's name with its digest, or its ID.
fn image_ref(image: &Image) -> String {
    image
        .record
        .digests
        .first()
        .cloned()
        .unwrap_or_else(|| image.record.config.to_string())
}

/// Creates the working directory while the root is writable. Failures are ignored: a volume may
/// provide the directory, and otherwise the process fails to start.
fn make_working_dir(rootfs: &Path, cwd: &str) {
    let made = beneath::open_dir(rootfs).and_then(|root| {
        let path = beneath::clean(Path::new(cwd)).unwrap_or_default();
        beneath::make_dirs(root.as_fd(), &path, |_, _| Ok(()))
    });
    if let Err(e) = made {
        tracing::debug!(cwd, "cannot make the working directory: {e}");
    }
}
