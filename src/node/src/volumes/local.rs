//! Volumes of the node: `emptyDir`, `hostPath`, claims bound to local paths, and images.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, PersistentVolumeSpec,
};
use kube::Api;
use nix::mount::{MsFlags, mount};

use super::types::{Problem, Source, VolumeSources, fs_group, problem, volume_dir};
use crate::kinds::*;
use crate::pods::object_hold::SharedHold;

/// Sets up a volume whose files do not come from the API.
pub(super) async fn set_up(
    sources: &VolumeSources,
    pod: &Arc<Pod>,
    volume: &Volume,
    objects: &SharedHold,
) -> Result<Source, Problem> {
    if let Some(source) = &volume.empty_dir {
        let dir = volume_dir(pod.uid(), "empty-dir", &volume.name);
        let (source, group, at) = (source.clone(), fs_group(pod), dir.clone());
        blocking(move || empty_dir(&at, &source, group)).await?;
        return Ok(Source::Path {
            path: dir,
            read_only: false,
        });
    }
    if let Some(source) = &volume.host_path {
        let source = source.clone();
        let path = PathBuf::from(&source.path);
        blocking(move || host_path(&source)).await?;
        return Ok(Source::Path {
            path,
            read_only: false,
        });
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let read_only = claim.read_only.unwrap_or(false);
        return claimed(&sources.client, pod, &claim.claim_name, read_only).await;
    }
    if volume.ephemeral.is_some() {
        let name = format!("{}-{}", pod.name(), volume.name);
        return claimed(&sources.client, pod, &name, false).await;
    }
    if let Some(source) = &volume.image {
        let container = Container {
            name: volume.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Default::default()
        };
        let image = sources
            .images
            .ensure(pod, &container, objects)
            .await
            .map_err(|e| problem(format!("{}: {}", e.reason.reason, e.reason.message)))?;
        return Ok(Source::Image(image.id));
    }
    Err(problem(format!(
        "rkube does not support volumes of type {}",
        kind(volume)
    )))
}

/// Returns the name of the field that defines the volume's type.
fn kind(volume: &Volume) -> String {
    match serde_json::to_value(volume) {
        Ok(serde_json::Value::Object(map)) => map
            .keys()
            .find(|k| *k != "name")
            .cloned()
            .unwrap_or_else(|| "unknown".into()),
        _ => "unknown".into(),
    }
}

async fn blocking(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(problem)?
        .map_err(problem)
}

/// Mounts a tmpfs at `dir` unless it is a mount point already.
pub(crate) fn tmpfs(dir: &Path, size: Option<u64>, mode: u32) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if is_mount(dir)? {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    mount(
        Some("tmpfs"),
        dir,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Returns whether a directory is a mount point of another file system.
fn is_mount(dir: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let Some(parent) = dir.parent() else {
        return Ok(true);
    };
    Ok(std::fs::metadata(dir)?.dev() != std::fs::metadata(parent)?.dev())
}

fn empty_dir(dir: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> std::io::Result<()> {
    let limit = source
        .size_limit
        .as_ref()
        .map(quantity_value)
        .and_then(|v| u64::try_from(v).ok())
        .filter(|v| *v > 0);
    match source.medium.as_deref().unwrap_or_default() {
        "" => std::fs::create_dir_all(dir)?,
        "Memory" => tmpfs(dir, limit, 0o777)?,
        medium if medium.starts_with("HugePages") => {
            std::fs::create_dir_all(dir)?;
            if !is_mount(dir)? {
                let size = medium.strip_prefix("HugePages-").map(|s| {
                    // hugetlbfs expects page sizes like 2M, Kubernetes writes 2Mi.
                    format!("pagesize={}", s.trim_end_matches('i'))
                });
                mount(
                    Some("nodev"),
                    dir,
                    Some("hugetlbfs"),
                    MsFlags::empty(),
                    size.as_deref(),
                )?;
            }
        }
        other => {
            return Err(std::io::Error::other(format!(
                "unknown storage medium {other:?}"
            )));
        }
    }
    set_permissions(dir, group, 0o777)
}

/// Sets the permissions of an `emptyDir`, and its group if there is one.
fn set_permissions(dir: &Path, group: Option<u32>, mode: u32) -> std::io::Result<()> {
    let mut mode = mode;
    if group.is_some() {
        std::os::unix::fs::chown(dir, None, group)?;
        // New files inherit the group.
        mode |= 0o2000;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

/// Checks a `hostPath` against its type; creates it if the type allows that.
fn host_path(source: &HostPathVolumeSource) -> std::io::Result<()> {
    let path = Path::new(&source.path);
    let fail = |what: &str| {
        Err(std::io::Error::other(format!(
            "hostPath type check failed: {} is not {what}",
            source.path
        )))
    };
    let found = std::fs::metadata(path).ok().map(|m| m.file_type());
    match source.type_.as_deref().unwrap_or_default() {
        "" => {
            if found.is_none() {
                // A bind mount needs an existing source. Upstream leaves this to the container
                // runtime.
                std::fs::create_dir_all(path)?;
            }
            Ok(())
        }
        "DirectoryOrCreate" => match found {
            Some(t) if t.is_dir() => Ok(()),
            Some(_) => fail("a directory"),
            None => {
                std::fs::create_dir_all(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
            }
        },
        "FileOrCreate" => match found {
            Some(t) if t.is_file() => Ok(()),
            Some(_) => fail("a file"),
            None => {
                std::fs::File::create(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
            }
        },
        "Directory" if found.is_some_and(|t| t.is_dir()) => Ok(()),
        "File" if found.is_some_and(|t| t.is_file()) => Ok(()),
        "Socket" if found.is_some_and(|t| t.is_socket()) => Ok(()),
        "CharDevice" if found.is_some_and(|t| t.is_char_device()) => Ok(()),
        "BlockDevice" if found.is_some_and(|t| t.is_block_device()) => Ok(()),
        "Directory" => fail("a directory"),
        "File" => fail("a file"),
        "Socket" => fail("a socket file"),
        "CharDevice" => fail("a character device"),
        "BlockDevice" => fail("a block device"),
        other => fail(other),
    }
}

/// Returns the path of the volume that is bound to a claim.
///
/// # Errors
///
/// Fails if the claim is not bound or its volume is not of type `hostPath` or `local`.
async fn claimed(
    client: &kube::Client,
    pod: &Pod,
    claim: &str,
    read_only: bool,
) -> Result<Source, Problem> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), pod.namespace());
    let found = claims
        .get_opt(claim)
        .await
        .map_err(problem)?
        .ok_or_else(|| problem(format!("persistentvolumeclaim {claim:?} not found")))?;
    let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = found
        .spec
        .as_ref()
        .and_then(|s| s.volume_name.clone())
        .filter(|n| bound && !n.is_empty())
        .ok_or_else(|| problem(format!("PVC {}/{claim} is not bound", pod.namespace())))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes
        .get(&name)
        .await
        .map_err(|e| problem(format!("failed to fetch PV {name:?} from API server: {e}")))?;
    let spec = volume.spec.unwrap_or_default();
    let path = volume_path(&spec, &name)?;
    let group = fs_group(pod);
    let at = path.clone();
    let make = spec.host_path.clone();
    tokio::task::spawn_blocking(move || {
        if let Some(source) = &make {
            host_path(source)?;
        } else if !at.exists() {
            return Err(std::io::Error::other(format!(
                "path {:?} does not exist",
                at.display()
            )));
        }
        match group {
            Some(group) => set_group_recursively(&at, group),
            None => Ok(()),
        }
    })
    .await
    .map_err(problem)?
    .map_err(problem)?;
    let only_reads = spec
        .access_modes
        .as_ref()
        .is_some_and(|m| m.iter().all(|m| m == "ReadOnlyMany"));
    Ok(Source::Path {
        path,
        read_only: read_only || only_reads,
    })
}

fn volume_path(spec: &PersistentVolumeSpec, name: &str) -> Result<PathBuf, Problem> {
    if let Some(source) = &spec.host_path {
        return Ok(PathBuf::from(&source.path));
    }
    if let Some(source) = &spec.local {
        return Ok(PathBuf::from(&source.path));
    }
    Err(problem(format!(
        "rkube supports persistent volumes of type hostPath and local, and {name:?} is of another"
    )))
}

/// Changes the group of a directory tree recursively, as `fsGroup` requires.
fn set_group_recursively(root: &Path, group: u32) -> std::io::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(at) = pending.pop() {
        let meta = std::fs::symlink_metadata(&at)?;
        std::os::unix::fs::lchown(&at, None, Some(group))?;
        if meta.is_symlink() {
            continue;
        }
        let mut mode = meta.permissions().mode() | 0o660;
        if meta.is_dir() {
            mode |= 0o2110;
            for entry in std::fs::read_dir(&at)? {
                pending.push(entry?.path());
            }
        }
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let source = |name: &str, type_: &str| HostPathVolumeSource {
            path: dir.path().join(name).display().to_string(),
            type_: Some(type_.into()),
        };
        assert!(host_path(&source("d", "Directory")).is_err());
        assert!(host_path(&source("d", "DirectoryOrCreate")).is_ok());
        assert!(host_path(&source("d", "Directory")).is_ok());
        assert!(host_path(&source("d", "File")).is_err());
        assert!(host_path(&source("f", "FileOrCreate")).is_ok());
        assert!(host_path(&source("f", "DirectoryOrCreate")).is_err());
        assert!(host_path(&source("f", "Socket")).is_err());
    }

    #[test]
    fn unknown_kinds_are_named() {
        let volume = Volume {
            name: "v".into(),
            nfs: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(kind(&volume), "nfs");
    }

    #[test]
    fn mismatches_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        for (type_, what) in [
            ("File", "a file"),
            ("Socket", "a socket file"),
            ("CharDevice", "a character device"),
            ("BlockDevice", "a block device"),
            ("FileOrCreate", "a file"),
        ] {
            let source = HostPathVolumeSource {
                path: path.clone(),
                type_: Some(type_.into()),
            };
            assert_eq!(
                host_path(&source).unwrap_err().to_string(),
                format!("hostPath type check failed: {path} is not {what}")
            );
        }
        let untyped = HostPathVolumeSource {
            path: format!("{path}/new"),
            type_: None,
        };
        host_path(&untyped).unwrap();
        assert!(dir.path().join("new").is_dir());
    }

    #[test]
    fn empty_dirs_are_for_all_users() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("scratch");
        empty_dir(&at, &EmptyDirVolumeSource::default(), None).unwrap();
        let mode = std::fs::metadata(&at).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        let unknown = EmptyDirVolumeSource {
            medium: Some("Tape".into()),
            ..Default::default()
        };
        assert_eq!(
            empty_dir(&at, &unknown, None).unwrap_err().to_string(),
            "unknown storage medium \"Tape\""
        );
    }

    #[test]
    fn persistent_volumes_are_paths() {
        let mut spec = PersistentVolumeSpec::default();
        assert_eq!(
            volume_path(&spec, "pv").unwrap_err().reason,
            "rkube supports persistent volumes of type hostPath and local, and \"pv\" is of another"
        );
        spec.local = Some(k8s_openapi::api::core::v1::LocalVolumeSource {
            path: "/l".into(),
            ..Default::default()
        });
        assert_eq!(volume_path(&spec, "pv").unwrap(), Path::new("/l"));
        spec.host_path = Some(HostPathVolumeSource {
            path: "/h".into(),
            ..Default::default()
        });
        assert_eq!(volume_path(&spec, "pv").unwrap(), Path::new("/h"));
    }
}
