//! The server: authentication and the channels that clients may open.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::server::{
    self, Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty, Sig};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::logins::{Limits, Login, Logins};
use crate::{SshError, keys, session};

/// Paths of sftp-server in various distributions.
const SFTP_SERVERS: &[&str] = &[
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
];

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct SshConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The host's private key, OpenSSH PEM.
    pub host_key_path: PathBuf,
    /// The `authorized_keys` file, read at each attempt, so that changes apply immediately.
    pub authorized_keys_path: PathBuf,
    /// The login shell; `/bin/sh` if it does not exist.
    pub shell: PathBuf,
    /// Environment variables of every session; they override the defaults (`HOME`, `PATH`,
    /// `USER`, ...).
    pub env: Vec<(String, String)>,
    /// A message shown when an interactive shell starts.
    pub motd: Option<String>,
}

impl SshConfig {
    pub(crate) fn shell(&self) -> &Path {
        if self.shell.exists() {
            &self.shell
        } else {
            Path::new("/bin/sh")
        }
    }
}

/// A server that is bound to its port. It accepts no connections before [`Server::run`].
pub struct Server {
    listener: TcpListener,
    config: Arc<SshConfig>,
    protocol: Arc<server::Config>,
    logins: Logins,
    pub(crate) limits: Limits,
}

/// Binds and serves until the future is dropped.
pub async fn serve(config: SshConfig) -> Result<(), SshError> {
    Server::bind(config).await?.run().await
}

impl Server {
    /// Reads the host key and binds the port.
    pub async fn bind(config: SshConfig) -> Result<Self, SshError> {
        let key = keys::read_private(&config.host_key_path)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(SshError::io(format!("listening on {}", config.listen)))?;
        let protocol = server::Config {
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            keys: vec![key],
            // Failed keys are delayed; the initial request, which lists the methods, is not.
            auth_rejection_time: Duration::from_millis(500),
            auth_rejection_time_initial: Some(Duration::ZERO),
            inactivity_timeout: None,
            keepalive_interval: Some(Duration::from_secs(60)),
            nodelay: true,
            ..Default::default()
        };
        Ok(Self {
            listener,
            config: Arc::new(config),
            protocol: Arc::new(protocol),
            logins: Logins::default(),
            limits: Limits::default(),
        })
    }

    /// Returns the address that the server is bound to, with the actual port.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped. Each connection is a task, which outlives it.
    pub async fn run(self) -> Result<(), SshError> {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Accept errors, such as no file descriptors or an aborted connection, are
                    // transient.
                    warn!("ssh accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(login) = self.logins.begin(peer.ip(), self.limits) else {
                debug!("ssh: too many connections without a login; {peer} is refused");
                continue;
            };
            if let Err(e) = stream.set_nodelay(true) {
                debug!("ssh nodelay: {e}");
            }
            let local = stream.local_addr().unwrap_or(self.config.listen);
            let (succeeded, success) = oneshot::channel();
            let handler = Connection {
                config: self.config.clone(),
                peer,
                local,
                login: Some((login, succeeded)),
            };
            let (stream, closer) = match closable(stream) {
                Ok(both) => both,
                Err(e) => {
                    warn!("ssh connection of {peer}: {e}");
                    continue;
                }
            };
            tokio::spawn(close_unless(success, self.limits.time, closer, peer));
            let protocol = self.protocol.clone();
            tokio::spawn(serve_connection(protocol, stream, handler));
        }
    }
}

/// Returns the stream, and another handle to it, with which it can be closed.
fn closable(stream: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std()?;
    let closer = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, closer))
}

/// Closes a connection whose client has not authenticated in time.
async fn close_unless(
    success: oneshot::Receiver<()>,
    time: Duration,
    closer: std::net::TcpStream,
    peer: SocketAddr,
) {
    // An error means that the connection has ended.
    if tokio::time::timeout(time, success).await.is_err() {
        debug!("ssh: {peer} does not authenticate");
        // Fails only if the connection has ended meanwhile.
        let _ = closer.shutdown(std::net::Shutdown::Both);
    }
}

/// Serves one connection until it ends.
async fn serve_connection(protocol: Arc<server::Config>, stream: TcpStream, handler: Connection) {
    let peer = handler.peer;
    match server::run_stream(protocol, stream, handler).await {
        Ok(session) => {
            if let Err(e) = session.await {
                debug!("ssh session of {peer}: {e}");
            }
        }
        Err(e) => debug!("ssh handshake with {peer}: {e}"),
    }
}

/// The handler of one client connection.
struct Connection {
    config: Arc<SshConfig>,
    peer: SocketAddr,
    local: SocketAddr,
    /// The count of the connection and the receiver of the success, until the client has authenticated.
    login: Option<(Login, oneshot::Sender<()>)>,
}

impl Connection {
    /// Returns whether the user is root and the key is authorized.
    fn may_enter(&self, user: &str, key: &russh::keys::PublicKey) -> bool {
        if user != "root" {
            return false;
        }
        match std::fs::read_to_string(&self.config.authorized_keys_path) {
            Ok(text) => keys::authorized(&text)
                .iter()
                .any(|k| k.key_data() == key.key_data()),
            Err(e) => {
                warn!(
                    "cannot read {}: {e}",
                    self.config.authorized_keys_path.display()
                );
                false
            }
        }
    }

    fn auth(&self, user: &str, key: &russh::keys::PublicKey) -> Auth {
        if self.may_enter(user, key) {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }
}

/// Returns the path of the node's sftp-server, if it has one.
fn sftp_server() -> Option<&'static str> {
    SFTP_SERVERS.iter().copied().find(|p| Path::new(p).exists())
}

// Requests on a session channel are answered here, in order. The channel's task receives
// the same messages and executes them.
impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.auth(user, offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.auth(user, key.public_key))
    }

    async fn auth_succeeded(&mut self, _session: &mut server::Session) -> Result<(), Self::Error> {
        if let Some((_, succeeded)) = self.login.take() {
            // The receiver has ended if the time was over just now.
            let _ = succeeded.send(());
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let context = session::Context {
            config: self.config.clone(),
            handle: session.handle(),
            peer: self.peer,
            local: self.local,
            sftp_server: sftp_server(),
        };
        tokio::spawn(session::run(channel, context));
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let host = host_to_connect.to_owned();
        let Ok(port) = u16::try_from(port_to_connect) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        // Connecting may take long and must not block the connection's other channels.
        tokio::spawn(async move {
            match TcpStream::connect((host.as_str(), port)).await {
                Ok(mut target) => {
                    reply.accept().await;
                    let mut stream = channel.into_stream();
                    if let Err(e) = tokio::io::copy_bidirectional(&mut stream, &mut target).await {
                        debug!("ssh forward to {host}:{port}: {e}");
                    }
                }
                Err(e) => {
                    debug!("ssh forward to {host}:{port}: {e}");
                    reply.reject(ChannelOpenFailure::ConnectFailed).await;
                }
            }
        });
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let path = socket_path.to_owned();
        tokio::spawn(async move {
            match UnixStream::connect(&path).await {
                Ok(mut target) => {
                    reply.accept().await;
                    let mut stream = channel.into_stream();
                    if let Err(e) = tokio::io::copy_bidirectional(&mut stream, &mut target).await {
                        debug!("ssh forward to {path}: {e}");
                    }
                }
                Err(e) => {
                    debug!("ssh forward to {path}: {e}");
                    reply.reject(ChannelOpenFailure::ConnectFailed).await;
                }
            }
        });
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        variable_name: &str,
        _variable_value: &str,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if session::accepts_env(variable_name) {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _data: &[u8],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if name == "sftp" && sftp_server().is_some() {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        _signal: Sig,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }
}
