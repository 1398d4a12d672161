//! Forking of the launcher, and its report.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use super::error::ShimError;
use super::launch::{Launch, Launcher, Libcontainer, Stdio};
use super::plan::{Plan, reset_signals};
use super::sys;
use super::types::ShimConfig;

/// Forks a launcher that creates the container or, with `process` (an open file), runs a command in
/// it. Returns the pipe of its report, which is closed once the command has been executed or has
/// failed to start.
pub(super) fn fork_launcher(
    plan: &Plan,
    stdio: Stdio,
    config: &ShimConfig,
    process: Option<&File>,
) -> Result<OwnedFd, ShimError> {
    let (reader, writer) = sys::pipe().map_err(ShimError::io("cannot make a pipe"))?;
    // SAFETY: this process has a single thread.
    match unsafe { libc::fork() } {
        -1 => Err(ShimError::io("cannot fork")(io::Error::last_os_error())),
        0 => {
            drop(reader);
            reset_signals();
            let mut errors = writer.as_fd().try_clone_to_owned().ok().map(File::from);
            let launch = Launch {
                id: &config.id,
                bundle: &config.bundle,
                state: &config.state,
                cgroup: &config.cgroup,
                devices: config.devices.as_deref(),
                users: config.users.as_ref(),
                plan,
                stdio,
                report: writer,
            };
            let result = match process {
                None => Libcontainer.run(launch),
                Some(file) => Libcontainer.exec(
                    launch,
                    Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())),
                ),
            };
            let code = match result {
                Ok(_) => 0,
                Err(reason) => {
                    if let Some(errors) = &mut errors {
                        let _ = errors.write_all(format!("E{}\n", reason.line()).as_bytes());
                    }
                    1
                }
            };
            // SAFETY: ends the process without running the destructors of the shim.
            unsafe { libc::_exit(code) }
        }
        _ => Ok(reader),
    }
}

/// Parses the launcher's report. Returns the PID, or the reported error.
pub(super) fn outcome(text: &str) -> Result<i32, ShimError> {
    let mut pid = None;
    for line in text.lines() {
        if let Some(reason) = line.strip_prefix('E') {
            return Err(reason.into());
        }
        if let Some(number) = line.strip_prefix('P') {
            pid = number.parse().ok();
        }
    }
    pid.ok_or_else(|| "the launcher ended without a word".into())
}

/// Receives the terminal that the launcher sent to the listener.
pub(super) fn accept_terminal(
    listener: &std::os::unix::net::UnixListener,
) -> Result<OwnedFd, ShimError> {
    let failed = |e| ShimError::io("cannot take over the terminal")(e);
    listener.set_nonblocking(true).map_err(failed)?;
    let (socket, _) = listener.accept().map_err(failed)?;
    let mut fds = Vec::new();
    let mut buffer = [0; 256];
    sys::receive(socket.as_raw_fd(), &mut buffer, &mut fds).map_err(failed)?;
    fds.pop()
        .ok_or_else(|| "the launcher sent no terminal".into())
}
