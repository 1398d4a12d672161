//! Applies a pod's `fsGroup` to a volume.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::stat::FileStat;

use super::beneath::{Dir, is_dir};

/// Permissions that the group gets on every file.
const FILE_BITS: u32 = 0o660;
/// Further permissions on directories: new files inherit the group.
const DIR_BITS: u32 = 0o2110;
/// Maximum depth of a volume's directories. Each level needs a descriptor.
const MAX_DEPTH: usize = 256;

/// Gives a group access to all files at and below `root`, as `fsGroup` requires.
///
/// With `on_root_mismatch`, does nothing if `root` already has the group and its permissions.
/// Containers may change the tree meanwhile: links are not followed, and other file systems that
/// are mounted in it are left out.
pub(super) fn give_to_group(root: &Path, group: u32, on_root_mismatch: bool) -> io::Result<()> {
    // An administrator chose the path, which may lead through links.
    let root = std::fs::canonicalize(root)?;
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
        return Err(io::Error::other("the root directory cannot be a volume"));
    };
    // `root` may be a mount point, which is not entered from its parent.
    if root.is_dir() {
        let dir = Dir::open(&root)?;
        let status = dir.status()?;
        if on_root_mismatch && is_owned(&status, group) {
            return Ok(());
        }
        give_content(&dir, group, 0)?;
        let mode = status.st_mode & 0o7777;
        return dir.set_access(None, Some(group), mode | FILE_BITS | DIR_BITS);
    }
    give_entry(&Dir::open(parent)?, name, group, 0)
}

/// Returns whether a directory has the group and the permissions already.
fn is_owned(status: &FileStat, group: u32) -> bool {
    let bits = FILE_BITS | DIR_BITS;
    status.st_gid == group && status.st_mode & bits == bits
}

fn give_content(dir: &Dir, group: u32, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(
            "the directories of the volume are nested too deeply for fsGroup",
        ));
    }
    for name in dir.names()? {
        give_entry(dir, &name, group, depth)?;
    }
    Ok(())
}

/// Gives an entry to the group, after all that is below it, so that an interrupted change is
/// repeated.
fn give_entry(dir: &Dir, name: &OsStr, group: u32, depth: usize) -> io::Result<()> {
    let entry = match dir.handle(name) {
        Ok(entry) => entry,
        // It has been removed meanwhile, or another file system is mounted there.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EXDEV)) => return Ok(()),
        Err(e) => return Err(e),
    };
    let status = nix::sys::stat::fstat(entry.as_raw_fd())?;
    if is_dir(&status) {
        let below = entry.reopen_dir()?;
        drop(entry);
        give_content(&below, group, depth + 1)?;
        let mode = (status.st_mode & 0o7777) | FILE_BITS | DIR_BITS;
        return below.set_access(None, Some(group), mode);
    }
    entry.set_group(group)?;
    if status.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Ok(());
    }
    // The entry is open with O_PATH, which fchmod(2) refuses.
    let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
    let mode = (status.st_mode & 0o7777) | FILE_BITS;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    /// A group that a test may use with any user ID.
    fn own_group(dir: &Path) -> u32 {
        std::fs::metadata(dir).unwrap().gid()
    }

    #[test]
    fn trees_are_accessible_to_the_group_but_not_what_links_lead_to() {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        std::fs::write(&secret, "").unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&secret, private.clone()).unwrap();
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "").unwrap();
        std::fs::set_permissions(root.join("a/b/file"), private).unwrap();
        symlink(&secret, root.join("a/link")).unwrap();
        symlink(outside.path(), root.join("dir-link")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        give_to_group(root, own_group(root), false).unwrap();
        assert_eq!(mode(&root.join("a/b/file")), 0o660);
        assert_eq!(mode(&root.join("fifo")), 0o660);
        for dir in ["", "a", "a/b"] {
            assert_eq!(mode(&root.join(dir)) & 0o2770, 0o2770, "{dir}");
        }
        assert_eq!(mode(&secret), 0o600);
        assert_eq!(mode(outside.path()) & 0o2000, 0);
    }

    #[test]
    fn a_suitable_root_is_left_alone_on_request() {
        let volume = tempfile::tempdir().unwrap();
        let (root, file) = (volume.path(), volume.path().join("f"));
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let group = own_group(root);
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o2770)).unwrap();
        give_to_group(root, group, true).unwrap();
        assert_eq!(mode(&file), 0o600);
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o770)).unwrap();
        give_to_group(root, group, true).unwrap();
        assert_eq!((mode(&file), mode(root)), (0o660, 0o2770));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        give_to_group(root, group, false).unwrap();
        assert_eq!(mode(&file), 0o660);
    }

    #[test]
    fn single_files_are_volumes_too() {
        let volume = tempfile::tempdir().unwrap();
        let file = volume.path().join("f");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        give_to_group(&file, own_group(volume.path()), true).unwrap();
        assert_eq!(mode(&file), 0o660);
        assert!(give_to_group(&volume.path().join("none"), 0, false).is_err());
    }
}
