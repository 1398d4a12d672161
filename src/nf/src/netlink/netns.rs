//! Network namespaces by file descriptor.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use super::NetlinkError;

/// Runs `work` on a new thread inside the network namespace `netns`.
///
/// The calling thread stays in its namespace, so a failure cannot leave it in the wrong one. A
/// panic of `work` is resumed in the caller.
pub fn in_netns<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetlinkError> {
    on_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetlinkError::new("cannot enter a network namespace", errno))?;
        Ok(work())
    })
}

/// Opens the namespace file at `path`: `/proc/PID/ns/net` or a bind mount of it.
pub fn open_netns(path: &Path) -> Result<OwnedFd, NetlinkError> {
    File::open(path).map(OwnedFd::from).map_err(|error| {
        NetlinkError::new(
            format!("cannot open network namespace {}", path.display()),
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
        )
    })
}

/// Opens the network namespace of a process.
pub fn pid_netns(pid: i32) -> Result<OwnedFd, NetlinkError> {
    open_netns(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// Opens the calling thread's network namespace.
pub fn current_netns() -> Result<OwnedFd, NetlinkError> {
    open_netns(Path::new("/proc/thread-self/ns/net"))
}

/// Creates an empty network namespace; its loopback interface is down. The namespace exists as long
/// as the descriptor, or any process or mount that refers to it.
pub fn new_netns() -> Result<OwnedFd, NetlinkError> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetlinkError::new("cannot make a network namespace", errno))?;
        current_netns()
    })
}

/// Runs `work` on a new thread and resumes its panic in the caller.
fn on_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|error| {
                NetlinkError::new(
                    "cannot start a thread",
                    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)),
                )
            })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
