//! Mounts a `subPath` of a volume without letting symbolic links lead out of the volume.
//!
//! A container that shares the volume may replace the sub-path with a symbolic link at any time.
//! The kernel therefore opens it beneath the volume's root (openat2(2)). The open file is then
//! bind-mounted to a path that containers cannot reach, and only that path is given to the runtime.

use std::ffi::{CStr, CString, OsStr};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::pods::paths::pod_dir;

/// Opens `path` beneath `root`; fails with `EXDEV` if symbolic links lead out of it.
pub(crate) fn open_beneath(root: &OwnedFd, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    open_within(root, path, flags, libc::RESOLVE_BENEATH)
}

/// Opens `path` as if `root` were the root directory, so that no link leads out of it.
pub(crate) fn open_in_root(root: &OwnedFd, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    open_within(root, path, flags, libc::RESOLVE_IN_ROOT)
}

fn open_within(root: &OwnedFd, path: &Path, flags: i32, scope: u64) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero `open_how` is valid: no flags, no mode, no restrictions.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::try_from(flags | libc::O_CLOEXEC).unwrap_or(0);
    how.resolve = scope | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the descriptor, string and structure outlive the call, and the size is that of the
    // structure.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// Makes a directory and opens it with `O_PATH`; returns `None` if the name exists.
fn make_dir(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<Option<OwnedFd>> {
    let name = CString::new(name.as_bytes())?;
    // SAFETY: the descriptor and string outlive the call.
    if unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) } < 0 {
        let e = io::Error::last_os_error();
        return match e.kind() {
            io::ErrorKind::AlreadyExists => Ok(None),
            _ => Err(e),
        };
    }
    open_made(parent, &name).map(Some)
}

/// Opens a directory that was just made. A container may have put a symbolic link in its place,
/// which is refused: the caller changes the directory's mode.
fn open_made(parent: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the descriptor and string outlive the call.
    let fd = unsafe { libc::openat(parent.as_raw_fd(), name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the sub-path with `O_PATH`; creates missing directories.
///
/// They get the permission bits of the volume's root, as upstream, so that every user who may write
/// to the volume may write to them.
fn open_part(root: &Path, sub: &str) -> io::Result<OwnedFd> {
    let sub = Path::new(sub);
    let parts: Vec<&OsStr> = sub
        .components()
        .filter(|c| !matches!(c, Component::CurDir))
        .map(|c| match c {
            Component::Normal(part) => Ok(part),
            _ => Err(io::Error::other(format!(
                "invalid subPath {}",
                sub.display()
            ))),
        })
        .collect::<io::Result<_>>()?;
    let root = OwnedFd::from(
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(root)?,
    );
    if parts.is_empty() {
        return Ok(root);
    }
    let opened = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let mode = std::fs::metadata(opened(&root))?.mode() & 0o777;
    let mut at = PathBuf::new();
    let mut is_new = false;
    let mut parent = open_beneath(&root, Path::new("."), libc::O_PATH | libc::O_DIRECTORY)?;
    for part in parts {
        at.push(part);
        parent = match open_beneath(&root, &at, libc::O_PATH) {
            Ok(fd) => {
                is_new = false;
                fd
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = make_dir(&parent, part, mode)?;
                is_new = made.is_some();
                match made {
                    Some(fd) => fd,
                    None => open_beneath(&root, &at, libc::O_PATH)?,
                }
            }
            Err(e) => return Err(e),
        };
    }
    if is_new {
        // The process's mask has taken bits away.
        std::fs::set_permissions(opened(&parent), Permissions::from_mode(mode))?;
    }
    Ok(parent)
}

/// Bind-mounts the sub-path `sub` of the volume at `root`; returns the mount point.
pub(crate) fn bind(
    uid: &str,
    volume: &str,
    mount_path: &str,
    root: &Path,
    sub: &str,
) -> io::Result<PathBuf> {
    let part = open_part(root, sub)?;
    // One mount point per use: containers may mount several sub-paths of a volume.
    let mut use_name = format!("{mount_path}\0{sub}")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
    use_name ^= use_name >> 32;
    let place = pod_dir(uid)
        .join("volume-subpaths")
        .join(volume)
        .join(format!("{use_name:016x}"));
    let opened = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    let is_dir = std::fs::metadata(&opened)?.is_dir();
    // On a restart of the container, the sub-path is resolved again.
    let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
    if is_dir {
        let _ = std::fs::remove_file(&place);
        std::fs::create_dir_all(&place)?;
    } else {
        let _ = std::fs::remove_dir(&place);
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::File::create(&place)?;
    }
    mount(
        Some(&opened),
        &place,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("real", root.join("inside")).unwrap();
        assert!(open_part(&root, "out").is_err());
        assert!(open_part(&root, "absolute/passwd").is_err());
        assert!(open_part(&root, "../secret").is_err());
        assert!(open_part(&root, "inside").is_ok());
        assert!(open_part(&root, "new/deep").is_ok());
        assert!(root.join("new/deep").is_dir());
    }

    #[test]
    fn a_link_in_place_of_a_new_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("private")).unwrap();
        std::os::unix::fs::symlink("private", dir.path().join("link")).unwrap();
        let parent = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        assert!(open_made(&parent, c"private").is_ok());
        assert!(open_made(&parent, c"link").is_err());
        let known = make_dir(&parent, OsStr::new("link"), 0o755).unwrap();
        assert!(known.is_none(), "it is not new");
    }

    #[test]
    fn new_directories_are_as_open_as_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir(&root).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        for (volume, part) in [(0o2777, 0o777), (0o700, 0o700), (0o755, 0o755)] {
            std::fs::set_permissions(&root, Permissions::from_mode(volume)).unwrap();
            let sub = format!("a{volume}/b");
            open_part(&root, &sub).unwrap();
            assert_eq!(mode(&root.join(&sub)), part, "{volume:o}");
        }
        // An existing directory is left alone.
        let known = root.join("known");
        std::fs::create_dir(&known).unwrap();
        std::fs::set_permissions(&known, Permissions::from_mode(0o711)).unwrap();
        open_part(&root, "known").unwrap();
        assert_eq!(mode(&known), 0o711);
    }
}
