//! PID 1 of a node, for every driver. It starts the node's services, restarts those that
//! exit, reaps orphans, and stops the node in order.
//!
//! It is single-threaded, allocates little and depends only on the kernel: when PID 1
//! exits, the kernel kills the whole node.

#![warn(missing_docs)]

pub mod cgroup;
mod etc;
pub mod limits;
pub mod rootfs;
mod service;
pub mod state;
mod tree;
pub mod vm;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rkube_config::{NodeConfig, paths};

use service::Service;

pub use etc::write_identity;

/// Maximum time for processes to exit after SIGTERM when the node stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Delay of the main loop after a failure, so that a lasting one takes little processor time.
const FAILURE_DELAY: Duration = Duration::from_millis(200);

/// Runs the node until SIGTERM, SIGINT or SIGPWR requests a stop. The caller must be PID 1
/// (or a child subreaper) of a node whose file systems are mounted.
pub fn run(config: &NodeConfig) -> anyhow::Result<()> {
    run_until(config, None, STOP_GRACE)
}

/// Like [`run`], but also stops when the power button is pressed, if there is one.
fn run_until(config: &NodeConfig, button: Option<&File>, grace: Duration) -> anyhow::Result<()> {
    let mut wanted = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGPWR,
        // The control plane asks to look which services are wanted.
        Signal::SIGHUP,
    ] {
        wanted.add(signal);
    }
    wanted.thread_block().context("cannot block signals")?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot make a signalfd")?;

    limits::protect_init();
    for folder in [paths::RUN, paths::LOGS, paths::POD_LOGS, paths::STATE] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
    }

    // A failed restore is reported but does not stop the boot.
    if let Err(e) = state::State::of_node().apply(config.restore.as_deref()) {
        rkube_fsutil::say!("init: the snapshot cannot be restored: {e:#}");
    }

    let mut services = vec![Service::new("agent")];
    if config.control_plane {
        // First, because the agents of all nodes wait for it.
        services.insert(0, Service::new("control-plane"));
        services.push(Service::with_condition(
            rkube_config::roles::INGRESS,
            paths::INGRESS_TOKEN,
        ));
    }
    for service in &mut services {
        service.start_if_wanted();
    }

    while !survive(|| turn(&mut services, &signals, button)) {}
    stop(&mut services, &signals, grace)
}

/// Waits for the next event and handles it. Returns whether the node was asked to stop.
fn turn(
    services: &mut [Service],
    signals: &SignalFd,
    button: Option<&File>,
) -> anyhow::Result<bool> {
    let now = Instant::now();
    let timeout = services
        .iter()
        .filter_map(Service::due)
        .map(|due| due.saturating_duration_since(now))
        .min();
    if wait_for_signal(signals, button, timeout)? {
        return Ok(true);
    }
    reap(services);
    let now = Instant::now();
    for service in services {
        service.look();
        if service.due().is_some_and(|due| due <= now) {
            service.start();
        }
    }
    Ok(false)
}

/// Runs one turn of the main loop and returns its result. An error or a panic is reported, and
/// the loop goes on after [`FAILURE_DELAY`]: the end of PID 1 would be that of the node.
fn survive(turn: impl FnOnce() -> anyhow::Result<bool>) -> bool {
    let failure = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(turn)) {
        Ok(Ok(stop)) => return stop,
        Ok(Err(e)) => format!("{e:#}"),
        // The message has been written by the panic itself.
        Err(_) => "a panic".to_owned(),
    };
    rkube_fsutil::say!("init: {failure}; going on");
    std::thread::sleep(FAILURE_DELAY);
    false
}

/// Waits for a signal, the button or `timeout`. Returns whether the node was asked to stop.
fn wait_for_signal(
    signals: &SignalFd,
    button: Option<&File>,
    timeout: Option<Duration>,
) -> anyhow::Result<bool> {
    let timeout = match timeout {
        // Rounded up: poll has a resolution of 1 ms and must not return before the due time.
        Some(left) => {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    fds.extend(button.map(|b| PollFd::new(b.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(e) => return Err(e).context("cannot wait for signals"),
    }
    let mut stop = false;
    while let Some(info) = signals.read_signal().context("cannot read signals")? {
        let harmless = [Signal::SIGCHLD as u32, Signal::SIGHUP as u32];
        stop |= !harmless.contains(&info.ssi_signo);
    }
    if let Some(mut button) = button {
        let mut events = [0; 1024];
        // The device is non-blocking; usually there is nothing to read.
        if let Ok(n) = button.read(&mut events) {
            stop |= vm::pressed(&events[..n]);
        }
    }
    Ok(stop)
}

/// Reaps every child that has exited. Returns whether no children are left.
fn reap(services: &mut [Service]) -> bool {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(status) => {
                if let Some(pid) = status.pid()
                    && let Some(service) = services.iter_mut().find(|s| s.pid() == Some(pid))
                {
                    service.ended(status);
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}

/// Writes the node's data to disk. Other file systems of a host, which a node must not wait for,
/// are left alone.
fn sync() {
    for folder in [paths::STATE, paths::IMAGES, paths::LOGS] {
        let synced =
            File::open(folder).and_then(|folder| Ok(nix::unistd::syncfs(folder.as_raw_fd())?));
        if let Err(e) = synced {
            rkube_fsutil::say!("init: cannot write {folder} to disk: {e}");
        }
    }
}

/// Stops the node. Services are stopped first, so that they do not restart containers or
/// report them as dead; then everything else. The kernel kills the remaining processes when
/// PID 1 exits.
fn stop(services: &mut [Service], signals: &SignalFd, grace: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + grace;
    for service in services.iter_mut().rev() {
        service.terminate();
    }
    while services.iter().any(|s| s.pid().is_some()) && Instant::now() < deadline {
        wait_for_signal(
            signals,
            None,
            Some(deadline.saturating_duration_since(Instant::now())),
        )?;
        reap(services);
    }
    // Containers of paused namespaces. A frozen process would not end, not even by SIGKILL.
    if let Err(e) = rkube_cgroups::node::thaw_all() {
        rkube_fsutil::say!("init: cannot let paused containers go on: {e}");
    }
    // Also sent to the PID 1 of each container. Without a handler it ignores the signal and
    // is killed together with its PID namespace.
    let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
    while !reap(services) && Instant::now() < deadline {
        wait_for_signal(
            signals,
            None,
            Some(deadline.saturating_duration_since(Instant::now())),
        )?;
    }
    sync();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_errors_nor_panics_end_the_main_loop() {
        assert!(!survive(|| anyhow::bail!("no memory")));
        assert!(!survive(|| panic!("a bug")));
        assert!(!survive(|| Ok(false)));
        assert!(survive(|| Ok(true)));
    }
}
