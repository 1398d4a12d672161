//! Startup of a shim and of its container.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rkube_cgroups::node as cgroup;

use super::error::ShimError;
use super::fork::{accept_terminal, fork_launcher, outcome};
use super::launch::Stdio;
use super::log::Log;
use super::plan::Plan;
use super::serve::Server;
use super::sys;
use super::types::{CGROUP_TIMEOUT, ShimConfig, Streams};
use crate::beneath::check;

/// The soft and the hard limit of open files that containers have.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Runs `rkube shim <config file>`. Starts the container, prints `ok <pid>` or `error <reason>` as
/// one line, and serves the container until it exits.
pub fn main(args: &[OsString]) -> i32 {
    let [config] = args else {
        eprintln!("usage: rkube shim CONFIG");
        return 2;
    };
    // The first process exits at once, so that the shim is reparented to init and is not a child of
    // the agent.
    // SAFETY: this process has a single thread.
    match unsafe { libc::fork() } {
        -1 => {
            println!("error cannot fork: {}", io::Error::last_os_error());
            1
        }
        0 => {
            // SAFETY: no memory is involved. Fails only for a process group leader, which a forked
            // child is not.
            unsafe { libc::setsid() };
            run(Path::new(config))
        }
        _ => 0,
    }
}

/// Starts the container of a configuration file, reports the result and serves the container.
fn run(path: &Path) -> i32 {
    let started = std::fs::read(path)
        .map_err(ShimError::io(format!("cannot read {}", path.display())))
        .and_then(|bytes| {
            serde_json::from_slice::<ShimConfig>(&bytes).map_err(|source| ShimError::Config {
                path: path.display().to_string(),
                source,
            })
        })
        .and_then(|config| start(&config).map(|parts| (config, parts)));
    match started {
        Ok((config, (server, pid))) => {
            answer(&format!("ok {pid}\n"));
            server.run(&config)
        }
        Err(reason) => {
            answer(&format!("error {}\n", reason.line()));
            1
        }
    }
}

/// Writes one line to the process that started the shim, then closes standard output.
fn answer(line: &str) {
    let mut stdout = io::stdout();
    let _ = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush());
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        for fd in 0..3 {
            // SAFETY: no memory is involved.
            unsafe { libc::dup2(null.as_raw_fd(), fd) };
        }
    }
}

/// Limits the open files of the container and its commands, which inherit it, to systemd's default.
/// It is that of containers of containerd, whatever the limits of the agent are.
fn set_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the struct, which outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_max = limit.rlim_max.min(OPEN_FILES.1);
    limit.rlim_cur = limit.rlim_max.min(OPEN_FILES.0);
    // SAFETY: the struct is initialized and outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// Prepares the shim (socket, log and signals) and starts the container.
fn start(config: &ShimConfig) -> Result<(Server, i32), ShimError> {
    // The kernel should rather kill the container than the shim. Failures are ignored.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    set_open_files().map_err(ShimError::io("cannot limit open files"))?;
    // The shim reaps orphans of a container without a PID namespace.
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
        .map_err(ShimError::io("cannot become a reaper"))?;
    let signals = signals().map_err(ShimError::io("cannot watch for children"))?;
    let _ = std::fs::remove_file(&config.socket);
    let listener =
        sys::listen(&config.socket).map_err(ShimError::io("cannot listen for the agent"))?;
    listener
        .set_nonblocking(true)
        .map_err(ShimError::io("cannot listen for the agent"))?;
    let log = match &config.log_path {
        Some(path) => Some(Log::open(path).map_err(ShimError::io(format!(
            "cannot open log file {}",
            path.display()
        )))?),
        None => None,
    };
    let console = config.bundle.join("console.sock");
    let result = launch_container(config, &console);
    let _ = std::fs::remove_file(&console);
    match result {
        Ok((pid, streams)) => Ok((Server::new(listener, signals, log, streams, pid), pid)),
        Err(reason) => {
            cgroup::destroy(&config.cgroup, CGROUP_TIMEOUT);
            let _ = std::fs::remove_file(&config.socket);
            Err(reason)
        }
    }
}

/// Starts the container. Returns the PID of its first process and the shim's ends of its streams.
fn launch_container(config: &ShimConfig, console: &Path) -> Result<(i32, Streams), ShimError> {
    let io_error = |e| ShimError::io("cannot make the container's streams")(e);
    let mut ours = Streams {
        stdin: None,
        stdout: None,
        stderr: None,
    };
    let mut listener = None;
    let stdio = if config.tty {
        let _ = std::fs::remove_file(console);
        listener = Some(sys::listen(console).map_err(io_error)?);
        Stdio::Console(console.to_path_buf())
    } else {
        let stdin: OwnedFd = if config.stdin {
            let (theirs, mine) = sys::pipe().map_err(io_error)?;
            ours.stdin = Some(mine);
            theirs
        } else {
            File::open("/dev/null").map_err(io_error)?.into()
        };
        let (mine, stdout) = sys::pipe().map_err(io_error)?;
        ours.stdout = Some(mine);
        let (mine, stderr) = sys::pipe().map_err(io_error)?;
        ours.stderr = Some(mine);
        let streams = [stdin, stdout, stderr];
        give(&streams, &config.plan, config).map_err(io_error)?;
        let [stdin, stdout, stderr] = streams;
        Stdio::Pipes(stdin, stdout, stderr)
    };
    let report = fork_launcher(&config.plan, stdio, config, None)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut File::from(report), &mut text)?;
    let pid = outcome(&text)?;
    if let Some(listener) = listener {
        let terminal = accept_terminal(&listener)?;
        ours.stdin = Some(terminal.try_clone().map_err(io_error)?);
        ours.stdout = Some(terminal);
    }
    for fd in [&ours.stdin, &ours.stdout, &ours.stderr]
        .into_iter()
        .flatten()
    {
        sys::set_nonblocking(fd.as_raw_fd()).map_err(io_error)?;
    }
    Ok((pid, ours))
}

/// Gives streams to the user of a process in a user namespace, who has no rights over files of the
/// node's users: otherwise it could not open `/dev/stdout`.
pub(super) fn give(streams: &[OwnedFd; 3], plan: &Plan, config: &ShimConfig) -> io::Result<()> {
    let users = config.users.as_ref();
    let Some(uid) = users.and_then(|users| users.range.on_node(plan.uid)) else {
        return Ok(());
    };
    for stream in streams {
        sys::give(stream, uid)?;
    }
    Ok(())
}

/// Returns a descriptor that becomes readable when a child exits. Blocks the signals that would
/// otherwise terminate the shim before its container.
fn signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialized before use, and all pointers are valid.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal);
            check(libc::sigprocmask(
                libc::SIG_BLOCK,
                &raw const set,
                std::ptr::null_mut(),
            ))?;
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
        let fd = check(libc::signalfd(
            -1,
            &raw const set,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_do_not_have_the_agents_limit_of_open_files() {
        let get = || {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the kernel fills the struct, which outlives the call.
            check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }).unwrap();
            limit
        };
        let mut raised = get();
        raised.rlim_cur = raised.rlim_max;
        // SAFETY: the struct is initialized and outlives the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) }).unwrap();
        set_open_files().unwrap();
        let limit = get();
        assert_eq!(limit.rlim_max, raised.rlim_max.min(OPEN_FILES.1));
        assert_eq!(limit.rlim_cur, limit.rlim_max.min(OPEN_FILES.0));
    }
}
