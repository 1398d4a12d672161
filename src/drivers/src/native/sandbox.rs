//! A node's sandbox: creates its namespaces from outside and sets it up from inside.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use rkube_config::{NodeConfig, paths};

use super::types::SandboxSpec;
use super::{mounts, privileges};

/// Timeout for joined threads to disappear.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A sandbox whose PID 1 is blocked on the gate pipe.
pub struct PendingInit {
    /// The node's PID 1, in the caller's PID namespace.
    pub pid: Pid,
    gate: File,
}

impl PendingInit {
    /// Unblocks the node's PID 1.
    pub fn release(mut self) -> std::io::Result<()> {
        self.gate.write_all(b"g")
    }
}

/// Creates the namespaces of a node and its PID 1, which blocks until
/// [`PendingInit::release`] and exits if the `PendingInit` is dropped.
///
/// # Errors
///
/// Fails if the caller has more than one thread: the child continues with a copy of the memory, in
/// which other threads may hold locks.
pub fn spawn_init(binary: &Path, spec: &Path, log: &Path) -> anyhow::Result<PendingInit> {
    let (wait, gate) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot create a pipe")?;
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        // The directory may belong to the user for whom root acts.
        .custom_flags(libc::O_NOFOLLOW)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    // All allocations happen before the clone.
    let program = std::ffi::CString::new(binary.as_os_str().as_bytes())?;
    let args = [
        program.clone(),
        std::ffi::CString::new(rkube_config::roles::NATIVE_INIT)?,
        std::ffi::CString::new(spec.as_os_str().as_bytes())?,
    ];
    let env: Vec<std::ffi::CString> = ["RKUBE_LOG", "RUST_BACKTRACE"]
        .iter()
        .filter_map(|name| {
            std::ffi::CString::new(format!("{name}={}", std::env::var(name).ok()?)).ok()
        })
        .collect();

    require_one_thread()?;
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    // SAFETY: a zeroed clone_args is valid. Without a stack, the child continues on a copy of the
    // caller's stack, as after fork(2). It is the only thread, as was just checked.
    let pid = unsafe {
        let mut clone: libc::clone_args = std::mem::zeroed();
        clone.flags = flags as u64;
        clone.exit_signal = libc::SIGCHLD as u64;
        libc::syscall(
            libc::SYS_clone3,
            &raw const clone,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(std::io::Error::last_os_error()).context("cannot create the node's namespaces"),
        0 => {
            drop(gate);
            child(&wait, &log, &program, &args, &env)
        }
        pid => Ok(PendingInit {
            pid: Pid::from_raw(i32::try_from(pid)?),
            gate: File::from(gate),
        }),
    }
}

/// Fails unless this process has a single thread. Waits a moment for threads that were joined, but
/// that the kernel still lists.
fn require_one_thread() -> anyhow::Result<()> {
    let deadline = Instant::now() + JOIN_TIMEOUT;
    loop {
        let threads = std::fs::read_dir("/proc/self/task")
            .context("cannot read /proc/self/task")?
            .count();
        if threads == 1 {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "a node cannot be created by a process with {threads} threads"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The child's side: waits for the gate, then becomes `rkube native-init`.
fn child(
    wait: &OwnedFd,
    log: &File,
    program: &std::ffi::CStr,
    args: &[std::ffi::CString],
    env: &[std::ffi::CString],
) -> ! {
    let run = || -> nix::Result<()> {
        nix::unistd::setsid()?;
        let mut byte = [0u8; 1];
        if nix::unistd::read(wait.as_raw_fd(), &mut byte)? == 0 {
            // The supervisor gave up on this node.
            return Err(nix::errno::Errno::ECANCELED);
        }
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        let null = nix::fcntl::open(
            "/dev/null",
            nix::fcntl::OFlag::O_RDWR,
            nix::sys::stat::Mode::empty(),
        )?;
        nix::unistd::dup2(null, 0)?;
        nix::unistd::dup2(log.as_raw_fd(), 1)?;
        nix::unistd::dup2(log.as_raw_fd(), 2)?;
        // Closes the supervisor's descriptors at exec. SAFETY: plain syscall.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        nix::unistd::execve(program, args, env)?;
        Ok(())
    };
    let _ = run();
    // SAFETY: ends the copy of the supervisor without running its destructors.
    unsafe { libc::_exit(1) }
}

/// `rkube native-init <spec>`: builds the node's file systems from inside its
/// namespaces, then becomes `rkube init`.
pub fn native_init(spec: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    File::open(spec)
        .and_then(|mut f| f.read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", spec.display()))?;
    let spec: SandboxSpec =
        serde_json::from_str(&text).context("the sandbox specification is damaged")?;
    let config = NodeConfig::read(spec.etc.join("node.yaml"))?;

    let hierarchies = rkube_cgroups::hierarchies()?;
    // Only after the supervisor has moved this process to its groups, which become the root.
    unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot create a cgroup namespace")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    mounts::enter(&spec, &hierarchies)?;
    rkube_init::cgroup::make_room(Path::new("/"))?;
    rkube_init::write_identity(Path::new("/"), &config)?;
    privileges::give_up()?;

    let error = std::os::unix::process::CommandExt::exec(
        std::process::Command::new(paths::BINARY).arg("init"),
    );
    Err(error).with_context(|| format!("cannot run {}", paths::BINARY))
}

/// Opens a pidfd, which keeps referring to the process when its number is reused.
pub fn pidfd(pid: Pid) -> std::io::Result<OwnedFd> {
    // SAFETY: plain syscall; the result is a new descriptor of ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(
            i32::try_from(fd).map_err(std::io::Error::other)?,
        ))
    }
}

/// Whether the process behind a pidfd has ended.
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [nix::poll::PollFd::new(
        pidfd.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Returns a process's start time in clock ticks since boot, which together with the PID identifies
/// it. Returns `None` if the process does not exist.
pub fn start_time(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and can contain any character; field 22 follows it.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_start_time_is_known_and_a_missing_process_has_none() {
        assert!(start_time(Pid::this()).is_some());
        assert_eq!(start_time(Pid::from_raw(i32::MAX)), None);
    }
}
