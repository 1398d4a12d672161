//! Volumes of the node: `emptyDir`, `hostPath`, claims bound to local paths, and images.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource};
use nix::mount::{MsFlags, mount};

use super::claim::Claim;
use super::types::{Problem, Source, Use, VolumeSources, fs_group, problem, volume_dir};
use crate::kinds::*;
use crate::pods::object_hold::SharedHold;
use crate::pods::qos;

/// Sets up a volume whose files do not come from the API.
pub(super) async fn set_up(
    sources: &VolumeSources,
    pod: &Arc<Pod>,
    volume: &Volume,
    use_: Use,
    objects: &SharedHold,
) -> Result<Source, Problem> {
    if let Some(source) = &volume.empty_dir {
        let dir = volume_dir(pod.uid(), "empty-dir", &volume.name);
        let (source, group, at) = (source.clone(), fs_group(pod), dir.clone());
        let memory = memory_limit(pod, sources.host.allocatable().memory);
        blocking(move || empty_dir(&at, &source, memory, group)).await?;
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
    if let Some(source) = &volume.persistent_volume_claim {
        let claim = Claim {
            name: &source.claim_name,
            read_only: source.read_only.unwrap_or(false),
            made_for_pod: false,
            use_,
        };
        return claim.set_up(&sources.client, pod).await;
    }
    if volume.ephemeral.is_some() {
        let claim = Claim {
            name: &format!("{}-{}", pod.name(), volume.name),
            read_only: false,
            made_for_pod: true,
            use_,
        };
        return claim.set_up(&sources.client, pod).await;
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

/// Returns the memory that a pod's volumes in memory may use: the pod's limit, or the node's
/// memory.
fn memory_limit(pod: &Pod, node: i64) -> u64 {
    let pod = qos::pod_resources(pod).memory_limit.filter(|m| *m > 0);
    u64::try_from(pod.map_or(node, |pod| pod.min(node))).unwrap_or(0)
}

/// Makes the directory of an `emptyDir`; `memory` is the limit of one in memory, in bytes.
fn empty_dir(
    dir: &Path,
    source: &EmptyDirVolumeSource,
    memory: u64,
    group: Option<u32>,
) -> std::io::Result<()> {
    let limit = source
        .size_limit
        .as_ref()
        .map(quantity_value)
        .and_then(|v| u64::try_from(v).ok())
        .filter(|v| *v > 0);
    match source.medium.as_deref().unwrap_or_default() {
        "" => std::fs::create_dir_all(dir)?,
        "Memory" => tmpfs(dir, Some(limit.map_or(memory, |l| l.min(memory))), 0o777)?,
        "HugePages" => hugetlbfs(dir, None)?,
        other => match other.strip_prefix("HugePages-").and_then(page_bytes) {
            Some(bytes) => hugetlbfs(dir, Some(bytes))?,
            None => {
                return Err(std::io::Error::other(format!(
                    "unknown storage medium {other:?}"
                )));
            }
        },
    }
    set_permissions(dir, group, 0o777)
}

/// Parses the size of a huge page, such as `2Mi`: a power of two with a binary unit.
fn page_bytes(size: &str) -> Option<u64> {
    let unit = size.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = size.split_at(unit);
    let shift = match unit {
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    bytes.is_power_of_two().then_some(bytes)
}

/// Mounts huge pages of a size, or of the default size, at `dir` unless it is a mount point.
fn hugetlbfs(dir: &Path, page_bytes: Option<u64>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if is_mount(dir)? {
        return Ok(());
    }
    let options = page_bytes.map(|bytes| format!("pagesize={bytes}"));
    mount(
        Some("nodev"),
        dir,
        Some("hugetlbfs"),
        MsFlags::empty(),
        options.as_deref(),
    )?;
    Ok(())
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
pub(super) fn host_path(source: &HostPathVolumeSource) -> std::io::Result<()> {
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
        empty_dir(&at, &EmptyDirVolumeSource::default(), 0, None).unwrap();
        let mode = std::fs::metadata(&at).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        for medium in ["Tape", "HugePages-", "HugePages-2M,size=9", "HugePages-3Mi"] {
            let unknown = EmptyDirVolumeSource {
                medium: Some(medium.into()),
                ..Default::default()
            };
            assert_eq!(
                empty_dir(&at, &unknown, 0, None).unwrap_err().to_string(),
                format!("unknown storage medium {medium:?}")
            );
        }
    }

    #[test]
    fn page_sizes_are_powers_of_two() {
        for (size, bytes) in [
            ("2Mi", Some(2 << 20)),
            ("1Gi", Some(1 << 30)),
            ("64Ki", Some(64 << 10)),
            ("2M", None),
            ("2", None),
            ("Mi", None),
            ("0Mi", None),
            ("99999999999999Gi", None),
        ] {
            assert_eq!(page_bytes(size), bytes, "{size}");
        }
    }

    #[test]
    fn memory_is_limited_by_pod_or_node() {
        let pod = |limit: Option<&str>| Pod {
            spec: Some(PodSpec {
                containers: vec![Container {
                    resources: limit.map(|limit| ResourceRequirements {
                        limits: Some([("memory".to_owned(), Quantity(limit.into()))].into()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(memory_limit(&pod(None), 1 << 30), 1 << 30);
        assert_eq!(memory_limit(&pod(Some("1Mi")), 1 << 30), 1 << 20);
        assert_eq!(memory_limit(&pod(Some("1Gi")), 1 << 20), 1 << 20);
    }
}
