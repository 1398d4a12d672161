//! Folders of the host in nodes.
//!
//! A folder is cloned as a detached mount (`open_tree(2)`), and then attached in the mount
//! namespace of a node (`move_mount(2)`). Paths of the host are thus resolved on the host. Paths of
//! the node are resolved in the node, where symbolic links cannot lead out of it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::Context;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use rkube_cgroups::devices::DeviceRule;
use rkube_init::rootfs::make_dir;

use crate::types::HostMount;

/// A folder or file of the host that is not attached anywhere.
pub struct Detached {
    tree: OwnedFd,
    is_dir: bool,
}

/// Clones what is mounted at a path of the host, with everything below it. Later mounts on the
/// host do not appear in the clone, nor mounts in the clone on the host.
pub fn detach(mount: &HostMount) -> anyhow::Result<Detached> {
    let shown = mount.host.display();
    let meta = std::fs::metadata(&mount.host).with_context(|| format!("cannot mount {shown}"))?;
    let path = CString::new(mount.host.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as u32;
    // SAFETY: the path is a string that ends with a zero byte.
    let tree = descriptor(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })
    .with_context(|| format!("cannot mount {shown}"))?;
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.propagation = libc::MS_PRIVATE;
    if mount.read_only {
        change.attr_set = libc::MOUNT_ATTR_RDONLY;
    }
    // SAFETY: the descriptor is open, the path is empty, and the struct has the given size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot change the mount of {shown}"));
    }
    Ok(Detached {
        tree,
        is_dir: meta.is_dir(),
    })
}

/// Returns rules for the devices that a mount of this path of the host shows to a node: the device
/// at the path, or those below it if it is in `/dev`.
pub fn devices(path: &Path) -> Vec<DeviceRule> {
    let Ok(path) = path.canonicalize() else {
        // The mount fails later, with a better error.
        return Vec::new();
    };
    let mut rules = Vec::new();
    let mut open = vec![path];
    while let Some(path) = open.pop() {
        // A device may have been removed meanwhile.
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = meta.file_type();
        if kind.is_dir() && path.starts_with("/dev") {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()));
        } else if kind.is_char_device() || kind.is_block_device() {
            rules.push(DeviceRule {
                block: kind.is_block_device(),
                major: Some(libc::major(meta.rdev())),
                minor: Some(libc::minor(meta.rdev())),
                access: "rwm".into(),
            });
        }
    }
    rules
}

/// Attaches a folder to a path of this process's mount namespace. Creates the path.
pub fn attach(folder: &Detached, target: &Path) -> anyhow::Result<()> {
    if folder.is_dir {
        make_dir(target, 0o755)?;
    } else {
        if let Some(parent) = target.parent() {
            make_dir(parent, 0o755)?;
        }
        let made = File::options().create(true).append(true).open(target);
        made.with_context(|| format!("cannot make {}", target.display()))?;
    }
    let path = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: the descriptor is open, and both paths are strings that end with a zero byte.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            folder.tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot mount on {}", target.display()));
    }
    Ok(())
}

/// Mounts a folder in the running node whose first process is `init`, or takes it away.
pub fn change(init: Pid, mount: &HostMount, present: bool) -> anyhow::Result<()> {
    let folder = present.then(|| detach(mount)).transpose()?;
    let path = format!("/proc/{init}/ns/mnt");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let target = mount.node.clone();
    // In a thread that ends afterwards: it cannot return to this process's namespace.
    let thread = std::thread::spawn(move || -> anyhow::Result<()> {
        // The root and the working directory are those of the thread alone.
        unshare(CloneFlags::CLONE_FS).context("cannot leave this process's root")?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)
            .context("cannot enter the node's mount namespace")?;
        match &folder {
            Some(folder) => attach(folder, &target),
            None => match umount2(&target, MntFlags::MNT_DETACH) {
                // It was taken away by other means.
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
                Err(e) => Err(e).with_context(|| format!("cannot unmount {}", target.display())),
            },
        }
    });
    thread
        .join()
        .unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the system call has returned a new descriptor, which nothing else uses.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_declared_mounts_are_found() {
        let null = DeviceRule::character(1, Some(3));
        assert_eq!(devices(Path::new("/dev/null")), std::slice::from_ref(&null));
        assert!(devices(Path::new("/dev")).contains(&null));
        assert!(devices(Path::new("/usr")).is_empty());
        assert!(devices(Path::new("/nowhere")).is_empty());
    }
}
