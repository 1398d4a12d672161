//! User namespaces of sandboxes (`hostUsers: false`).
//!
//! The users and groups of a pod are numbers of a range of the node that nothing else uses. The
//! pod's other namespaces belong to its user namespace, so that its root has rights over them and
//! over nothing of the node. Files keep their numbers on disk; mounts show them shifted.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::tree::Tree;

/// A range of IDs of the node that stand for the users and groups 0, 1, … of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The ID on the node of the pod's root.
    pub first: u32,
    /// Number of IDs.
    pub length: u32,
}

impl IdRange {
    /// The first ID of the ranges for pods. No system convention uses this one and the following
    /// ones, and nodes may share the IDs of one machine.
    pub const PODS: u32 = 0x7000_0000;
    /// A range like those of pods, to try what the kernel can do.
    const PROBE: Self = Self {
        first: Self::PODS,
        length: 1 << 16,
    };

    /// Returns the ID on the node of an ID in the pod; `None` if the pod has no such ID.
    pub fn on_node(self, id: u32) -> Option<u32> {
        (id < self.length)
            .then(|| self.first.checked_add(id))
            .flatten()
    }
}

/// The user namespace of a sandbox.
pub struct Users {
    /// The IDs on the node.
    pub range: IdRange,
    namespace: File,
}

impl Users {
    /// Opens the namespace that is pinned at `path`.
    pub fn open(path: &Path, range: IdRange) -> Result<Self> {
        let namespace = File::open(path).context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { range, namespace })
    }

    /// Clones the mount of `source` with the IDs of the namespace. Mounts below it, if
    /// `recursive`, keep the node's, as in other runtimes.
    pub fn shifted(&self, source: &Path, recursive: bool) -> Result<Tree> {
        let tree = Tree::of(source, recursive)?;
        tree.map(self.namespace.as_fd(), source)?;
        Ok(tree)
    }
}

/// A process that does nothing but hold new namespaces. Killed when dropped.
struct Holder {
    pid: libc::pid_t,
}

impl Holder {
    /// Starts a process with the new namespaces of `flags`.
    fn start(flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let parent = unsafe { libc::getpid() };
        // Neither unshare(2) nor setns(2) of a user namespace works in a process with threads.
        // SAFETY: like fork(2), as the stack is not replaced. The child only makes system calls,
        // which are safe also while other threads of this process held locks.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        match i32::try_from(pid).map_err(io::Error::other)? {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: as above. It must not outlive its parent, which could have ended already.
            0 => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                while libc::getppid() == parent {
                    libc::pause();
                }
                libc::_exit(0)
            },
            pid => Ok(Self { pid }),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: the child is not reaped yet, so its PID is not reused.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Makes a user namespace with the IDs of `range`, and the other new namespaces of `flags` that
/// belong to it. Calls `keep` with the directory of their files, which lasts for the call only.
pub fn make<T>(
    range: IdRange,
    flags: libc::c_int,
    keep: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    let holder = Holder::start(flags | libc::CLONE_NEWUSER)
        .context(|| "cannot make a user namespace".into())?;
    let process = PathBuf::from(format!("/proc/{}", holder.pid));
    for map in ["uid_map", "gid_map"] {
        fs::write(
            process.join(map),
            format!("0 {} {}\n", range.first, range.length),
        )
        .context(|| format!("cannot write the {map} of a user namespace"))?;
    }
    keep(&process.join("ns"))
}

/// Returns whether the kernel can make user namespaces, and show the files of `places` in them.
pub fn supported(places: &[&Path]) -> Result<()> {
    let range = IdRange::PROBE;
    make(range, 0, |namespaces| {
        let users = Users::open(&namespaces.join("user"), range)?;
        places
            .iter()
            .try_for_each(|place| users.shifted(place, false).map(drop))
    })
}

/// Mounts a whole `/proc` and `/sys` below `dir` in a mount namespace of the calling process alone,
/// which has a single thread.
///
/// The kernel lets a user namespace mount these file systems only if it sees one of the kind
/// without anything hidden in it. On nodes, parts of `/proc` are masked. Other containers must not
/// see these mounts, not even with the node's whole file system.
pub fn show_kernel(dir: &Path) -> io::Result<()> {
    let none: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    for kind in ["proc", "sysfs"] {
        let target = dir.join("kernel").join(kind);
        fs::create_dir_all(&target)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(kind), &target, Some(kind), flags, none)?;
    }
    Ok(())
}

/// Calls `work` as the node's user that stands for the root of a pod, and without its rights over
/// the node. The calling thread must be root's.
///
/// Parameters of an IPC namespace are only writable for the user who owns it.
pub fn as_root<T>(range: IdRange, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // The kernel makes the whole process undumpable when one of its threads changes users.
    // SAFETY: no memory is involved.
    let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
    become_effective(range.first)?;
    let result = work();
    become_effective(0)?;
    if dumpable == 1 {
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    }
    result
}

/// Sets the effective user of the calling thread only. The C library would set that of all threads.
fn become_effective(uid: u32) -> io::Result<()> {
    const SAME: libc::uid_t = libc::uid_t::MAX;
    // SAFETY: no memory is involved.
    match unsafe { libc::syscall(libc::SYS_setresuid, SAME, uid, SAME) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl AsFd for Users {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_pod_are_those_of_its_range() {
        let range = IdRange {
            first: 131_072,
            length: 65_536,
        };
        assert_eq!(range.on_node(0), Some(131_072));
        assert_eq!(range.on_node(65_535), Some(196_607));
        assert_eq!(range.on_node(65_536), None);
        let last = IdRange {
            first: u32::MAX,
            length: 2,
        };
        assert_eq!((last.on_node(0), last.on_node(1)), (Some(u32::MAX), None));
    }
}
