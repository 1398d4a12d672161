//! A container's root file system: an overlay of its image's layers and a writable layer.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::beneath::open_dir;
use crate::error::{Context, Result};
use crate::status::{FsInfo, FsUsage};
use crate::users::Users;

/// Maximum length of mount options: one page, including the terminating zero.
const OPTIONS: usize = 4096;

/// Returns the mount point of the root in a container's directory.
pub fn rootfs(dir: &Path) -> PathBuf {
    dir.join("rootfs")
}

/// Returns the writable layer in a container's directory.
pub fn upper(dir: &Path) -> PathBuf {
    dir.join("upper")
}

/// Mounts the root of the container in `dir` over `layers`, bottom first; with the IDs of `users`
/// if it has a user namespace. Does nothing if it is already mounted.
pub fn mount_root(dir: &Path, layers: &[PathBuf], users: Option<&Users>) -> Result<()> {
    let (target, upper, work) = (rootfs(dir), upper(dir), dir.join("work"));
    for path in [&target, &upper, &work] {
        fs::create_dir_all(path).context(|| format!("cannot make {}", path.display()))?;
    }
    if is_mounted(&target) {
        return Ok(());
    }
    // The merged root has the mode and owner of the upper directory.
    if let Some(top) = layers.last()
        && let Ok(metadata) = fs::metadata(top)
    {
        let on_node = |id| users.map_or(Some(id), |users| users.range.on_node(id));
        let (uid, gid) = (on_node(metadata.uid()), on_node(metadata.gid()));
        fs::set_permissions(&upper, fs::Permissions::from_mode(metadata.mode() & 0o7777))
            .and_then(|()| std::os::unix::fs::chown(&upper, uid, gid))
            .context(|| format!("cannot set the owner of {}", upper.display()))?;
    }
    let mount = |layers: &[PathBuf]| overlay(&target, layers, Some((&upper, &work)));
    match users {
        Some(users) => with_shifted(&dir.join("lower"), layers, users, mount),
        None => mount(layers),
    }
}

/// Calls `mount` with clones of `layers` below `place` that have the IDs of `users`.
///
/// An overlay itself cannot be shown with other IDs, but keeps those of its layers. What a
/// container writes has its IDs on the node.
fn with_shifted(
    place: &Path,
    layers: &[PathBuf],
    users: &Users,
    mount: impl FnOnce(&[PathBuf]) -> Result<()>,
) -> Result<()> {
    let mut shifted = Vec::with_capacity(layers.len());
    let mut result = Ok(());
    for (index, layer) in layers.iter().enumerate() {
        let point = place.join(index.to_string());
        result = users
            .shifted(layer, false)
            .and_then(|tree| tree.attach(&point));
        if result.is_err() {
            break;
        }
        shifted.push(point);
    }
    let result = result.and_then(|()| mount(&shifted));
    // The overlay has its own clones.
    for point in &shifted {
        unmount(point)?;
        fs::remove_dir(point).context(|| format!("cannot remove {}", point.display()))?;
    }
    result
}

/// Mounts an image's layers, bottom first, read-only at `target`; with the IDs of `users` if there
/// are some. Does nothing if it is already mounted.
pub fn mount_image(target: &Path, layers: &[PathBuf], users: Option<&Users>) -> Result<()> {
    fs::create_dir_all(target).context(|| format!("cannot make {}", target.display()))?;
    if is_mounted(target) {
        return Ok(());
    }
    match (layers, users) {
        ([single], Some(users)) => {
            let tree = users.shifted(single, false)?;
            tree.read_only()?;
            tree.attach(target)
        }
        (_, Some(users)) => {
            let mount = |layers: &[PathBuf]| overlay(target, layers, None);
            with_shifted(&target.with_extension("lower"), layers, users, mount)
        }
        ([single], None) => {
            let none: Option<&str> = None;
            mount(Some(single), target, none, MsFlags::MS_BIND, none)
                .and_then(|()| {
                    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                    mount(none, target, none, flags, none)
                })
                .context(|| format!("cannot mount an image at {}", target.display()))
        }
        (_, None) => overlay(target, layers, None),
    }
}

/// Mounts an overlay of `layers` at `target`, read-only without `upper` (upper and work directory).
fn overlay(target: &Path, layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Result<()> {
    let failed = || format!("cannot mount an overlay at {}", target.display());
    let options = |lower: &[PathBuf]| -> io::Result<CString> {
        let mut out = b"lowerdir=".to_vec();
        for (i, layer) in lower.iter().rev().enumerate() {
            if i > 0 {
                out.push(b':');
            }
            out.extend(escape(layer.as_os_str().as_bytes()));
        }
        if let Some((upper, work)) = upper {
            out.extend(b",upperdir=");
            out.extend(escape(upper.as_os_str().as_bytes()));
            out.extend(b",workdir=");
            out.extend(escape(work.as_os_str().as_bytes()));
        }
        CString::new(out).map_err(|_| io::ErrorKind::InvalidInput.into())
    };
    let mut text = options(layers).context(failed)?;
    // With many layers, refer to them by descriptors, whose paths are shorter.
    let mut held: Vec<OwnedFd> = Vec::new();
    if text.as_bytes_with_nul().len() > OPTIONS {
        let mut short = Vec::with_capacity(layers.len());
        for layer in layers {
            let fd = open_dir(layer).context(failed)?;
            short.push(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
            held.push(fd);
        }
        text = options(&short).context(failed)?;
    }
    let flags = if upper.is_some() {
        MsFlags::empty()
    } else {
        MsFlags::MS_RDONLY
    };
    mount(
        Some("overlay"),
        target,
        Some("overlay"),
        flags,
        Some(text.as_c_str()),
    )
    .context(failed)?;
    drop(held);
    Ok(())
}

/// Escapes the characters that have a meaning in overlay's mount options.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for byte in path {
        if matches!(byte, b':' | b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out
}

/// Returns whether a file system is mounted at `path`. Compares its device with the parent's first.
pub fn is_mounted(path: &Path) -> bool {
    let Some(parent) = path.parent() else {
        return true;
    };
    match (fs::metadata(path), fs::metadata(parent)) {
        (Ok(own), Ok(parent)) if own.dev() != parent.dev() => true,
        // A bind mount of the same file system is visible only in the mount table.
        (Ok(_), Ok(_)) => mounted_in_table(path),
        _ => false,
    }
}

/// Returns whether the mount table contains `path`.
fn mounted_in_table(path: &Path) -> bool {
    let Ok(path) = fs::canonicalize(path) else {
        return false;
    };
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| {
        table.lines().any(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|target| unescape(target) == path.as_os_str().as_bytes())
        })
    })
}

/// Decodes the octal escapes of `mountinfo`.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'\\'
            && let Some(code) = text.get(i + 1..i + 4)
            && let Ok(byte) = u8::from_str_radix(code, 8)
        {
            out.push(byte);
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}

/// Unmounts everything at `path`, at most eight stacked mounts. Succeeds if nothing is mounted.
pub fn unmount(path: &Path) -> Result<()> {
    for _ in 0..8 {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(e) => return Err(e).context(|| format!("cannot unmount {}", path.display())),
        }
    }
    Ok(())
}

/// Unmounts everything below `dir`, the deepest mounts first.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let Ok(dir) = fs::canonicalize(dir) else {
        return Ok(());
    };
    let table = fs::read_to_string("/proc/self/mountinfo")
        .context(|| "cannot read the mount table".into())?;
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|target| PathBuf::from(std::ffi::OsString::from_vec(unescape(target))))
        .filter(|target| target.starts_with(&dir) && *target != dir)
        .collect();
    found.sort_by_key(|target| std::cmp::Reverse(target.components().count()));
    found.iter().try_for_each(|target| unmount(target))
}

/// Returns the disk usage below `path` without other file systems. Files that disappear meanwhile
/// are ignored.
pub fn usage(path: &Path) -> FsUsage {
    fn walk(path: &Path, device: u64, usage: &mut FsUsage) {
        let Ok(entries) = fs::read_dir(path) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != device {
                continue;
            }
            usage.used_bytes += metadata.blocks() * 512;
            usage.used_inodes += 1;
            if metadata.is_dir() {
                walk(&entry.path(), device, usage);
            }
        }
    }
    let mut usage = FsUsage::default();
    if let Ok(metadata) = fs::metadata(path) {
        usage.used_inodes = 1;
        walk(path, metadata.dev(), &mut usage);
    }
    usage
}

/// Returns the file system that contains `path`.
pub fn fs_info(path: &Path) -> Result<FsInfo> {
    let stat = nix::sys::statvfs::statvfs(path)
        .context(|| format!("cannot examine the file system of {}", path.display()))?;
    let unit = stat.fragment_size();
    Ok(FsInfo {
        path: path.to_path_buf(),
        capacity_bytes: stat.blocks() * unit,
        available_bytes: stat.blocks_available() * unit,
        used_bytes: (stat.blocks() - stat.blocks_free()) * unit,
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(escape(b"/a:b,c\\d"), b"/a\\:b\\,c\\\\d");
        assert_eq!(unescape("/a\\040b"), b"/a b");
    }
}
