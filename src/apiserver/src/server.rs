//! The HTTPS listener: HTTP/1.1 and HTTP/2 over TLS on one port.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rkube_x509::{Certificate, Renewable, RequestedClient, Roots};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::body::{self, BoxError};
use crate::connections::{Activity, Connection, Connections, Limits, TrackedBody};
use crate::{ApiServer, Error, Pki};

/// The time limit for a client's TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for receiving a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a request's headers in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// The time limit for a client without requests to close a connection on the server's demand.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of concurrent requests of an HTTP/2 connection. Clients with Go's library open
/// another connection then; those with hyper's wait.
const MAX_STREAMS: u32 = 250;
/// Interval between log entries about too many connections.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);
/// The time in which shutdown waits for requests in progress.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The client of a connection; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The client's certificate chain. The client holds the key of the first certificate; whether a
    /// configured CA has signed it is judged by authentication.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// The connection, which records that the client has authenticated.
    pub(crate) connection: Arc<Connection>,
}

/// Returns the TLS server configuration. Clients are asked for a certificate and may send any or
/// none. A certificate that does not verify is no error of the connection: another authenticator
/// identifies the user, or the request fails with 401.
pub fn tls_config(pki: &Pki, serving: Arc<Renewable>) -> Result<rustls::ServerConfig, Error> {
    let invalid =
        |what: &str, error: &dyn std::fmt::Display| Error::Pki(format!("{what}: {error}"));
    let mut roots = Roots::default();
    for pem in [Some(&pki.ca_cert), pki.front_proxy_ca_cert.as_ref()]
        .into_iter()
        .flatten()
    {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| invalid("CA certificate", &e))?;
            roots
                .add(&certificate)
                .map_err(|e| invalid("CA certificate", &e))?;
        }
    }
    let mut config = rustls::ServerConfig::builder_with_provider(rkube_x509::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid("TLS versions", &e))?
        .with_client_cert_verifier(RequestedClient::new(&roots))
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections until `shutdown` completes, then waits a short time for requests in
/// progress. Connections beyond the limits are closed at once, or those of clients that have not
/// authenticated end for them.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    shutdown: CancellationToken,
    limits: Limits,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let tasks = tokio_util::task::TaskTracker::new();
    let connections = Connections::new(limits);
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => match connections.open(address.ip()) {
                Some(counted) => {
                    let idle = limits.idle;
                    let accepted = Accepted {
                        address,
                        counted,
                        idle,
                    };
                    let (server, acceptor) = (server.clone(), acceptor.clone());
                    tasks.spawn(accepted.serve(server, acceptor, stream, shutdown.clone()));
                }
                None if complained.is_none_or(|last| last.elapsed() > COMPLAINT_PERIOD) => {
                    complained = Some(Instant::now());
                    tracing::warn!(%address, "there are too many connections; a new one was closed");
                }
                None => {}
            },
            Err(error) => {
                // Out of file descriptors or memory: wait until other connections end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await;
}

/// An accepted connection.
struct Accepted {
    address: SocketAddr,
    counted: Arc<Connection>,
    /// The time limit for the connection without requests.
    idle: Duration,
}

impl Accepted {
    /// Serves the connection until it ends by itself or has to.
    async fn serve(
        self,
        server: Arc<ApiServer>,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        shutdown: CancellationToken,
    ) {
        let (address, counted) = (self.address, self.counted.clone());
        tokio::select! {
            () = self.talk(server, acceptor, stream, shutdown) => {}
            () = counted.ended() => {
                tracing::debug!(%address, "a connection made room for others");
            }
        }
    }

    async fn talk(
        self,
        server: Arc<ApiServer>,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        shutdown: CancellationToken,
    ) {
        let address = self.address;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Peer {
            address,
            certificates: certificates
                .iter()
                .map(|c| c.clone().into_owned())
                .collect(),
            connection: self.counted.clone(),
        };
        // A client with a certificate is known before the first request.
        let authenticators = &server.security.authenticators;
        let none = http::HeaderMap::new();
        if let Ok(Some(_)) = authenticators.authenticate(&none, &peer.certificates) {
            peer.connection.admit();
        }
        let stream = Counted {
            stream,
            _connection: self.counted,
        };
        if let Err(error) = speak(server, stream, peer, self.idle, shutdown).await {
            tracing::debug!(%address, %error, "connection ended");
        }
    }
}

/// Answers the requests of a connection until it ends.
async fn speak(
    server: Arc<ApiServer>,
    stream: Counted<TlsStream<TcpStream>>,
    peer: Peer,
    idle: Duration,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    let counted = peer.connection.clone();
    let mut expired = std::pin::pin!(expiry(&peer.certificates));
    let activity = Activity::new();
    let requests = activity.clone();
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (server, activity) = (server.clone(), requests.clone());
        let connection = peer.connection.clone();
        let mut running = activity.begin();
        let mut request = request.map(body::boxed);
        let multiplexed = request.version() == http::Version::HTTP_2;
        request.extensions_mut().insert(peer.clone());
        async move {
            let mut response = server.call(request).await;
            running.answer();
            // As upstream: an unauthenticated client gets one answer from an HTTP/2 connection,
            // on which it could ask for many at a time. It gets one from others too, lest it keep
            // its connection.
            let refused = response.status() == http::StatusCode::UNAUTHORIZED;
            if multiplexed && (refused || !connection.is_known()) {
                activity.end();
            }
            let upgraded = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
            if !multiplexed && !upgraded && !connection.is_known() {
                let close = http::HeaderValue::from_static("close");
                response
                    .headers_mut()
                    .insert(http::header::CONNECTION, close);
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| TrackedBody::new(body, running)))
        }
    });
    let builder = builder();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            // Clients renew their certificate, and use the new one on their next connection.
            () = &mut expired, if !closing => {}
            () = shutdown.cancelled(), if !closing => {}
            () = activity.ended(), if !closing => {}
            () = activity.idle(idle), if !closing => {}
            () = activity.abused() => return Err("the client cancels its requests".into()),
            // A client may ignore the announced end, and an unauthenticated one even send further
            // requests.
            () = activity.idle(CLOSE_TIMEOUT), if closing => return Ok(()),
            () = tokio::time::sleep(CLOSE_TIMEOUT), if closing && !counted.is_known() => return Ok(()),
        }
        closing = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// Returns how connections are served, with the limits of each.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES.max(8192))
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        // Detects peers that disappeared without closing the connection.
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// A stream whose connection counts as long as it is open, also after an upgrade.
struct Counted<S> {
    stream: S,
    _connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Completes when a client's certificate expires; never if it has none, or one that is expired.
fn expiry(chain: &[CertificateDer<'_>]) -> impl Future<Output = ()> + use<> {
    let leaf = chain.first().and_then(|leaf| Certificate::parse(leaf).ok());
    let left = leaf.map(|leaf| leaf.not_after() - jiff::Timestamp::now().as_second());
    let left = left.and_then(|seconds| u64::try_from(seconds).ok());
    async move {
        match left {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    }
}
