//! The server: who may come in, and which channels they may open.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::server::{
    self, Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty, Sig};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tracing::{debug, warn};

use crate::{SshError, keys, session};

/// Where sftp-server may live, by distribution.
const SFTP_SERVERS: &[&str] = &[
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
];

/// What the server is told.
#[derive(Clone, Debug)]
pub struct SshConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The host's private key, OpenSSH PEM.
    pub host_key_path: PathBuf,
    /// Who may come in; read again at each attempt, so that a new key counts at once.
    pub authorized_keys_path: PathBuf,
    /// The shell, used when it exists; `/bin/sh` otherwise.
    pub shell: PathBuf,
    /// Variables of every session, over the defaults (`HOME`, `PATH`, `USER`, ...).
    pub env: Vec<(String, String)>,
    /// Shown when an interactive shell starts.
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

/// A server that has its port but answers nobody until [`Server::run`].
pub struct Server {
    listener: TcpListener,
    config: Arc<SshConfig>,
    protocol: Arc<server::Config>,
}

/// Listens and serves until the future is dropped.
pub async fn serve(config: SshConfig) -> Result<(), SshError> {
    Server::bind(config).await?.run().await
}

impl Server {
    /// Reads the host key and takes the port.
    pub async fn bind(config: SshConfig) -> Result<Self, SshError> {
        let key = keys::read_private(&config.host_key_path)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(SshError::io(format!("listening on {}", config.listen)))?;
        let protocol = server::Config {
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            keys: vec![key],
            // A wrong key is slow to try again, the probe for methods is not.
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
        })
    }

    /// The address that clients reach, with the real port when 0 was asked for.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn run(self) -> Result<(), SshError> {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Out of descriptors or a peer gone already: neither ends the server.
                    warn!("ssh accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Err(e) = stream.set_nodelay(true) {
                debug!("ssh nodelay: {e}");
            }
            let local = stream.local_addr().unwrap_or(self.config.listen);
            let handler = Connection {
                config: self.config.clone(),
                peer,
                local,
            };
            let protocol = self.protocol.clone();
            tokio::spawn(async move {
                match server::run_stream(protocol, stream, handler).await {
                    Ok(session) => {
                        if let Err(e) = session.await {
                            debug!("ssh session of {peer}: {e}");
                        }
                    }
                    Err(e) => debug!("ssh handshake with {peer}: {e}"),
                }
            });
        }
    }
}

struct Connection {
    config: Arc<SshConfig>,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Connection {
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

/// The sftp-server of this node, if it has one.
fn sftp_server() -> Option<&'static str> {
    SFTP_SERVERS.iter().copied().find(|p| Path::new(p).exists())
}

// Requests on a session channel are answered here, in the order they came; what
// they ask for happens in the channel's own task, which sees the same messages.
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
        // Connecting may take long, and the connection has other channels to serve.
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
