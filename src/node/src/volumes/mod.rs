//! A pod's volumes: set up before its sandbox, refreshed while it runs, then removed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rkube_runtime::{Mount, MountPropagation};
use tokio::sync::watch;

mod atomic;
mod beneath;
mod claim;
mod content;
mod local;
mod ownership;
pub(crate) mod subpath;
mod types;

pub(crate) use subpath::open_beneath;
pub(crate) use types::VolumeSources;

use crate::kinds::*;
use crate::pods::object_hold::SharedHold;
use crate::pods::paths::pod_dir;
use content::Contents;
use types::{Problem, Source, Use};

/// Waits until an object changes that a problem depends on; forever if there is none.
pub(crate) async fn any_change(problems: &[Problem]) {
    let waits: Vec<_> = problems
        .iter()
        .filter_map(|p| p.dependency.clone())
        .map(|mut a| Box::pin(async move { a.changed().await }))
        .collect();
    if waits.is_empty() {
        std::future::pending::<()>().await;
    }
    futures::future::select_all(waits).await;
}

/// A pod's volumes as sources for the mounts of its containers.
#[derive(Debug)]
pub(crate) struct Mounted {
    uid: String,
    sources: HashMap<String, Source>,
    fs_group: Option<i64>,
}

impl Mounted {
    /// Returns the image ID of an image volume; `None` for other volumes.
    pub(crate) fn image(&self, volume: &str) -> Option<&str> {
        match self.sources.get(volume)? {
            Source::Image(image) => Some(image),
            Source::Path { .. } => None,
        }
    }

    /// Returns an additional group for the containers, if the volumes require one besides
    /// `fsGroup`.
    pub(crate) fn fs_group(&self) -> Option<i64> {
        self.fs_group
    }

    /// Returns the directory of a volume; `None` if it has none or was not set up.
    pub(crate) fn path(&self, volume: &str) -> Option<&Path> {
        match self.sources.get(volume)? {
            Source::Path { path, .. } => Some(path),
            Source::Image(_) => None,
        }
    }

    /// Returns the runtime's mount for a container's volume mount.
    ///
    /// # Errors
    ///
    /// Fails if the volume was not set up or the sub-path cannot be mounted.
    pub(crate) fn mount(
        &self,
        mount: &VolumeMount,
        sub_path: Option<&str>,
    ) -> Result<Mount, String> {
        let Some(Source::Path { path, read_only }) = self.sources.get(&mount.name) else {
            return Err(format!(
                "cannot find volume {:?} to mount into container",
                mount.name
            ));
        };
        let read_only = *read_only || mount.read_only.unwrap_or(false);
        let host_path = match sub_path {
            None => path.clone(),
            Some(sub) => subpath::bind(&self.uid, &mount.name, &mount.mount_path, path, sub)
                .map_err(|e| {
                    format!(
                        "failed to prepare subPath for volumeMount {:?} of container: {e}",
                        mount.name
                    )
                })?,
        };
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        };
        Ok(Mount {
            host_path,
            container_path: mount.mount_path.clone().into(),
            read_only,
            recursive_read_only: read_only
                && matches!(
                    mount.recursive_read_only.as_deref(),
                    Some("Enabled" | "IfPossible")
                ),
            non_recursive: false,
            propagation,
        })
    }
}

/// A pod's volumes. Dropping them ends their refreshes, but does not unmount them.
#[derive(Debug)]
pub(crate) struct Volumes {
    mounted: Arc<Mounted>,
    pod: watch::Sender<Arc<Pod>>,
    refresher: Option<tokio::task::AbortHandle>,
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if let Some(task) = &self.refresher {
            task.abort();
        }
    }
}

impl Volumes {
    /// Returns the volumes for the mounts of containers.
    pub(crate) fn mounted(&self) -> Arc<Mounted> {
        self.mounted.clone()
    }

    /// Sends a new version of the pod to the refresh task.
    pub(crate) fn update(&self, pod: &Arc<Pod>) {
        self.pod.send_replace(pod.clone());
    }
}

/// Returns the pod's volumes that at least one container uses, and how.
fn used_volumes(pod: &Pod) -> Vec<(&Volume, Use)> {
    let mut uses: HashMap<String, Use> = HashMap::new();
    let ordinary = pod.init_containers().iter().chain(&pod.spec().containers);
    for container in ordinary.chain(&pod.ephemeral()) {
        for mount in container.volume_mounts.iter().flatten() {
            uses.entry(mount.name.clone()).or_default().mount = true;
        }
        for device in container.volume_devices.iter().flatten() {
            uses.entry(device.name.clone()).or_default().device = true;
        }
    }
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .filter_map(|v| Some((v, *uses.get(&v.name)?)))
        .collect()
}

/// Sets up all volumes of a pod that its containers use. Existing local volumes keep their
/// content.
///
/// # Errors
///
/// Returns one problem per volume that failed; the others stay set up.
pub(crate) async fn set_up(
    volume_sources: &VolumeSources,
    pod: &Arc<Pod>,
    objects: &SharedHold,
) -> Result<Volumes, Vec<Problem>> {
    let mut sources = HashMap::new();
    let mut problems = Vec::new();
    let mut contents = Contents::new(volume_sources.clone(), pod.clone(), objects.clone());
    for (volume, use_) in used_volumes(pod) {
        let done = if content::is_content(volume) {
            // Only the agent writes these files, whatever the mount asks for.
            contents.write(volume).await.map(|path| Source::Path {
                path,
                read_only: true,
            })
        } else {
            local::set_up(volume_sources, pod, volume, use_, objects).await
        };
        match done {
            Ok(source) => {
                sources.insert(volume.name.clone(), source);
            }
            Err(mut problem) => {
                problem.volume.clone_from(&volume.name);
                problems.push(problem);
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let (sender, receiver) = watch::channel(pod.clone());
    let refresher =
        (!contents.is_empty()).then(|| tokio::spawn(contents.refresh(receiver)).abort_handle());
    Ok(Volumes {
        mounted: Arc::new(Mounted {
            uid: pod.uid().into(),
            sources,
            fs_group: None,
        }),
        pod: sender,
        refresher,
    })
}

/// Returns the mount points at or below a directory, deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_mounts(&text, dir)
}

fn parse_mounts(text: &str, dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Decodes the octal escapes in `/proc/self/mountinfo`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes
            .get(i + 1..i + 4)
            .filter(|_| bytes[i] == b'\\')
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(b) => {
                out.push(b);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Unmounts everything below the pod's directory. Errors are only logged.
pub(crate) async fn unmount(uid: &str) {
    let dir = pod_dir(uid);
    let done = tokio::task::spawn_blocking(move || {
        for path in mounts_below(&dir) {
            if let Err(e) = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH) {
                tracing::warn!("unmounting {}: {e}", path.display());
            }
        }
    });
    if let Err(e) = done.await {
        tracing::warn!("unmounting the volumes of {uid}: {e}");
    }
}

/// Returns the directory of a volume that takes space on the node's own disk; `None` for volumes in
/// memory, on other disks, or that are not there.
pub(crate) fn scratch(uid: &str, volume: &Volume) -> Option<PathBuf> {
    let on_disk = |medium: Option<&str>| medium.is_none_or(str::is_empty);
    let plugin = match (&volume.empty_dir, &volume.config_map) {
        (Some(source), _) if on_disk(source.medium.as_deref()) => "empty-dir",
        (None, Some(_)) => "configmap",
        _ => return None,
    };
    let path = types::volume_dir(uid, plugin, &volume.name);
    path.is_dir().then_some(path)
}

/// Removes the files of a stopped pod's volumes, which are of no use without it. Errors are only
/// logged.
pub(crate) async fn discard(uid: &str) {
    unmount(uid).await;
    let dir = pod_dir(uid).join("volumes");
    if !mounts_below(&dir).is_empty() {
        // Never delete through a mount: it may contain the user's files.
        tracing::warn!("{} is still in use; kept", dir.display());
        return;
    }
    remove(&dir).await;
}

async fn remove(dir: &Path) {
    match tokio::fs::remove_dir_all(dir).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("removing {}: {e}", dir.display());
        }
        _ => {}
    }
}

/// Removes all files of a pod. May be called repeatedly.
pub(crate) async fn tear_down(uid: &str) {
    unmount(uid).await;
    let dir = pod_dir(uid);
    if !mounts_below(&dir).is_empty() {
        // Never delete through a mount: it may contain the user's files.
        tracing::warn!("{} is still in use; kept", dir.display());
        return;
    }
    remove(&dir).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::VolumeDevice;

    #[test]
    fn mountinfo_names_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/plain\x"), r"/plain\x");
    }

    #[test]
    fn problems_read_as_upstreams() {
        let mut p = types::problem("configmap \"c\" not found");
        p.volume = "v".into();
        assert_eq!(
            p.to_string(),
            "MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found"
        );
    }

    #[test]
    fn mounts_are_found_deepest_first() {
        let text = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
                    30 22 0:30 / /pods/u/volumes/a rw - tmpfs tmpfs rw\n\
                    31 30 0:31 / /pods/u/volumes/a/b\\040c rw - tmpfs tmpfs rw\n\
                    32 22 0:32 / /pods/uu rw - tmpfs tmpfs rw\n";
        assert_eq!(
            parse_mounts(text, Path::new("/pods/u")),
            [
                Path::new("/pods/u/volumes/a/b c"),
                Path::new("/pods/u/volumes/a")
            ]
        );
        assert!(parse_mounts("", Path::new("/")).is_empty());
    }

    #[test]
    fn only_used_volumes_are_set_up() {
        let volume = |name: &str| Volume {
            name: name.into(),
            ..Default::default()
        };
        let container = |mounts: &[&str]| Container {
            volume_mounts: Some(
                mounts
                    .iter()
                    .map(|m| VolumeMount {
                        name: (*m).into(),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        };
        let pod = Pod {
            spec: Some(PodSpec {
                volumes: Some(vec![volume("a"), volume("b"), volume("c"), volume("d")]),
                init_containers: Some(vec![container(&["c"])]),
                containers: vec![container(&["a", "c"])],
                ephemeral_containers: Some(vec![EphemeralContainer {
                    volume_mounts: container(&["d"]).volume_mounts,
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut pod = pod;
        pod.spec.as_mut().unwrap().containers[0].volume_devices = Some(vec![VolumeDevice {
            name: "d".into(),
            ..Default::default()
        }]);
        let used: Vec<(&str, bool, bool)> = used_volumes(&pod)
            .iter()
            .map(|(v, u)| (v.name.as_str(), u.mount, u.device))
            .collect();
        assert_eq!(
            used,
            [("a", true, false), ("c", true, false), ("d", true, true)]
        );
    }

    #[test]
    fn mounts_take_the_stricter_access() {
        let mounted = |read_only| Mounted {
            uid: "u".into(),
            sources: HashMap::from([
                (
                    "v".to_owned(),
                    Source::Path {
                        path: "/data".into(),
                        read_only,
                    },
                ),
                ("i".to_owned(), Source::Image("sha256:0".into())),
            ]),
            fs_group: None,
        };
        let mount = |name: &str, read_only, recursive: Option<&str>| VolumeMount {
            name: name.into(),
            mount_path: "/mnt".into(),
            read_only,
            recursive_read_only: recursive.map(Into::into),
            mount_propagation: Some("HostToContainer".into()),
            ..Default::default()
        };
        let m = mounted(false)
            .mount(&mount("v", None, Some("Enabled")), None)
            .unwrap();
        assert!(!m.read_only && !m.recursive_read_only);
        assert_eq!(m.host_path, Path::new("/data"));
        assert!(matches!(m.propagation, MountPropagation::HostToContainer));
        let m = mounted(false)
            .mount(&mount("v", Some(true), None), None)
            .unwrap();
        assert!(m.read_only && !m.recursive_read_only);
        let m = mounted(true)
            .mount(&mount("v", None, Some("IfPossible")), None)
            .unwrap();
        assert!(m.read_only && m.recursive_read_only);
        assert_eq!(
            mounted(false)
                .mount(&mount("x", None, None), None)
                .unwrap_err(),
            "cannot find volume \"x\" to mount into container"
        );
        assert_eq!(mounted(false).image("i"), Some("sha256:0"));
        assert_eq!(mounted(false).image("v"), None);
    }
}
