//! Client of a shim's socket, used by the agent.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedWriteHalf, pipe};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Context, Result, RuntimeError};
use crate::session::{Exit as SessionExit, Session, SessionControl, SessionHandler};
use crate::shim::frame::{self, Exit, HEADER, Kind, Request, Response};
use crate::shim::plan::Plan;
use crate::shim::sys;

/// Size of the buffer between a shim and a slow reader, in bytes.
const BUFFER: usize = 64 * 1024;
/// Timeout of a shim's answer. It answers at once unless it is stopped or its disk hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The reason of an error about a shim that does not answer.
const NO_ANSWER: &str = "it does not answer";

/// A request and the channel for its response.
type PendingRequest = (Request, oneshot::Sender<Response>);

/// A handle for requests over one connection to a shim. Clones share the connection.
#[derive(Clone)]
pub struct Handle {
    id: String,
    requests: mpsc::UnboundedSender<PendingRequest>,
    /// A descriptor of the shim's process.
    shim: Arc<OwnedFd>,
}

impl Handle {
    /// Sends a request and waits for the response. Fails if the shim is gone, does not answer in
    /// time or reports an error.
    pub async fn ask(&self, request: Request) -> Result<Response> {
        let (sender, receiver) = oneshot::channel();
        let lost = || RuntimeError::Shim {
            id: self.id.clone(),
            reason: "it is gone".into(),
        };
        self.requests.send((request, sender)).map_err(|_| lost())?;
        let response = tokio::time::timeout(ANSWER_TIMEOUT, receiver)
            .await
            .map_err(|_| RuntimeError::Shim {
                id: self.id.clone(),
                reason: NO_ANSWER.into(),
            })?
            .map_err(|_| lost())?;
        match response.error {
            None => Ok(response),
            Some(reason) => Err(RuntimeError::Shim {
                id: self.id.clone(),
                reason,
            }),
        }
    }

    /// Kills the shim, which closes all connections to it.
    pub fn kill_shim(&self) -> Result<()> {
        sys::signal(&self.shim, libc::SIGKILL)
            .context(|| format!("cannot kill the shim of container {}", self.id))
    }

    /// Sends a request without waiting for the response.
    fn tell(&self, request: Request) {
        let (sender, _) = oneshot::channel();
        let _ = self.requests.send((request, sender));
    }
}

/// A connection to a shim, which reports the container's exit.
pub struct Watch {
    /// The handle for requests and the container's PID; `None` if the container has ended already.
    pub running: Option<(Handle, i32)>,
    exit: oneshot::Receiver<Option<Exit>>,
}

impl Watch {
    /// Waits for the container's exit. Returns `None` if the connection is lost.
    pub async fn ended(self) -> Option<Exit> {
        self.exit.await.ok().flatten()
    }
}

/// Connects to a shim. Fails if the shim is gone or does not answer in time.
pub async fn watch_container(id: &str, socket: &Path) -> Result<Watch> {
    let failed = |reason: String| RuntimeError::Shim {
        id: id.to_string(),
        reason,
    };
    let stream = connect(id, socket)?;
    let shim = shim_process(&stream).map_err(|e| failed(e.to_string()))?;
    let (mut reader, mut writer) = stream.into_split();
    let answer = async {
        writer
            .write_all(&frame::encode_json(Kind::Request, &Request::Watch))
            .await?;
        read_frame(&mut reader).await
    };
    let (kind, payload) = tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .map_err(|_| failed(NO_ANSWER.into()))?
        .map_err(|e| failed(e.to_string()))?;
    let (end, exit) = oneshot::channel();
    if kind == Kind::Exit {
        // The receiver is held here, so sending cannot fail.
        let _ = end.send(serde_json::from_slice(&payload).ok());
        return Ok(Watch {
            running: None,
            exit,
        });
    }
    let response: Response = serde_json::from_slice(&payload).map_err(|e| failed(e.to_string()))?;
    let pid = response
        .pid
        .ok_or_else(|| failed("it did not tell the container's process".into()))?;
    let (requests, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let exit = control(reader, writer, receiver).await;
        // No caller waits for the exit of a container whose start was given up.
        let _ = end.send(exit);
    });
    let handle = Handle {
        id: id.to_string(),
        requests,
        shim,
    };
    Ok(Watch {
        running: Some((handle, pid)),
        exit,
    })
}

/// Connects to a shim's socket.
fn connect(id: &str, socket: &Path) -> Result<UnixStream> {
    sys::connect(socket)
        .and_then(|stream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        })
        .map_err(|e| RuntimeError::Shim {
            id: id.to_string(),
            reason: e.to_string(),
        })
}

/// Returns a descriptor of the process that listens at the other end of a connection.
fn shim_process(stream: &UnixStream) -> io::Result<Arc<OwnedFd>> {
    let pid = stream.peer_cred()?.pid();
    let pid = pid.ok_or_else(|| io::Error::other("its process is unknown"))?;
    Ok(Arc::new(sys::pidfd(pid)?))
}

/// Sends requests and dispatches responses until the process exits. Returns its exit, or `None` if
/// the connection is lost.
async fn control(
    mut reader: impl AsyncRead + Unpin,
    mut writer: OwnedWriteHalf,
    mut requests: mpsc::UnboundedReceiver<PendingRequest>,
) -> Option<Exit> {
    // The shim responds in the order of the requests.
    let (pending_sender, mut pending) = mpsc::unbounded_channel::<oneshot::Sender<Response>>();
    let write = async move {
        while let Some((request, answer)) = requests.recv().await {
            if pending_sender.send(answer).is_err()
                || writer
                    .write_all(&frame::encode_json(Kind::Request, &request))
                    .await
                    .is_err()
            {
                break;
            }
        }
        // No handle is left, but the exit must still be awaited.
        std::future::pending::<()>().await;
    };
    let read = async move {
        loop {
            let Ok((kind, payload)) = read_frame(&mut reader).await else {
                return None;
            };
            match kind {
                Kind::Exit => return serde_json::from_slice(&payload).ok(),
                Kind::Response => {
                    if let (Ok(answer), Ok(response)) =
                        (pending.try_recv(), serde_json::from_slice(&payload))
                    {
                        let _ = answer.send(response);
                    }
                }
                _ => {}
            }
        }
    };
    tokio::select! {
        exit = read => exit,
        () = write => None,
    }
}

/// Reads one frame.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; HEADER];
    reader.read_exact(&mut head).await?;
    let (kind, length) = frame::header(head)?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok((kind, payload))
}

/// Creates the pipes of a command's streams. Returns the command's ends: standard input, output and
/// error.
fn make_pipes(session: &mut Parts, stdin: bool) -> io::Result<Vec<OwnedFd>> {
    let mut theirs = Vec::new();
    if stdin {
        let (reader, writer) = sys::pipe()?;
        session.stdin = Some(Box::new(pipe::Sender::from_owned_fd(writer)?));
        theirs.push(reader);
    } else {
        theirs.push(std::fs::File::open("/dev/null")?.into());
    }
    for slot in [&mut session.stdout, &mut session.stderr] {
        let (reader, writer) = sys::pipe()?;
        *slot = Some(Box::new(pipe::Receiver::from_owned_fd(reader)?));
        theirs.push(writer);
    }
    Ok(theirs)
}

/// Sends bytes together with descriptors, which are then closed.
async fn send_with(stream: &mut UnixStream, bytes: &[u8], fds: Vec<OwnedFd>) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let sent = loop {
        stream.writable().await?;
        match stream.try_io(tokio::io::Interest::WRITABLE, || {
            sys::send(stream.as_raw_fd(), bytes, &raw)
        }) {
            Ok(n) => break n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    };
    drop(fds);
    stream.write_all(&bytes[sent..]).await
}

/// Starts a command in a container and returns its session.
pub async fn exec(
    id: &str,
    socket: &Path,
    plan: Plan,
    tty: bool,
    stdin: bool,
    oom_score_adj: Option<i32>,
) -> Result<Session> {
    let failed = |e: io::Error| RuntimeError::Shim {
        id: id.to_string(),
        reason: e.to_string(),
    };
    let stream = connect(id, socket)?;
    let shim = shim_process(&stream).map_err(failed)?;
    let request = frame::encode_json(
        Kind::Request,
        &Request::Exec {
            plan: Box::new(plan),
            tty,
            oom_score_adj,
        },
    );
    let mut session = Parts::default();
    let theirs = if tty {
        Vec::new()
    } else {
        make_pipes(&mut session, stdin).map_err(failed)?
    };
    let mut stream = stream;
    send_with(&mut stream, &request, theirs)
        .await
        .map_err(failed)?;
    let (response, terminal, rest) = tokio::time::timeout(ANSWER_TIMEOUT, receive_started(&stream))
        .await
        .map_err(|_| failed(io::Error::other(NO_ANSWER)))?
        .map_err(failed)?;
    if let Some(reason) = response.error {
        return Err(RuntimeError::Start(reason));
    }
    let mut size = None;
    if tty {
        let terminal = terminal.ok_or_else(|| failed(io::Error::other("no terminal was sent")))?;
        sys::set_nonblocking(terminal.as_raw_fd()).map_err(failed)?;
        size = Some(terminal.try_clone().map_err(failed)?);
        // SAFETY: the `OwnedFd` keeps the same descriptor open as long as it lives.
        let terminal = unsafe { AsyncFd::register(terminal) }.map_err(|e| failed(e.into()))?;
        let terminal = Terminal(Arc::new(terminal));
        if stdin {
            session.stdin = Some(Box::new(terminal.clone()));
        }
        session.stdout = Some(Box::new(terminal));
    }
    let (exit_sender, exit) = watch::channel::<SessionExit>(None);
    let (requests, receiver) = mpsc::unbounded_channel();
    let (reader, writer) = stream.into_split();
    // The exit of a short command may have been received with the response.
    let reader = AsyncReadExt::chain(io::Cursor::new(rest), reader);
    tokio::spawn(async move {
        let outcome = match control(reader, writer, receiver).await {
            Some(exit) => Ok(exit.code),
            None => Err("the connection to the container's shim was lost".to_string()),
        };
        let _ = exit_sender.send(Some(outcome));
    });
    let handle = Handle {
        id: id.to_string(),
        requests,
        shim,
    };
    Ok(Session {
        stdin: session.stdin,
        stdout: session.stdout,
        stderr: session.stderr,
        control: SessionControl {
            handler: Arc::new(ExecHandler {
                handle,
                terminal: size,
            }),
            exit,
        },
    })
}

/// The agent's ends of a command's streams.
#[derive(Default)]
struct Parts {
    stdin: Option<crate::session::Input>,
    stdout: Option<crate::session::Output>,
    stderr: Option<crate::session::Output>,
}

/// Receives the response to a command's start and, if sent, its terminal. Also returns the bytes
/// received after the response.
async fn receive_started(stream: &UnixStream) -> io::Result<(Response, Option<OwnedFd>, Vec<u8>)> {
    let mut input = Vec::new();
    let mut fds = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.readable().await?;
        let read = stream.try_io(tokio::io::Interest::READABLE, || {
            sys::receive(stream.as_raw_fd(), &mut buffer, &mut fds)?
                .ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => input.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        }
        if let Some((kind, payload)) = frame::take_first(&mut input)? {
            if kind != Kind::Response {
                return Err(io::Error::other("the container has ended"));
            }
            return Ok((serde_json::from_slice(&payload)?, fds.pop(), input));
        }
    }
}

/// The handler of a command's session.
struct ExecHandler {
    handle: Handle,
    terminal: Option<OwnedFd>,
}

impl SessionHandler for ExecHandler {
    fn resize(&self, width: u16, height: u16) -> Result<()> {
        match &self.terminal {
            Some(terminal) => sys::resize(terminal.as_raw_fd(), width, height)
                .context(|| "cannot resize the terminal".into()),
            None => Ok(()),
        }
    }

    fn kill(&self, signal: i32) -> Result<()> {
        self.handle.tell(Request::Kill { signal });
        Ok(())
    }
}

/// Attaches to a container's streams, from now on.
pub async fn attach(
    id: &str,
    socket: &Path,
    control_handle: Handle,
    stdin: bool,
    tty: bool,
) -> Result<Session> {
    let failed = |e: io::Error| RuntimeError::Shim {
        id: id.to_string(),
        reason: e.to_string(),
    };
    let (mut reader, mut writer) = connect(id, socket)?.into_split();
    writer
        .write_all(&frame::encode_json(
            Kind::Request,
            &Request::Attach { stdin },
        ))
        .await
        .map_err(failed)?;
    let (kind, payload) = read_frame(&mut reader).await.map_err(failed)?;
    if kind != Kind::Response {
        return Err(failed(io::Error::other("the container has ended")));
    }
    let response: Response = serde_json::from_slice(&payload).map_err(|e| failed(e.into()))?;
    if let Some(reason) = response.error {
        return Err(RuntimeError::Shim {
            id: id.to_string(),
            reason,
        });
    }
    let (input, mut from_user) = tokio::io::duplex(BUFFER);
    let (mut to_stdout, stdout) = tokio::io::duplex(BUFFER);
    let (mut to_stderr, stderr) = tokio::io::duplex(BUFFER);
    let (exit_sender, exit) = watch::channel::<SessionExit>(None);
    let feed = async move {
        if stdin {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n @ 1..) = from_user.read(&mut buffer).await {
                if writer
                    .write_all(&frame::encode(Kind::Stdin, &buffer[..n]))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            let _ = writer.write_all(&frame::encode(Kind::StdinEnd, &[])).await;
        }
        // Keep the connection open for the output.
        std::future::pending::<()>().await;
    };
    let drain = async move {
        loop {
            match read_frame(&mut reader).await {
                Ok((Kind::Exit, payload)) => {
                    return serde_json::from_slice::<Exit>(&payload)
                        .map(|e| e.code)
                        .map_err(|e| e.to_string());
                }
                // Output for a reader that was dropped is discarded.
                Ok((Kind::Stdout, payload)) => drop(to_stdout.write_all(&payload).await),
                Ok((Kind::Stderr, payload)) => drop(to_stderr.write_all(&payload).await),
                Ok(_) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    };
    tokio::spawn(async move {
        let closed = exit_sender.clone();
        tokio::select! {
            outcome = drain => { let _ = exit_sender.send(Some(outcome)); }
            () = feed => {}
            () = closed.closed() => {}
        }
    });
    let held = |inner| SessionStream {
        inner,
        alive: exit.clone(),
    };
    Ok(Session {
        stdin: stdin.then(|| Box::new(held(input)) as crate::session::Input),
        stdout: Some(Box::new(held(stdout))),
        stderr: (!tty).then(|| Box::new(held(stderr)) as crate::session::Output),
        control: SessionControl {
            handler: Arc::new(AttachHandler(control_handle)),
            exit,
        },
    })
}

/// A stream of an attached session. The connection stays open as long as any stream or the control
/// is held.
struct SessionStream {
    inner: tokio::io::DuplexStream,
    #[allow(dead_code, reason = "held so that the session sees who is left")]
    alive: watch::Receiver<SessionExit>,
}

impl AsyncRead for SessionStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for SessionStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The handler of an attached session.
struct AttachHandler(Handle);

impl SessionHandler for AttachHandler {
    fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.0.tell(Request::Resize { width, height });
        Ok(())
    }

    fn kill(&self, signal: i32) -> Result<()> {
        self.0.tell(Request::Kill { signal });
        Ok(())
    }
}

/// The master of a terminal. Dropping the last clone closes it, which sends SIGHUP.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let read = sys::read(self.0.as_raw_fd(), buf.initialize_unfilled());
            match read {
                Ok(Some(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => guard.clear_ready(),
                // No process has the terminal open any more.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match sys::write(self.0.as_raw_fd(), bytes) {
                Ok(Some(n)) => return Poll::Ready(Ok(n)),
                Ok(None) => guard.clear_ready(),
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
