//! A pod's volumes: made before its sandbox, refreshed while it lives, removed after.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rkube_runtime::{Mount, MountPropagation};
use tokio::sync::watch;

mod atomic;
mod content;
mod local;
mod subpath;

use crate::agent::Agent;
use crate::kinds::*;
use crate::pods::ObjectHold;
use crate::pods::container::pod_dir;
use content::Contents;

type Objects = Arc<tokio::sync::Mutex<ObjectHold>>;

/// A volume that could not be made, worded as in its event.
#[derive(Debug)]
pub(crate) struct Problem {
    volume: String,
    reason: String,
    /// What is missing, when a watch can tell of its coming.
    awaited: Option<content::Awaited>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MountVolume.SetUp failed for volume {:?} : {}",
            self.volume, self.reason
        )
    }
}

/// Resolves when something that a problem waits for changes; never without such.
pub(crate) async fn any_change(problems: &[Problem]) {
    let waits: Vec<_> = problems
        .iter()
        .filter_map(|p| p.awaited.clone())
        .map(|mut a| Box::pin(async move { a.changed().await }))
        .collect();
    if waits.is_empty() {
        std::future::pending::<()>().await;
    }
    futures::future::select_all(waits).await;
}

#[derive(Clone, Debug)]
enum Source {
    Path { path: PathBuf, read_only: bool },
    Image(String),
}

/// Volumes as containers mount them.
#[derive(Debug)]
pub(crate) struct Mounted {
    uid: String,
    sources: HashMap<String, Source>,
    fs_group: Option<i64>,
}

impl Mounted {
    /// The image behind an image volume.
    pub(crate) fn image(&self, volume: &str) -> Option<&str> {
        match self.sources.get(volume)? {
            Source::Image(image) => Some(image),
            Source::Path { .. } => None,
        }
    }

    /// A group that the volumes' files belong to besides the pod's `fsGroup`.
    pub(crate) fn fs_group(&self) -> Option<i64> {
        self.fs_group
    }

    /// What the runtime has to bind for a container's mount of a volume.
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

/// A pod's volumes while it lives; their refreshing ends with them.
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
    pub(crate) fn mounted(&self) -> Arc<Mounted> {
        self.mounted.clone()
    }

    /// Tells of the pod's new labels and annotations.
    pub(crate) fn update(&self, pod: &Arc<Pod>) {
        self.pod.send_replace(pod.clone());
    }
}

/// Where a volume of a plugin is.
fn volume_dir(uid: &str, plugin: &str, name: &str) -> PathBuf {
    pod_dir(uid)
        .join("volumes")
        .join(format!("kubernetes.io~{plugin}"))
        .join(name)
}

/// The pod's volumes that some container mounts.
fn mounted_volumes(pod: &Pod) -> Vec<&Volume> {
    let used: std::collections::HashSet<String> = pod
        .init_containers()
        .iter()
        .chain(&pod.spec().containers)
        .chain(&pod.ephemeral())
        .flat_map(|c| c.volume_mounts.iter().flatten().map(|m| m.name.clone()))
        .collect();
    pod.spec()
        .volumes
        .iter()
        .flatten()
        .filter(|v| used.contains(&v.name))
        .collect()
}

/// Makes all volumes of a pod. What is there already stays as it is.
pub(crate) async fn set_up(
    agent: &Arc<Agent>,
    pod: &Arc<Pod>,
    objects: &Objects,
) -> Result<Volumes, Vec<Problem>> {
    let mut sources = HashMap::new();
    let mut problems = Vec::new();
    let mut contents = Contents::new(agent.clone(), pod.clone(), objects.clone());
    for volume in mounted_volumes(pod) {
        let done = if content::is_content(volume) {
            contents.write(volume).await.map(|path| Source::Path {
                path,
                read_only: false,
            })
        } else {
            local::make(agent, pod, volume, objects).await
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

/// A problem with a reason; the volume's name is filled in by [`set_up`].
fn problem(reason: impl fmt::Display) -> Problem {
    Problem {
        volume: String::new(),
        reason: reason.to_string(),
        awaited: None,
    }
}

/// The group that the pod's volumes belong to.
fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec()
        .security_context
        .as_ref()
        .and_then(|c| c.fs_group)
        .and_then(|g| u32::try_from(g).ok())
}

/// Mounts below a directory, the deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Undoes the octal escapes of mountinfo.
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

/// Takes away everything that is mounted for a pod.
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

/// Removes all that the node keeps of a pod. May be repeated.
pub(crate) async fn tear_down(uid: &str) {
    unmount(uid).await;
    let dir = pod_dir(uid);
    if !mounts_below(&dir).is_empty() {
        // Never delete through a mount: the files may be the user's.
        tracing::warn!("{} is still in use; kept", dir.display());
        return;
    }
    match tokio::fs::remove_dir_all(&dir).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("removing {}: {e}", dir.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_names_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/plain\x"), r"/plain\x");
    }

    #[test]
    fn problems_read_as_upstreams() {
        let mut p = problem("configmap \"c\" not found");
        p.volume = "v".into();
        assert_eq!(
            p.to_string(),
            "MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found"
        );
    }
}
