//! Deletes the data of volumes of rkube's provisioner.

use std::io;
use std::path::Path;

use http::StatusCode;
use rkube_config::paths;
use tracing::warn;

use super::answer::{Answer, text};

/// Prefix of directories that are being deleted.
const DELETED: &str = ".deleted-";

/// Deletes the directory of a volume. Succeeds if there is none.
///
/// After the time `before`, in milliseconds since 1970, the request is refused: the client has given
/// up, and the volume may be wanted again.
pub(super) async fn delete(name: &str, before: Option<&str>) -> Answer {
    let name = name.to_owned();
    let before = match before.map(str::parse).transpose() {
        Ok(before) => before,
        Err(e) => return text(StatusCode::BAD_REQUEST, format!("before: {e}")),
    };
    let root = Path::new(paths::VOLUMES);
    let done = tokio::task::spawn_blocking(move || {
        in_time(before, jiff::Timestamp::now().as_millisecond())?;
        set_aside(root, &name)
    });
    match done.await.map_err(io::Error::other).flatten() {
        Ok(()) => {
            tokio::task::spawn_blocking(|| sweep(root));
            text(StatusCode::OK, "ok")
        }
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            text(StatusCode::BAD_REQUEST, e.to_string())
        }
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
            text(StatusCode::REQUEST_TIMEOUT, e.to_string())
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Refuses what comes after its deadline.
fn in_time(before: Option<i64>, now: i64) -> io::Result<()> {
    if before.is_some_and(|before| now > before) {
        let why = "the request came too late: the node was busy, or its clock differs";
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    }
    Ok(())
}

/// Deletes what an agent before this one had begun to delete.
pub(super) fn finish_deletions() {
    tokio::task::spawn_blocking(|| sweep(Path::new(paths::VOLUMES)));
}

/// Renames the directory of a volume, so that its name is free at once. Deletion may take long.
fn set_aside(root: &Path, name: &str) -> io::Result<()> {
    let usual = name
        .strip_prefix("pvc-")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    if !usual {
        let why = format!("{name:?} is not the name of a volume of rkube's provisioner");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    match std::fs::rename(root.join(name), root.join(format!("{DELETED}{name}"))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // A deletion was interrupted, and a volume of the same name came back.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => remove(&root.join(name)),
        result => result,
    }
}

/// Removes a directory. What is mounted below it, as a pod or a user may have done, is
/// unmounted and keeps its files.
fn remove(directory: &Path) -> io::Result<()> {
    rkube_runtime::build::unmount_below(directory).map_err(io::Error::other)?;
    std::fs::remove_dir_all(directory)
}

/// Removes all directories that were set aside.
fn sweep(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return; // there has been no volume yet
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(DELETED) {
            continue;
        }
        match remove(&entry.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                warn!("cannot delete {}: {e}", entry.path().display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_volumes_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let root = dir.path().join("volumes");
        std::fs::create_dir_all(root.join("pvc-1/a/b")).unwrap();
        std::fs::create_dir_all(root.join("pvc-2")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("pvc-1/link")).unwrap();
        for name in [
            "",
            "..",
            "pvc-/../..",
            "pvc-1/a",
            "outside",
            ".deleted-pvc-1",
        ] {
            let error = set_aside(&root, name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        set_aside(&root, "pvc-1").unwrap();
        set_aside(&root, "pvc-3").unwrap();
        assert!(!root.join("pvc-1").exists());
        sweep(&root);
        let left: Vec<_> = std::fs::read_dir(&root).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(root.join("pvc-2").exists() && outside.join("file").exists());
        sweep(&dir.path().join("nothing"));
    }

    #[test]
    fn late_requests_are_refused() {
        assert!(in_time(None, 1000).is_ok());
        assert!(in_time(Some(1000), 1000).is_ok());
        let error = in_time(Some(999), 1000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_is_mounted_in_a_volume_is_kept() {
        use nix::mount::{MsFlags, mount};

        let dir = tempfile::tempdir().unwrap();
        let (outside, root) = (dir.path().join("outside"), dir.path().join("volumes"));
        let inside = root.join("pvc-1/a/b");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "x").unwrap();
        let none: Option<&str> = None;
        let bound = mount(Some(&outside), &inside, none, MsFlags::MS_BIND, none);
        if bound == Err(nix::Error::EPERM) {
            return; // mounting requires root
        }
        bound.unwrap();
        set_aside(&root, "pvc-1").unwrap();
        sweep(&root);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        assert!(outside.join("file").exists());
    }
}
