//! The client of `rkube ssh`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use russh::client::{self, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, ChannelWriteHalf, Disconnect};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::debug;

use crate::terminal::{self, Raw, Resizes};
use crate::{SshError, keys, signal_number};

/// An authenticated connection to a node.
pub struct Session {
    handle: Handle<Verify>,
}

/// Sends `stdin` to the command until it ends, and then the end.
///
/// Returns early, without an error, if the command has exited.
async fn send(
    stdin: Option<impl AsyncRead + Unpin>,
    writer: &ChannelWriteHalf<client::Msg>,
) -> Result<(), SshError> {
    if let Some(mut stdin) = stdin {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = stdin.read(&mut buffer).await;
            let n = read.map_err(SshError::io("reading standard input"))?;
            if n == 0 {
                break;
            }
            let data = Bytes::copy_from_slice(&buffer[..n]);
            if writer.data_bytes(data).await.is_err() {
                return Ok(());
            }
        }
    }
    let _ = writer.eof().await;
    Ok(())
}

/// Compares the server's host key with the expected one.
struct Verify {
    expected: PublicKey,
    mismatch: Arc<std::sync::atomic::AtomicBool>,
}

impl client::Handler for Verify {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let same = matches!(shown, PublicKeyOrCertificate::PublicKey { key, .. }
            if key.key_data() == self.expected.key_data());
        if !same {
            self.mismatch
                .store(true, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(same)
    }
}

impl Session {
    /// Connects and authenticates with the private key at `key_path`.
    ///
    /// `expected_host_key` is the node's public key in OpenSSH's one-line format.
    ///
    /// # Errors
    ///
    /// [`SshError::HostKey`] if the server has another host key; [`SshError::Refused`] if it
    /// rejects the private key.
    pub async fn connect(
        addr: SocketAddr,
        user: &str,
        key_path: &Path,
        expected_host_key: &str,
    ) -> Result<Self, SshError> {
        let key = keys::read_private(key_path)?;
        let expected = keys::parse_public(expected_host_key)?;
        let mismatch = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let config = client::Config {
            inactivity_timeout: None,
            keepalive_interval: Some(std::time::Duration::from_secs(60)),
            nodelay: true,
            ..Default::default()
        };
        let verify = Verify {
            expected,
            mismatch: mismatch.clone(),
        };
        let connected = client::connect(Arc::new(config), addr, verify).await;
        if mismatch.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(SshError::HostKey(addr.to_string()));
        }
        let mut handle = match connected {
            Ok(handle) => handle,
            Err(russh::Error::IO(e)) => {
                return Err(SshError::io(format!("connecting to {addr}"))(e));
            }
            Err(e) => return Err(e.into()),
        };
        let result = handle
            .authenticate_publickey(user, PrivateKeyWithHashAlg::new(Arc::new(key), None))
            .await?;
        if !result.success() {
            return Err(SshError::Refused(format!("{user}@{addr}")));
        }
        Ok(Self { handle })
    }

    /// Runs `command` without a terminal and returns its exit code.
    ///
    /// Without `stdin` the command reads an empty input. For a command that was killed by a
    /// signal, returns 128 plus the signal's number, as a shell does.
    pub async fn exec(
        &self,
        command: &str,
        stdin: Option<impl AsyncRead + Unpin>,
        mut stdout: impl AsyncWrite + Unpin,
        mut stderr: impl AsyncWrite + Unpin,
    ) -> Result<i32, SshError> {
        let channel = self.handle.channel_open_session().await?;
        channel.exec(true, command).await?;
        let (mut reader, writer) = channel.split();
        // Both directions run concurrently: a full window in one would otherwise block the
        // other.
        let input = send(stdin, &writer);
        let output = async {
            let mut code = None;
            while let Some(message) = reader.wait().await {
                match message {
                    ChannelMsg::Data { data } => {
                        write(&mut stdout, &data, "writing standard output").await?
                    }
                    ChannelMsg::ExtendedData { data, ext: 1 } => {
                        write(&mut stderr, &data, "writing standard error").await?
                    }
                    other => note_exit(&other, &mut code),
                }
            }
            Ok::<_, SshError>(code)
        };
        tokio::pin!(input, output);
        let code = tokio::select! {
            done = &mut output => done?,
            done = &mut input => {
                done?;
                output.await?
            }
        };
        code.ok_or(SshError::Protocol(russh::Error::Disconnect))
    }

    /// Runs an interactive login shell; see [`Session::interactive`].
    pub async fn shell(&self) -> Result<i32, SshError> {
        self.interactive(None).await
    }

    /// Runs `command`, or a login shell, with a terminal and returns its exit code.
    ///
    /// If standard input is a terminal, it is in raw mode meanwhile, and changes of its size
    /// are sent to the node.
    pub async fn interactive(&self, command: Option<&str>) -> Result<i32, SshError> {
        let channel = self.handle.channel_open_session().await?;
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
        let modes = terminal::modes();
        channel
            .request_pty(true, &term, columns, rows, 0, 0, &modes)
            .await?;
        for name in ["LANG", "LC_ALL", "LC_CTYPE", "COLORTERM", "NO_COLOR"] {
            if let Ok(value) = std::env::var(name) {
                channel.set_env(false, name, value).await?;
            }
        }
        match command {
            Some(command) => channel.exec(true, command).await?,
            None => channel.request_shell(true).await?,
        }
        let _raw = Raw::enter()?;
        let mut input = stdin_lines();
        let mut resized = Resizes::follow().map_err(SshError::io("following the window's size"))?;
        let (mut reader, writer) = channel.split();
        let mut stdout = tokio::io::stdout();
        let send = async {
            loop {
                tokio::select! {
                    data = input.recv() => match data {
                        Some(data) => if writer.data_bytes(data).await.is_err() { return },
                        None => {
                            let _ = writer.eof().await;
                            return;
                        }
                    },
                    () = resized.next() => {
                        if let Some((columns, rows)) = terminal::size()
                            && writer
                                .window_change(columns, rows, 0, 0)
                                .await
                                .is_err()
                        {
                            return;
                        }
                    }
                }
            }
        };
        let receive = async {
            let mut code = None;
            while let Some(message) = reader.wait().await {
                match message {
                    ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => {
                        write(&mut stdout, &data, "writing standard output").await?
                    }
                    other => note_exit(&other, &mut code),
                }
            }
            Ok::<_, SshError>(code)
        };
        tokio::pin!(send, receive);
        let code = tokio::select! {
            done = &mut receive => done?,
            () = &mut send => receive.await?,
        };
        code.ok_or(SshError::Protocol(russh::Error::Disconnect))
    }

    /// Forwards each connection to `listener` to `host:port`, as resolved on the node.
    ///
    /// Returns an error when the connection to the node is closed or `listener` fails.
    pub async fn forward(
        &self,
        listener: TcpListener,
        host: &str,
        port: u16,
    ) -> Result<(), SshError> {
        loop {
            let (mut local, peer) = listener
                .accept()
                .await
                .map_err(SshError::io("accepting a connection to forward"))?;
            let opened = self
                .handle
                .channel_open_direct_tcpip(
                    host,
                    u32::from(port),
                    peer.ip().to_string(),
                    u32::from(peer.port()),
                )
                .await;
            let channel = match opened {
                Ok(channel) => channel,
                Err(e) if self.handle.is_closed() => return Err(e.into()),
                Err(e) => {
                    // A target that refuses one connection does not stop the listener.
                    debug!("forward to {host}:{port}: {e}");
                    continue;
                }
            };
            tokio::spawn(async move {
                let mut remote = channel.into_stream();
                if let Err(e) = tokio::io::copy_bidirectional(&mut local, &mut remote).await {
                    debug!("forwarded connection of {peer}: {e}");
                }
            });
        }
    }

    /// Disconnects from the server.
    pub async fn close(self) -> Result<(), SshError> {
        self.handle
            .disconnect(Disconnect::ByApplication, "", "")
            .await?;
        Ok(())
    }
}

/// Writes and flushes `data`; `what` is the operation in errors.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    data: &[u8],
    what: &'static str,
) -> Result<(), SshError> {
    to.write_all(data).await.map_err(SshError::io(what))?;
    to.flush().await.map_err(SshError::io(what))
}

/// Records the exit code of a channel message, if it contains one.
fn note_exit(message: &ChannelMsg, code: &mut Option<i32>) {
    match message {
        ChannelMsg::ExitStatus { exit_status } => *code = Some(exit_status.cast_signed()),
        ChannelMsg::ExitSignal { signal_name, .. } => {
            *code = Some(128 + signal_number(signal_name).unwrap_or(0));
        }
        ChannelMsg::Failure if code.is_none() => *code = Some(255),
        _ => {}
    }
}

/// Reads standard input on a separate thread. A blocking task of the runtime would delay the
/// exit of the process until the next key press.
fn stdin_lines() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 4096];
        loop {
            match terminal::read(&mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if sender
                        .blocking_send(Bytes::copy_from_slice(&buffer[..n]))
                        .is_err()
                    {
                        return;
                    }
                }
            }
        }
    });
    receiver
}
