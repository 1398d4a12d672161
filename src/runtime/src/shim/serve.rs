//! The shim's event loop: streams, clients and children.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use super::client::{CLIENT_BUFFER, Client, Role};
use super::error::ShimError;
use super::fork::{accept_terminal, fork_launcher, outcome};
use super::frame::{self, Exit, Kind, Request, Response};
use super::launch::Stdio;
use super::log::{Log, Stream, now};
use super::plan::Plan;
use super::process::{exit_of, process_file};
use super::start::give;
use super::sys;
use super::types::{CGROUP_TIMEOUT, ShimConfig, Streams, write_exit};
use rkube_cgroups::node as cgroup;

/// Maximum number of queued bytes of container input. Above it, attached clients are not read.
const STDIN_BUFFER: usize = 64 * 1024;
/// Timeout after the container's exit, first for its remaining output, then for clients to read it.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of a shim, which serves one container.
pub(super) struct Server {
    listener: UnixListener,
    signals: OwnedFd,
    log: Option<Log>,
    streams: Streams,
    pid: i32,
    clients: Vec<Client>,
    /// Queued input for the container.
    stdin: VecDeque<u8>,
    /// Whether to close the container's input once `stdin` is empty.
    stdin_ends: bool,
    /// PIDs and wait statuses of children that exited before their command was known.
    ended: VecDeque<(i32, i32)>,
    exit: Option<Exit>,
}

/// The source of a poll entry.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Stdout,
    Stderr,
    Stdin,
    Client(usize),
    Report(usize),
}

impl Server {
    /// Returns the shim of a container that has been started with the first process `pid`.
    pub(super) fn new(
        listener: UnixListener,
        signals: OwnedFd,
        log: Option<Log>,
        streams: Streams,
        pid: i32,
    ) -> Self {
        Self {
            listener,
            signals,
            log,
            streams,
            pid,
            clients: Vec::new(),
            stdin: VecDeque::new(),
            stdin_ends: false,
            ended: VecDeque::new(),
            exit: None,
        }
    }

    /// Runs until the container has exited and all clients have been notified. Returns the exit
    /// code.
    pub(super) fn run(mut self, config: &ShimConfig) -> i32 {
        let mut buffer = vec![0; 32 * 1024];
        let mut deadline: Option<Instant> = None;
        let mut notified = false;
        // Children may have exited before the loop began.
        self.reap(config);
        loop {
            if self.exit.is_some() && deadline.is_none() {
                deadline = Some(Instant::now() + END_TIMEOUT);
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let drained = self.streams.stdout.is_none() && self.streams.stderr.is_none();
            if let Some(exit) = self.exit.clone()
                && !notified
                && (drained || left == Some(Duration::ZERO))
            {
                notified = true;
                deadline = Some(Instant::now() + END_TIMEOUT);
                self.end(config, &exit);
                continue;
            }
            if notified && (left == Some(Duration::ZERO) || self.flushed()) {
                let _ = std::fs::remove_file(&config.socket);
                return 0;
            }
            self.wait(config, &mut buffer, left);
        }
    }

    /// Waits for the next events and handles them.
    fn wait(&mut self, config: &ShimConfig, buffer: &mut [u8], timeout: Option<Duration>) {
        let mut sources = Vec::new();
        let mut polls = Vec::new();
        let mut add = |fd: RawFd, events: libc::c_short, source: Source| {
            polls.push(libc::pollfd {
                fd,
                events,
                revents: 0,
            });
            sources.push(source);
        };
        add(self.signals.as_raw_fd(), libc::POLLIN, Source::Signals);
        add(self.listener.as_raw_fd(), libc::POLLIN, Source::Listener);
        let held_back = self
            .clients
            .iter()
            .any(|c| matches!(c.role, Role::Attached { .. }) && c.output.len() > CLIENT_BUFFER);
        if !held_back {
            if let Some(fd) = &self.streams.stdout {
                add(fd.as_raw_fd(), libc::POLLIN, Source::Stdout);
            }
            if let Some(fd) = &self.streams.stderr {
                add(fd.as_raw_fd(), libc::POLLIN, Source::Stderr);
            }
        }
        if let Some(fd) = &self.streams.stdin
            && !self.stdin.is_empty()
        {
            add(fd.as_raw_fd(), libc::POLLOUT, Source::Stdin);
        }
        for (index, client) in self.clients.iter().enumerate() {
            let full =
                matches!(client.role, Role::Attached { .. }) && self.stdin.len() > STDIN_BUFFER;
            let mut events = if full { 0 } else { libc::POLLIN };
            if !client.output.is_empty() {
                events |= libc::POLLOUT;
            }
            add(client.socket.as_raw_fd(), events, Source::Client(index));
            if let Role::Starting { report, .. } = &client.role {
                add(report.as_raw_fd(), libc::POLLIN, Source::Report(index));
            }
        }
        let milliseconds = timeout.map_or(-1, |t| {
            i32::try_from(t.as_millis())
                .unwrap_or(i32::MAX)
                .saturating_add(1)
        });
        // SAFETY: the pointer and length are the vector's.
        let ready = unsafe {
            libc::poll(
                polls.as_mut_ptr(),
                polls.len() as libc::nfds_t,
                milliseconds,
            )
        };
        if ready <= 0 {
            return;
        }
        for (poll, source) in polls.iter().zip(sources) {
            if poll.revents == 0 {
                continue;
            }
            match source {
                Source::Signals => {
                    while let Ok(Some(1..)) = sys::read(self.signals.as_raw_fd(), buffer) {}
                    self.reap(config);
                }
                Source::Listener => self.accept(),
                Source::Stdout => self.pump(Stream::Stdout, buffer),
                Source::Stderr => self.pump(Stream::Stderr, buffer),
                Source::Stdin => self.feed(),
                Source::Client(index) => self.client(index, poll.revents, buffer, config),
                Source::Report(index) => self.report(index, buffer),
            }
        }
        self.clients.retain(|client| !client.gone);
    }

    /// Reaps children that have exited.
    fn reap(&mut self, config: &ShimConfig) {
        loop {
            let mut status = 0;
            // SAFETY: the pointer is valid.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            if pid == self.pid {
                let exit = exit_of(status);
                if !config.own_pid_namespace {
                    // Other processes may survive the first one and hold the streams open.
                    cgroup::kill(&config.cgroup);
                }
                self.exit = Some(Exit {
                    oom: cgroup::oom_kills(&config.cgroup) > 0,
                    ..exit
                });
            } else if !self.command_ended(pid, status) {
                // It may be a command whose launcher has not reported the PID yet.
                self.ended.push_back((pid, status));
                if self.ended.len() > 64 {
                    self.ended.pop_front();
                }
            }
        }
    }

    /// Sends the exit of a command to its client. Returns false if no client runs it.
    fn command_ended(&mut self, pid: i32, status: i32) -> bool {
        for client in &mut self.clients {
            if matches!(client.role, Role::Running { pid: running } if running == pid) {
                client.role = Role::Done;
                client.say(Kind::Exit, &exit_of(status));
                return true;
            }
        }
        false
    }

    /// Accepts new clients.
    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if socket.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    socket,
                    input: Vec::new(),
                    fds: Vec::new(),
                    output: VecDeque::new(),
                    role: Role::Control,
                    gone: false,
                });
            }
        }
    }

    /// Copies the container's output to the log and to attached clients.
    fn pump(&mut self, stream: Stream, buffer: &mut [u8]) {
        let slot = match stream {
            Stream::Stdout => &mut self.streams.stdout,
            Stream::Stderr => &mut self.streams.stderr,
        };
        let Some(fd) = slot else { return };
        match sys::read(fd.as_raw_fd(), buffer) {
            Ok(None) => {}
            // Reading a terminal returns EIO once no process has it open.
            Ok(Some(0)) | Err(_) => {
                *slot = None;
                if let Some(log) = &mut self.log {
                    log.finish(stream, now);
                }
            }
            Ok(Some(n)) => {
                let bytes = &buffer[..n];
                if let Some(log) = &mut self.log {
                    log.write(stream, bytes, now);
                }
                let kind = match stream {
                    Stream::Stdout => Kind::Stdout,
                    Stream::Stderr => Kind::Stderr,
                };
                for client in &mut self.clients {
                    if matches!(client.role, Role::Attached { .. }) {
                        frame::append(&mut client.output, kind, bytes);
                        client.flush();
                    }
                }
            }
        }
    }

    /// Writes queued input to the container.
    fn feed(&mut self) {
        let Some(fd) = &self.streams.stdin else {
            self.stdin.clear();
            return;
        };
        while !self.stdin.is_empty() {
            let (front, _) = self.stdin.as_slices();
            match sys::write(fd.as_raw_fd(), front) {
                Ok(Some(n)) => {
                    self.stdin.drain(..n);
                }
                Ok(None) => return,
                Err(_) => {
                    self.stdin.clear();
                    self.streams.stdin = None;
                    return;
                }
            }
        }
        if self.stdin_ends {
            self.streams.stdin = None;
        }
    }

    /// Handles a client's events and messages.
    fn client(
        &mut self,
        index: usize,
        events: libc::c_short,
        buffer: &mut [u8],
        config: &ShimConfig,
    ) {
        if events & libc::POLLOUT != 0 {
            self.clients[index].flush();
        }
        if events & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) == 0 {
            return;
        }
        let client = &mut self.clients[index];
        match sys::receive(client.socket.as_raw_fd(), buffer, &mut client.fds) {
            Ok(None) => return,
            Ok(Some(0)) | Err(_) => {
                client.gone = true;
                self.detached(index, config);
                return;
            }
            Ok(Some(n)) => client.input.extend_from_slice(&buffer[..n]),
        }
        loop {
            match frame::take_first(&mut self.clients[index].input) {
                Ok(Some((kind, payload))) => self.message(index, kind, &payload, config),
                Ok(None) => return,
                Err(_) => {
                    self.clients[index].gone = true;
                    return;
                }
            }
        }
    }

    /// Handles the disconnection of a client. Ends the container's input if `stdin_once` is set and
    /// the client provided it.
    fn detached(&mut self, index: usize, config: &ShimConfig) {
        if matches!(self.clients[index].role, Role::Attached { stdin: true }) && config.stdin_once {
            self.end_stdin(config);
        }
    }

    /// Ends the container's input once the queue is empty.
    fn end_stdin(&mut self, config: &ShimConfig) {
        if config.tty {
            // A terminal stays open; its end of input is a control character.
            return;
        }
        self.stdin_ends = true;
        self.feed();
    }

    /// Handles a message from a client.
    fn message(&mut self, index: usize, kind: Kind, payload: &[u8], config: &ShimConfig) {
        match kind {
            Kind::Stdin => {
                if matches!(self.clients[index].role, Role::Attached { stdin: true }) {
                    self.stdin.extend(payload);
                    self.feed();
                }
            }
            Kind::StdinEnd => {
                if matches!(self.clients[index].role, Role::Attached { stdin: true })
                    && config.stdin_once
                {
                    self.end_stdin(config);
                }
            }
            Kind::Request => match serde_json::from_slice::<Request>(payload) {
                Ok(request) => self.request(index, request, config),
                Err(e) => self.clients[index].fail(format!("malformed request: {e}")),
            },
            Kind::Response | Kind::Exit | Kind::Stdout | Kind::Stderr => {
                self.clients[index].gone = true
            }
        }
    }

    /// Handles a request and responds, except to `Exec`, whose response follows later.
    fn request(&mut self, index: usize, request: Request, config: &ShimConfig) {
        let done = |result: io::Result<()>| Response {
            error: result.err().map(|e| e.to_string()),
            pid: None,
        };
        let response = match request {
            Request::Watch => Response {
                error: None,
                pid: Some(self.pid),
            },
            Request::Kill { signal } => {
                let pid = match self.clients[index].role {
                    Role::Running { pid } => Some(pid),
                    Role::Starting { .. } | Role::Done => None,
                    Role::Control | Role::Attached { .. } => {
                        self.exit.is_none().then_some(self.pid)
                    }
                };
                match pid {
                    Some(pid) => {
                        // SAFETY: no memory is involved. The child is not reaped yet, so the PID is
                        // not reused.
                        done(crate::beneath::check(unsafe { libc::kill(pid, signal) }).map(drop))
                    }
                    None => Response {
                        error: Some("the process has ended".into()),
                        pid: None,
                    },
                }
            }
            Request::Resize { width, height } => match &self.streams.stdout {
                Some(fd) if config.tty => done(sys::resize(fd.as_raw_fd(), width, height)),
                _ => Response::default(),
            },
            Request::ReopenLog => match &mut self.log {
                Some(log) => done(log.reopen()),
                None => Response::default(),
            },
            Request::Attach { stdin } => {
                self.clients[index].role = Role::Attached { stdin };
                Response::default()
            }
            Request::Exec {
                plan,
                tty,
                oom_score_adj,
            } => match self.exec(index, &plan, tty, oom_score_adj, config) {
                Ok(()) => return,
                Err(reason) => Response {
                    error: Some(reason.to_string()),
                    pid: None,
                },
            },
        };
        self.clients[index].say(Kind::Response, &response);
    }

    /// Starts a command. Its launcher reports through a pipe that the loop polls.
    fn exec(
        &mut self,
        index: usize,
        plan: &Plan,
        tty: bool,
        oom_score_adj: Option<i32>,
        config: &ShimConfig,
    ) -> Result<(), ShimError> {
        if self.exit.is_some() {
            return Err("the container has ended".into());
        }
        let client = &mut self.clients[index];
        let fds = std::mem::take(&mut client.fds);
        let (stdio, console) = if tty {
            let name = format!("exec-{}.sock", client.socket.as_raw_fd());
            let path = config.bundle.join(name);
            let _ = std::fs::remove_file(&path);
            let listener = sys::listen(&path).map_err(ShimError::io("cannot make a terminal"))?;
            (Stdio::Console(path.clone()), Some((listener, path)))
        } else {
            let [stdin, stdout, stderr]: [OwnedFd; 3] = fds
                .try_into()
                .map_err(|_| ShimError::from("a command needs three streams"))?;
            let streams = [stdin, stdout, stderr];
            give(&streams, plan, config).map_err(ShimError::io("cannot give the streams away"))?;
            let [stdin, stdout, stderr] = streams;
            (Stdio::Pipes(stdin, stdout, stderr), None)
        };
        let process = process_file(plan, tty, oom_score_adj)?;
        let report = fork_launcher(plan, stdio, config, Some(&process))?;
        sys::set_nonblocking(report.as_raw_fd())?;
        client.role = Role::Starting {
            report: report.into(),
            said: String::new(),
            console,
        };
        Ok(())
    }

    /// Reads the report of a command's launcher. At its end, sends the response to the client.
    fn report(&mut self, index: usize, buffer: &mut [u8]) {
        let client = &mut self.clients[index];
        let Role::Starting {
            report,
            said,
            console,
        } = &mut client.role
        else {
            return;
        };
        match sys::read(report.as_raw_fd(), buffer) {
            Ok(None) => return,
            Ok(Some(n)) if n > 0 => {
                said.push_str(&String::from_utf8_lossy(&buffer[..n]));
                return;
            }
            Ok(_) | Err(_) => {}
        }
        let result = outcome(said).and_then(|pid| match console.take() {
            Some((listener, path)) => {
                let terminal = accept_terminal(&listener);
                let _ = std::fs::remove_file(path);
                terminal.map(|fd| (pid, Some(fd)))
            }
            None => Ok((pid, None)),
        });
        match result {
            Err(reason) => {
                if let Some((_, path)) = console {
                    let _ = std::fs::remove_file(path);
                }
                client.role = Role::Done;
                client.fail(reason.to_string());
            }
            Ok((pid, terminal)) => {
                client.role = Role::Running { pid };
                client.started(pid, terminal);
                if let Some(at) = self.ended.iter().position(|(ended, _)| *ended == pid)
                    && let Some((pid, status)) = self.ended.remove(at)
                {
                    self.command_ended(pid, status);
                }
            }
        }
    }

    /// Records the container's exit on disk, then notifies all clients.
    fn end(&mut self, config: &ShimConfig, exit: &Exit) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(log) = &mut self.log {
                log.finish(stream, now);
            }
        }
        cgroup::kill(&config.cgroup);
        write_exit(config, exit);
        for client in &mut self.clients {
            match client.role {
                Role::Control | Role::Attached { .. } => client.say(Kind::Exit, exit),
                // The container's exit has killed its commands, too.
                Role::Running { .. } | Role::Starting { .. } => {
                    client.role = Role::Done;
                    client.say(
                        Kind::Exit,
                        &Exit {
                            code: 137,
                            signal: Some(libc::SIGKILL),
                            oom: false,
                            at: exit.at,
                        },
                    );
                }
                Role::Done => {}
            }
        }
        // Last, because it may take some time.
        cgroup::destroy(&config.cgroup, CGROUP_TIMEOUT);
    }

    /// Returns whether all messages have been sent.
    fn flushed(&self) -> bool {
        self.clients
            .iter()
            .all(|client| client.output.is_empty() || client.gone)
    }
}
