//! `rkube shim`: one process a running container.
//!
//! The parent and reaper of the container's first process and of commands run in
//! it. It writes the log, keeps standard input, serves a socket, and leaves the
//! container's exit on disk. It outlives the agent, so it is small: one thread,
//! one poll loop, no runtime.

pub mod frame;
mod launch;
pub mod log;
pub mod plan;
mod serve;
pub mod sys;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::beneath::check;
use crate::cgroup;
use crate::device_filter::DeviceRule;
use crate::image::store::write_atomic;
use launch::{Launch, Launcher, Libcontainer, Stdio};
use log::Log;
use plan::Plan;

/// How long a shim waits for the last processes of its container; the agent
/// tries again.
const CGROUP_PATIENCE: Duration = Duration::from_millis(500);

/// What a shim is told, in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container.
    pub id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// Where the launcher keeps its state; emptied by the agent.
    pub state: PathBuf,
    /// The socket to serve.
    pub socket: PathBuf,
    /// Where the container's end is written.
    pub exit_file: PathBuf,
    /// The container's cgroup, removed at its end.
    pub cgroup: String,
    /// Whether the container's processes die with its first one by themselves.
    pub own_pid_namespace: bool,
    /// Whether there is a terminal.
    pub tty: bool,
    /// Whether standard input stays open for clients.
    pub stdin: bool,
    /// Whether the first client's end of input is the container's.
    pub stdin_once: bool,
    /// The log file.
    pub log_path: Option<PathBuf>,
    /// The devices that it may use besides the default ones; none for all.
    pub devices: Option<Vec<DeviceRule>>,
    /// The container's process.
    pub plan: Plan,
}

/// The agent's side of a container's streams.
pub(crate) struct Streams {
    /// Towards the container; the terminal when there is one.
    stdin: Option<OwnedFd>,
    /// From the container; the terminal when there is one.
    stdout: Option<OwnedFd>,
    /// From the container.
    stderr: Option<OwnedFd>,
}

/// Runs `rkube shim <config file>`: starts the container, says `ok <pid>` or
/// `error <reason>` in one line on standard output, and stays until it ends.
pub fn main(args: &[OsString]) -> i32 {
    let [config] = args else {
        eprintln!("usage: rkube shim CONFIG");
        return 2;
    };
    // The first process ends at once, so that the shim is its init's child, not
    // the agent's.
    // SAFETY: this process has a single thread.
    match unsafe { libc::fork() } {
        -1 => {
            println!("error cannot fork: {}", io::Error::last_os_error());
            1
        }
        0 => {
            // SAFETY: no memory is involved; fails only for a group leader, which
            // a fresh child is not.
            unsafe { libc::setsid() };
            run(Path::new(config))
        }
        _ => 0,
    }
}

fn run(path: &Path) -> i32 {
    let started = std::fs::read(path)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))
        .and_then(|bytes| {
            serde_json::from_slice::<ShimConfig>(&bytes)
                .map_err(|e| format!("malformed {}: {e}", path.display()))
        })
        .and_then(|config| start(&config).map(|parts| (config, parts)));
    match started {
        Ok((config, (server, pid))) => {
            answer(&format!("ok {pid}\n"));
            server.run(&config)
        }
        Err(reason) => {
            answer(&format!("error {}\n", reason.replace('\n', " ")));
            1
        }
    }
}

/// One line to whoever started the shim; then standard output is no more.
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

fn start(config: &ShimConfig) -> Result<(serve::Server, i32), String> {
    let say = |what: &str| {
        let what = what.to_string();
        move |e: io::Error| format!("{what}: {e}")
    };
    // The kernel should rather kill what is in a container; not ours to insist.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    // Orphans of a container without a PID namespace of its own come here.
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
        .map_err(say("cannot become a reaper"))?;
    let signals = signals().map_err(say("cannot watch for children"))?;
    let _ = std::fs::remove_file(&config.socket);
    let listener = sys::listen(&config.socket).map_err(say("cannot listen for the agent"))?;
    listener
        .set_nonblocking(true)
        .map_err(say("cannot listen for the agent"))?;
    let log = match &config.log_path {
        Some(path) => Some(
            Log::open(path).map_err(say(&format!("cannot open log file {}", path.display())))?,
        ),
        None => None,
    };
    let console = config.bundle.join("console.sock");
    let result = launch_container(config, &console);
    let _ = std::fs::remove_file(&console);
    match result {
        Ok((pid, streams)) => Ok((
            serve::Server::new(listener, signals, log, streams, pid),
            pid,
        )),
        Err(reason) => {
            cgroup::destroy(&config.cgroup, CGROUP_PATIENCE);
            let _ = std::fs::remove_file(&config.socket);
            Err(reason)
        }
    }
}

fn launch_container(config: &ShimConfig, console: &Path) -> Result<(i32, Streams), String> {
    let io_error = |e: io::Error| format!("cannot make the container's streams: {e}");
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
        Stdio::Pipes(stdin, stdout, stderr)
    };
    let report = fork_launcher(&config.plan, stdio, config, None)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut File::from(report), &mut text).map_err(|e| e.to_string())?;
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

/// Forks the process that makes a container, or with `process` (an open file)
/// runs a command in it. What it says comes out of the returned pipe, which ends
/// when the command has been executed, or has failed to be.
fn fork_launcher(
    plan: &Plan,
    stdio: Stdio,
    config: &ShimConfig,
    process: Option<&File>,
) -> Result<OwnedFd, String> {
    let (reader, writer) = sys::pipe().map_err(|e| format!("cannot make a pipe: {e}"))?;
    // SAFETY: this process has a single thread.
    match unsafe { libc::fork() } {
        -1 => Err(format!("cannot fork: {}", io::Error::last_os_error())),
        0 => {
            drop(reader);
            plan::reset_signals();
            let mut errors = writer.as_fd().try_clone_to_owned().ok().map(File::from);
            let launch = Launch {
                id: &config.id,
                bundle: &config.bundle,
                state: &config.state,
                cgroup: &config.cgroup,
                devices: config.devices.as_deref(),
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
                        let _ = errors
                            .write_all(format!("E{}\n", reason.replace('\n', " ")).as_bytes());
                    }
                    1
                }
            };
            // SAFETY: ends the process; the shim's destructors are not this one's to run.
            unsafe { libc::_exit(code) }
        }
        _ => Ok(reader),
    }
}

/// What the launcher said: a PID and no error.
fn outcome(text: &str) -> Result<i32, String> {
    let mut pid = None;
    for line in text.lines() {
        if let Some(reason) = line.strip_prefix('E') {
            return Err(reason.to_string());
        }
        if let Some(number) = line.strip_prefix('P') {
            pid = number.parse().ok();
        }
    }
    pid.ok_or_else(|| "the launcher ended without a word".into())
}

/// Takes the terminal that the launcher has sent.
fn accept_terminal(listener: &std::os::unix::net::UnixListener) -> Result<OwnedFd, String> {
    let failed = |e: io::Error| format!("cannot take over the terminal: {e}");
    listener.set_nonblocking(true).map_err(failed)?;
    let (socket, _) = listener.accept().map_err(failed)?;
    let mut fds = Vec::new();
    let mut buffer = [0; 256];
    sys::receive(socket.as_raw_fd(), &mut buffer, &mut fds).map_err(failed)?;
    fds.pop()
        .ok_or_else(|| "the launcher sent no terminal".into())
}

/// Children's ends as a readable descriptor; other signals that would end the
/// shim before its container are ignored.
fn signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before use; ignoring signals is always valid.
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

/// Writes how the container ended.
fn write_exit(config: &ShimConfig, exit: &frame::Exit) {
    if let Ok(bytes) = serde_json::to_vec(exit) {
        // Without it the agent reports an unknown end; nobody is left to tell.
        let _ = write_atomic(&config.exit_file, &bytes);
    }
}
