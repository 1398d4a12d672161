//! Creation of containers.

use std::fs::{self, File};
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
use crate::shim::{ShimConfig, UserNamespace};
use crate::snapshot;
use crate::spec::{ContainerSpec, ImageMount, PidMode};
use crate::stage::Stage;
use crate::status::{ContainerEventKind, ContainerUser};
use crate::users::Users;

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
            PidMode::Container(id) => Some(self.pid_namespace(id).await?),
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
    /// PID namespace that the container joins instead of the sandbox's.
    target: Option<File>,
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
        let users = self.sandbox.users()?;
        snapshot::mount_root(dir, &layers, users.as_ref())?;
        let rootfs = snapshot::rootfs(dir);
        let image_volumes = self.mount_image_volumes(users.as_ref())?;
        let image_config = &image.config.config;
        let user = oci::user::resolve(&rootfs, &self.spec.security, &image_config.user)?;
        let stage = self.runtime.stage(&self.id);
        let namespaces = self.namespaces(&stage)?;
        let cgroup = self.cgroup();
        let shown = match &users {
            Some(users) => {
                check_ids(users, &user.user)?;
                show(&stage, users, &self.spec, &rootfs, &image_volumes.volumes)?
            }
            None => ContainerSources {
                spec: self.spec.clone(),
                rootfs: rootfs.clone(),
                image_volumes: image_volumes.volumes,
            },
        };
        let generated = oci::generate(&oci::Inputs {
            spec: &shown.spec,
            image: image_config,
            user: &user,
            rootfs: &shown.rootfs,
            hostname: &self.sandbox.hostname(),
            shm: &self.sandbox.shm(),
            namespaces: &namespaces,
            cgroup: &cgroup,
            image_volumes: &shown.image_volumes,
        })?;
        make_working_dir(&rootfs, &generated.plan.cwd, users.as_ref());
        let stop_signal = self.stop_signal(&image_config.stop_signal)?;
        let user_namespace = self
            .sandbox
            .spec
            .users
            .zip(namespaces.user.clone())
            .map(|(range, path)| UserNamespace { path, range });
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
            users: user_namespace,
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

    fn mount_image_volumes(&self, users: Option<&Users>) -> Result<ImageVolumes> {
        let mut mounted = ImageVolumes::default();
        for (index, volume) in self.spec.image_mounts.iter().enumerate() {
            let image = self.runtime.inner.store.image(&volume.image)?;
            let point = self.dir.join("images").join(index.to_string());
            let layers = self.layers(&image);
            snapshot::mount_image(&point, &layers, users)?;
            let source = volume_source(volume, &point)?;
            mounted
                .volumes
                .push((source, volume.container_path.clone()));
            mounted.mounts.push((point, layers));
        }
        Ok(mounted)
    }

    fn namespaces(&self, stage: &Stage) -> Result<oci::Namespaces> {
        let mut namespaces = self.sandbox.namespaces();
        if let Some(target) = &self.target {
            namespaces.pid = PidNamespace::Join(stage.pin("pid", target)?);
        }
        Ok(namespaces)
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

/// The specification and paths from which the configuration of a container is made.
struct ContainerSources {
    spec: ContainerSpec,
    rootfs: PathBuf,
    image_volumes: Vec<(PathBuf, PathBuf)>,
}

/// Shows a container of a user namespace its root and its mounts where it can reach them, the
/// mounts with its own IDs.
fn show(
    stage: &Stage,
    users: &Users,
    spec: &ContainerSpec,
    rootfs: &Path,
    image_volumes: &[(PathBuf, PathBuf)],
) -> Result<ContainerSources> {
    let mut spec = spec.clone();
    for (index, mount) in spec.mounts.iter_mut().enumerate() {
        let source = oci::source(&mount.host_path)?;
        let name = format!("mount-{index}");
        mount.host_path = stage.show_shifted(&name, &source, !mount.non_recursive, users)?;
    }
    let image_volumes = image_volumes
        .iter()
        .enumerate()
        .map(|(index, (source, target))| {
            let place = stage.show(&format!("image-{index}"), source)?;
            Ok((place, target.clone()))
        })
        .collect::<Result<_>>()?;
    Ok(ContainerSources {
        spec,
        rootfs: stage.show("root", rootfs)?,
        image_volumes,
    })
}

/// Refuses IDs that a user namespace lacks, in the words of other runtimes.
fn check_ids(users: &Users, user: &ContainerUser) -> Result<()> {
    let lacks = |id: u32| users.range.on_node(id).is_none();
    let kind = if lacks(user.uid) {
        "uid"
    } else if lacks(user.gid) || user.groups.iter().any(|gid| lacks(*gid)) {
        "gid"
    } else {
        return Ok(());
    };
    Err(RuntimeError::Invalid(format!(
        "cannot set {kind} to unmapped user in user namespace"
    )))
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
fn make_working_dir(rootfs: &Path, cwd: &str, users: Option<&Users>) {
    let root = users.and_then(|users| users.range.on_node(0));
    let made = beneath::open_dir(rootfs).and_then(|dir| {
        let path = beneath::clean(Path::new(cwd)).unwrap_or_default();
        beneath::make_dirs(dir.as_fd(), &path, |made, _| match root {
            Some(_) => std::os::unix::fs::fchown(made, root, root),
            None => Ok(()),
        })
    });
    if let Err(e) = made {
        tracing::debug!(cwd, "cannot make the working directory: {e}");
    }
}
