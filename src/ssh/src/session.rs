//! One session channel: a shell, a command or a subsystem, and its streams.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use crate::pty::{self, PtyRequest};
use crate::words;
use crate::{SshConfig, signal_name, signal_number};

/// The stream number of standard error, RFC 4254 section 5.2.
const STDERR: u32 = 1;
/// Maximum input in bytes that is buffered for a program that does not read. When it is
/// exceeded, all channels of the connection are blocked.
const INPUT_BACKLOG: usize = 64 << 20;
const CHUNK: usize = 16 << 10;

/// The server's settings and the connection of a session channel.
pub(crate) struct Context {
    pub config: Arc<SshConfig>,
    pub handle: Handle,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub sftp_server: Option<&'static str>,
}

/// The program that a session channel runs.
enum Program {
    Shell,
    Command(Vec<u8>),
    Sftp(&'static str),
}

/// Returns whether a client may set this variable. Variables that affect the dynamic loader or
/// the shell are not allowed.
pub(crate) fn accepts_env(name: &str) -> bool {
    name == "LANG" || name.starts_with("LC_") || name == "COLORTERM" || name == "NO_COLOR"
}

/// Runs one session channel: reads requests up to the program to run, and runs it.
pub(crate) async fn run(channel: Channel<Msg>, context: Context) {
    let (mut reader, writer) = channel.split();
    let mut request = None;
    let mut env = Vec::new();
    let program = loop {
        match reader.wait().await {
            Some(ChannelMsg::RequestPty {
                term,
                col_width,
                row_height,
                pix_width,
                pix_height,
                terminal_modes,
                ..
            }) => {
                request = Some(PtyRequest {
                    term,
                    columns: col_width,
                    rows: row_height,
                    width: pix_width,
                    height: pix_height,
                    modes: terminal_modes,
                });
            }
            Some(ChannelMsg::SetEnv {
                variable_name,
                variable_value,
                ..
            }) if accepts_env(&variable_name) => env.push((variable_name, variable_value)),
            Some(ChannelMsg::RequestShell { .. }) => break Program::Shell,
            Some(ChannelMsg::Exec { command, .. }) => break Program::Command(command),
            Some(ChannelMsg::RequestSubsystem { name, .. }) if name == "sftp" => {
                match context.sftp_server {
                    Some(path) => break Program::Sftp(path),
                    None => continue,
                }
            }
            Some(ChannelMsg::Close) | None => return,
            Some(_) => {}
        }
    };
    let id = writer.id();
    let outcome = match &request {
        Some(request) => with_pty(&context, request, env, &program, reader, &writer).await,
        None => with_pipes(&context, env, &program, reader, &writer).await,
    };
    // Errors are ignored: the client may have disconnected.
    let _ = match outcome {
        Ok(Some(status)) => match (status.code(), status.signal()) {
            (Some(code), _) => {
                context
                    .handle
                    .exit_status_request(id, code.cast_unsigned())
                    .await
            }
            (None, Some(signal)) => {
                context
                    .handle
                    .exit_signal_request(
                        id,
                        signal_name(signal),
                        status.core_dumped(),
                        String::new(),
                        String::new(),
                    )
                    .await
            }
            (None, None) => context.handle.exit_status_request(id, 255).await,
        },
        Ok(None) => Ok(()),
        Err(e) => {
            debug!("ssh session: {e}");
            let text = format!("rkube: cannot run the session: {e}\r\n");
            let _ = context
                .handle
                .extended_data(id, STDERR, text.into_bytes())
                .await;
            context.handle.exit_status_request(id, 255).await
        }
    };
    let _ = context.handle.eof(id).await;
    let _ = context.handle.close(id).await;
}

/// Takes the protection of the node's services, which this process has inherited, from it: when
/// memory is short, the kernel should rather kill what a user runs. May be called between fork and
/// exec.
fn be_killed_first() {
    // SAFETY: the path is a constant with a terminating zero, and the buffer a constant of that
    // length.
    unsafe {
        let file = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if file >= 0 {
            // A process that keeps the old score is no worse off.
            libc::write(file, c"0".as_ptr().cast(), 1);
            libc::close(file);
        }
    }
}

/// Returns the command of a program. If the node has no shell, the command line is split here
/// and a login shell is an error.
fn command(
    context: &Context,
    env: Vec<(String, String)>,
    program: &Program,
) -> std::io::Result<Command> {
    let config = &context.config;
    let shell = config.shell();
    let mut command = match program {
        Program::Shell if !shell.exists() => return Err(words::no_shell()),
        Program::Command(text) if !shell.exists() => {
            let words = words::split(text)?;
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command
        }
        Program::Shell => {
            let mut command = Command::new(shell);
            let name = shell.file_name().unwrap_or_default().to_string_lossy();
            // By convention, a leading dash in argv[0] makes it a login shell.
            command.arg0(format!("-{name}"));
            command
        }
        // Unreachable: an arm above has the same pattern and guard.
        Program::Command(text) if !shell.exists() => {
            let text = String::from_utf8_lossy(text);
            let mut words = text.split_whitespace();
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words);
            command
        }
        Program::Command(text) => {
            use std::os::unix::ffi::OsStrExt;
            let mut command = Command::new(shell);
            command.arg("-c").arg(std::ffi::OsStr::from_bytes(text));
            command
        }
        Program::Sftp(path) => Command::new(path),
    };
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            be_killed_first();
            Ok(())
        });
    }
    let home = if std::path::Path::new("/root").is_dir() {
        "/root"
    } else {
        "/"
    };
    command
        .env_clear()
        .env("HOME", home)
        .env("USER", "root")
        .env("LOGNAME", "root")
        .env("SHELL", shell)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env(
            "SSH_CLIENT",
            format!(
                "{} {} {}",
                context.peer.ip(),
                context.peer.port(),
                context.local.port()
            ),
        )
        .env(
            "SSH_CONNECTION",
            format!(
                "{} {} {} {}",
                context.peer.ip(),
                context.peer.port(),
                context.local.ip(),
                context.local.port()
            ),
        )
        .envs(config.env.iter().cloned())
        .envs(env)
        .current_dir(home);
    Ok(command)
}

/// Sends a signal to the program's process group.
fn signal(child: Option<u32>, signal: i32) {
    let Some(pid) = child.and_then(|p| i32::try_from(p).ok()) else {
        return;
    };
    let Ok(signal) = nix::sys::signal::Signal::try_from(signal) else {
        return;
    };
    if let Err(e) = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), signal) {
        debug!("ssh signal: {e}");
    }
}

/// Receives the client's messages and forwards its input to the program.
///
/// Ends when the channel is closed. Does not wait for the program unless the backlog is
/// full.
async fn feed(
    mut reader: ChannelReadHalf,
    input: mpsc::UnboundedSender<(Bytes, tokio::sync::OwnedSemaphorePermit)>,
    child: Option<u32>,
    resize: impl Fn(PtyRequest),
) {
    let backlog = Arc::new(Semaphore::new(INPUT_BACKLOG));
    let mut input = Some(input);
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let permit = backlog.clone().acquire_many_owned(size).await;
                if let (Ok(permit), Some(sender)) = (permit, &input)
                    && sender.send((data, permit)).is_err()
                {
                    input = None;
                }
            }
            ChannelMsg::Eof => input = None,
            ChannelMsg::WindowChange {
                col_width,
                row_height,
                pix_width,
                pix_height,
            } => resize(PtyRequest {
                columns: col_width,
                rows: row_height,
                width: pix_width,
                height: pix_height,
                ..Default::default()
            }),
            ChannelMsg::Signal { signal: s } => {
                if let Some(number) = signal_number(&s) {
                    signal(child, number);
                }
            }
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

/// Copies a program's output to the channel until it ends or the channel is closed.
async fn pump(mut from: impl AsyncRead + Unpin, to: &ChannelWriteHalf<Msg>, stream: Option<u32>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            // A pty master reads as EIO when the last slave is closed.
            Ok(0) | Err(_) => return,
            Ok(n) => {
                let data = Bytes::copy_from_slice(&buffer[..n]);
                let sent = match stream {
                    None => to.data_bytes(data).await,
                    Some(ext) => to.extended_data_bytes(ext, data).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        }
    }
}

/// Runs a program with pipes. Returns `None` if the client disconnects first.
async fn with_pipes(
    context: &Context,
    env: Vec<(String, String)>,
    program: &Program,
    reader: ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
) -> std::io::Result<Option<ExitStatus>> {
    let mut child: Child = command(context, env, program)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let pid = child.id();
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(std::io::Error::other("the program has no streams"));
    };
    let (sender, mut input) = mpsc::unbounded_channel::<(Bytes, _)>();
    let feeder = feed(reader, sender, pid, |_| {});
    let write = tokio::spawn(async move {
        while let Some((data, _permit)) = input.recv().await {
            if stdin.write_all(&data).await.is_err() {
                break;
            }
        }
    });
    let work = async {
        let (status, (), ()) = tokio::join!(
            child.wait(),
            pump(stdout, writer, None),
            pump(stderr, writer, Some(STDERR))
        );
        status
    };
    let outcome = supervise(feeder, work, pid).await;
    write.abort();
    outcome
}

/// Waits for the program. If the client disconnects first, sends SIGHUP and returns `None`.
async fn supervise(
    feeder: impl Future<Output = ()>,
    work: impl Future<Output = std::io::Result<ExitStatus>>,
    pid: Option<u32>,
) -> std::io::Result<Option<ExitStatus>> {
    tokio::pin!(feeder, work);
    tokio::select! {
        status = &mut work => return status.map(Some),
        () = &mut feeder => {}
    }
    signal(pid, libc::SIGHUP);
    // The program may ignore the signal. The runtime reaps it when it exits.
    Ok(None)
}

/// Runs a program on a pseudo-terminal. Returns `None` if the client disconnects first.
async fn with_pty(
    context: &Context,
    request: &PtyRequest,
    env: Vec<(String, String)>,
    program: &Program,
    reader: ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
) -> std::io::Result<Option<ExitStatus>> {
    let (master, slave) = request.open()?;
    let mut command = command(context, env, program)?;
    if let Ok(name) = nix::unistd::ttyname(&slave) {
        command.env("SSH_TTY", name);
    }
    if !request.term.is_empty() {
        command.env("TERM", &request.term);
    }
    command
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave);
    // SAFETY: between fork and exec only setsid and ioctl are called, both
    // async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    // The command owns copies of the slave, which would keep it open.
    drop(command);
    if let (Program::Shell, Some(motd)) = (program, &context.config.motd) {
        let text = motd.trim_end().replace('\n', "\r\n") + "\r\n";
        let _ = writer.data_bytes(text.into_bytes()).await;
    }
    let pid = child.id();
    // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, and the
    // `AsyncFd` owns it.
    let master = Arc::new(unsafe { AsyncFd::register(master) }?);
    let (sender, mut input) = mpsc::unbounded_channel::<(Bytes, _)>();
    let feeder = feed(reader, sender, pid, |size| {
        if let Err(e) = pty::set_size(master.get_ref(), &size.winsize()) {
            debug!("ssh window change: {e}");
        }
    });
    let write = tokio::spawn({
        let master = master.clone();
        async move {
            while let Some((data, _permit)) = input.recv().await {
                if write_fd(&master, &data).await.is_err() {
                    break;
                }
            }
        }
    });
    let work = async {
        let output = pump(PtyReader(&master), writer, None);
        tokio::pin!(output);
        let status = tokio::select! {
            status = child.wait() => status,
            () = &mut output => child.wait().await,
        };
        // The terminal still buffers the program's last output. A background job may keep
        // the terminal open forever, so only the buffered output is read.
        drain(&master, writer).await;
        status
    };
    let outcome = supervise(feeder, work, pid).await;
    write.abort();
    outcome
}

/// Copies the output that is buffered in the terminal, without waiting for more.
async fn drain(master: &AsyncFd<OwnedFd>, writer: &ChannelWriteHalf<Msg>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = nix::unistd::read(master.get_ref().as_raw_fd(), &mut buffer) {
        if writer
            .data_bytes(Bytes::copy_from_slice(&buffer[..n]))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Writes all of `data` to a non-blocking descriptor.
async fn write_fd(fd: &AsyncFd<OwnedFd>, mut data: &[u8]) -> std::io::Result<()> {
    while !data.is_empty() {
        let mut guard = fd.writable().await?;
        match guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?)) {
            Ok(Ok(n)) => data = &data[n..],
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(Err(e)) => return Err(e),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// Reads the master of a terminal; it is non-blocking.
struct PtyReader<'a>(&'a AsyncFd<OwnedFd>);

impl AsyncRead for PtyReader<'_> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_read_ready(cx))?;
            let read = guard.try_io(|fd| {
                Ok(nix::unistd::read(
                    fd.get_ref().as_raw_fd(),
                    buf.initialize_unfilled(),
                )?)
            });
            match read {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return std::task::Poll::Ready(Ok(()));
                }
                Ok(Err(e)) => return std::task::Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}
