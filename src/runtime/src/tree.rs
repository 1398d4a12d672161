//! Mount trees that are attached to nothing yet (`open_tree(2)`), and where they are attached.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::beneath::c_path;
use crate::error::{Context, Result, RuntimeError};

/// A clone of what is mounted at a path. It is gone when dropped, unless it is attached.
pub struct Tree {
    fd: OwnedFd,
    is_dir: bool,
}

impl Tree {
    /// Clones what is mounted at `path`; with everything below it if `recursive`.
    pub fn of(path: &Path, recursive: bool) -> Result<Self> {
        let failed = || format!("cannot clone the mount of {}", path.display());
        let is_dir = fs::metadata(path).context(failed)?.is_dir();
        let text = c_path(path).context(failed)?;
        let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= libc::AT_RECURSIVE as libc::c_uint;
        }
        // SAFETY: the string outlives the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, text.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context(failed);
        }
        // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { fd, is_dir })
    }

    /// Lets mounts on the node appear in the tree, but changes of the tree not on the node.
    ///
    /// Without this, unmounting the tree would unmount what is below it on the node as well.
    pub fn follow(&self) -> Result<()> {
        // SAFETY: the struct is plain integers, for which zero is valid.
        let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
        change.propagation = libc::MS_SLAVE;
        self.change(&change, libc::AT_RECURSIVE)
            .context(|| "cannot change the propagation of a mount".into())
    }

    /// Makes the top of the tree read-only.
    pub fn read_only(&self) -> Result<()> {
        // SAFETY: as above.
        let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
        change.attr_set = libc::MOUNT_ATTR_RDONLY;
        self.change(&change, 0)
            .context(|| "cannot make a mount read-only".into())
    }

    /// Shows the files of the top of the tree with the IDs of a user namespace. `source` is named
    /// in errors.
    pub fn map(&self, users: BorrowedFd<'_>, source: &Path) -> Result<()> {
        // SAFETY: as above.
        let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
        change.attr_set = libc::MOUNT_ATTR_IDMAP;
        change.userns_fd = users.as_raw_fd() as u64;
        self.change(&change, 0).map_err(|e| {
            // The words of other runtimes.
            let hint = if e.raw_os_error() == Some(libc::EINVAL) {
                " (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
            } else {
                ""
            };
            let reason = nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0)).desc();
            RuntimeError::Invalid(format!(
                "failed to set MOUNT_ATTR_IDMAP on {}: {}{hint}",
                source.display(),
                reason.to_lowercase()
            ))
        })
    }

    fn change(&self, change: &libc::mount_attr, flags: libc::c_int) -> io::Result<()> {
        // SAFETY: the descriptor is open, the path is empty, and the struct has the given size.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.fd.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | flags,
                std::ptr::from_ref(change),
                size_of::<libc::mount_attr>(),
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Attaches the tree at `target`, which is created: a directory or a file, like the tree.
    pub fn attach(self, target: &Path) -> Result<()> {
        let failed = || format!("cannot mount {}", target.display());
        if self.is_dir {
            fs::create_dir_all(target).context(failed)?;
        } else {
            File::options()
                .create(true)
                .append(true)
                .open(target)
                .context(failed)?;
        }
        let text = c_path(target).context(failed)?;
        // SAFETY: the descriptor is open, and both strings outlive the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.fd.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                text.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error()).context(failed)
        }
    }
}

/// Bind-mounts a file of `/proc/PID/ns`, an open one of them, or any other at `target`, so that the
/// namespace lives on without a process.
pub fn pin(source: &Path, target: &Path) -> Result<()> {
    let failed = || format!("cannot pin a namespace at {}", target.display());
    File::create(target).context(failed)?;
    let none: Option<&str> = None;
    nix::mount::mount(
        Some(source),
        target,
        none,
        nix::mount::MsFlags::MS_BIND,
        none,
    )
    .inspect_err(|_| {
        // An empty file there would look like a pinned namespace.
        if let Err(e) = fs::remove_file(target) {
            tracing::debug!("removing {}: {e}", target.display());
        }
    })
    .context(failed)
}

/// Pins the namespace of an open file at `target`.
pub fn pin_open(file: &impl AsFd, target: &Path) -> Result<()> {
    let fd = file.as_fd().as_raw_fd();
    pin(Path::new(&format!("/proc/self/fd/{fd}")), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_failed_pin() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("pid");
        assert!(pin(&dir.path().join("missing"), &target).is_err());
        assert!(!target.exists());
    }
}
