//! The listening sockets of the name server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_proto::op::Message;
use hickory_proto::rr::Name;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::chain::{Chain, Step};
use super::corefile::{Corefile, Problem, default_text};
use super::respond::{Zone, encode, udp_limit};
use super::shares::Shares;
use super::types::DnsConfig;
use super::zone::DnsState;
use crate::error::{NetworkError, Result};

/// Timeout of reads and writes on a TCP connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of concurrent TCP connections.
const MAX_CONNECTIONS: usize = 128;
/// Maximum number of TCP connections of one client. More are closed at once.
const MAX_CONNECTIONS_PER_CLIENT: usize = 32;

/// A running name server over UDP and TCP. Stops when dropped.
pub struct DnsServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    tasks: Vec<AbortHandle>,
}

/// The state shared by the server's tasks.
struct Shared {
    domain: Name,
    config: DnsConfig,
    current: RwLock<Option<Current>>,
    chain: RwLock<Arc<Chain>>,
}

/// The names that are served.
struct Current {
    state: Arc<DnsState>,
    serial: u32,
}

impl DnsServer {
    /// Binds the sockets and starts serving. Queries for the cluster's names get `SERVFAIL` until
    /// the first [`Self::update`].
    pub async fn start(config: DnsConfig) -> Result<Self> {
        let text = default_text(&config.domain);
        let corefile = Corefile::parse(&text, &config.domain)
            .map_err(|problem| NetworkError::Invalid(problem.to_string()))?;
        let mut domain = Name::from_ascii(&config.domain).map_err(|error| {
            NetworkError::Invalid(format!("{:?} is no domain: {error}", config.domain))
        })?;
        domain.set_fqdn(true);
        let mut sockets = Vec::new();
        for listen in &config.listen {
            let failed = |source| NetworkError::Listen {
                address: *listen,
                source,
            };
            let udp = UdpSocket::bind(listen).await.map_err(failed)?;
            // With port 0 (in tests), TCP must use the port that UDP got.
            let address = udp.local_addr().map_err(failed)?;
            let tcp = TcpListener::bind(address).await.map_err(failed)?;
            sockets.push((address, udp, tcp));
        }
        let Some((address, ..)) = sockets.first() else {
            return Err(NetworkError::Invalid("no address to listen on".into()));
        };
        let address = *address;
        let shared = Arc::new(Shared {
            domain,
            chain: RwLock::new(Arc::new(Chain::new(corefile, &config))),
            config,
            current: RwLock::new(None),
        });
        let tasks = sockets.into_iter().flat_map(|(_, udp, tcp)| {
            [
                tokio::spawn(serve_udp(udp, shared.clone())).abort_handle(),
                tokio::spawn(serve_tcp(tcp, shared.clone())).abort_handle(),
            ]
        });
        let tasks = tasks.collect();
        Ok(Self {
            shared,
            address,
            tasks,
        })
    }

    /// Returns the first address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the Corefile; `None` stands for the default one. Cached answers are forgotten.
    ///
    /// # Errors
    /// Fails with the first line that is wrong or not supported. The Corefile so far stays.
    pub fn configure(&self, text: Option<&str>) -> std::result::Result<(), Problem> {
        let config = &self.shared.config;
        let default = default_text(&config.domain);
        let corefile = Corefile::parse(text.unwrap_or(&default), &config.domain)?;
        *self.shared.chain.write() = Arc::new(Chain::new(corefile, config));
        Ok(())
    }

    /// Replaces the cluster's names. The serial number is the current Unix time.
    pub fn update(&self, state: DnsState) {
        let seconds = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        // Serial numbers wrap around by design.
        let serial = seconds.as_secs() as u32;
        *self.shared.current.write() = Some(Current {
            state: Arc::new(state),
            serial,
        });
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Shared {
    /// Answers a query as far as possible without forwarding.
    fn respond(&self, bytes: &[u8]) -> Step {
        let chain = self.chain.read().clone();
        let current = self.current.read();
        let zone = Zone {
            domain: &self.domain,
            state: current.as_ref().map(|current| &*current.state),
            // There is at least one, as the server has started.
            server: self.config.listen[0].ip(),
            serial: current.as_ref().map_or(0, |current| current.serial),
            can_forward: true,
            // Of the Corefile.
            ttl: 0,
            pods: false,
            reverse: false,
        };
        chain.respond(bytes, &zone, &self.config)
    }
}

/// Serves UDP queries. Each forwarded query is completed in a separate task.
async fn serve_udp(socket: UdpSocket, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; 4096];
    let mut asking = JoinSet::new();
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error caused by an earlier response.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot receive name queries");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        while asking.try_join_next().is_some() {}
        let bytes = &buffer[..length];
        match shared.respond(bytes) {
            Step::Silence => {}
            Step::Answer(message) => send(&socket, peer, message, udp_limit(bytes)).await,
            Step::Ask(pending) => {
                let limit = udp_limit(bytes);
                let socket = socket.clone();
                asking.spawn(async move {
                    let message = pending.complete(peer.ip()).await;
                    send(&socket, peer, message, limit).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, peer: SocketAddr, message: Message, limit: usize) {
    let Some(bytes) = encode(message, limit) else {
        return;
    };
    if let Err(error) = socket.send_to(&bytes, peer).await {
        // The client retries.
        tracing::debug!(%peer, %error, "cannot send a name's answer");
    }
}

/// Accepts TCP connections. Closes those beyond the limits of all clients or of one at once.
async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let limit = Shares::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT);
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                while connections.try_join_next().is_some() {}
                let Some(share) = limit.take(peer.ip()) else {
                    continue;
                };
                let shared = shared.clone();
                connections.spawn(async move {
                    let _share = share;
                    // Errors concern only this client.
                    let _ = serve_connection(stream, peer.ip(), &shared).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept name queries");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Serves length-prefixed queries until the client closes the connection or is idle.
async fn serve_connection(
    mut stream: TcpStream,
    client: IpAddr,
    shared: &Shared,
) -> io::Result<()> {
    loop {
        let length = timeout(IDLE_TIMEOUT, stream.read_u16()).await??;
        let mut bytes = vec![0; usize::from(length)];
        timeout(IDLE_TIMEOUT, stream.read_exact(&mut bytes)).await??;
        let message = match shared.respond(&bytes) {
            Step::Silence => return Ok(()),
            Step::Answer(message) => message,
            Step::Ask(pending) => pending.complete(client).await,
        };
        let Some(answer) = encode(message, usize::from(u16::MAX)) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE_TIMEOUT, stream.write_all(&framed)).await??;
    }
}
