//! Connections of clients.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::AccessLog;
use crate::body::Download;
use crate::headers::Origin;
use crate::proxy::Proxy;
use crate::stream::{Patient, keep_alive};

/// The greatest number of connections of a listener; others wait.
const MAX_CONNECTIONS: usize = 8192;
/// The time limit of a TLS handshake, and of the first bytes of a connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// The time limit of a request's headers, and the time for which a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The time in which a client must take something of what waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// The size in bytes of a request's headers.
const MAX_HEADERS: usize = 64 << 10;
/// The greatest number of simultaneous requests of an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// What an HTTP/2 connection without TLS begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where connections come in.
pub struct Entrance {
    /// The listener.
    pub listener: TcpListener,
    /// The port that clients are told.
    pub port: u16,
    /// The settings of TLS, if it is used.
    pub tls: Option<Arc<ServerConfig>>,
}

/// Serves connections until `stop`; then those that are open end with their current request.
pub async fn serve(entrance: Entrance, proxy: Arc<Proxy>, stop: CancellationToken) {
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let open = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = limit.clone().acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = entrance.listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of one connection, or of too many open files, which takes a while.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let connection = Connection {
            proxy: proxy.clone(),
            stop: stop.clone(),
            open: Arc::new(Open::new(&proxy, permit)),
            origin: Origin {
                client: canonical(peer),
                port: entrance.port,
                tls: entrance.tls.is_some(),
            },
        };
        let tls = entrance.tls.clone();
        open.spawn(async move {
            connection.run(stream, tls).await;
        });
    }
    drop(entrance.listener);
    open.close();
    open.wait().await;
}

/// IPv4 clients of a socket for both families have mapped addresses.
fn canonical(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// A connection that counts. The tunnel that one becomes keeps it.
pub struct Open {
    log: Arc<AccessLog>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(proxy: &Proxy, permit: OwnedSemaphorePermit) -> Self {
        let log = proxy.log.clone();
        log.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            log,
            _permit: permit,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let connections = &self.log.metrics.connections;
        connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection {
    proxy: Arc<Proxy>,
    stop: CancellationToken,
    open: Arc<Open>,
    origin: Origin,
}

impl Connection {
    async fn run(&self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        // Fails only if the client has gone already.
        if stream.set_nodelay(true).is_err() || keep_alive(&stream).is_err() {
            return;
        }
        let Some(tls) = tls else {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, is_http2(&stream)).await {
                Ok(Ok(true)) => self.serve_http2(Patient::new(stream, WRITE_TIMEOUT)).await,
                Ok(Ok(false)) => self.serve_http1(Patient::new(stream, WRITE_TIMEOUT)).await,
                // The client has sent nothing, or has gone.
                Ok(Err(_)) | Err(_) => {}
            }
            return;
        };
        let stream = Patient::new(stream, WRITE_TIMEOUT);
        let accepting = tokio_rustls::TlsAcceptor::from(tls).accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                self.serve_http2(stream).await;
            }
            Ok(Ok(stream)) => self.serve_http1(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, client = %self.origin.client, "no TLS"),
            Err(_) => {}
        }
    }

    async fn serve_http1<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            // Not with `pipeline_flush`: it also takes the limit from what waits to be written.
            .max_buf_size(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, client = %self.origin.client, "a connection ended");
        }
    }

    async fn serve_http2<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::new());
        let origin = self.origin;
        let service = {
            let (proxy, activity) = (self.proxy.clone(), activity.clone());
            service_fn(move |request: Request<Incoming>| {
                let (proxy, busy) = (proxy.clone(), Busy::new(&activity));
                async move {
                    let mut response = proxy.handle(origin, request).await;
                    response.body_mut().hold(busy);
                    Ok::<_, std::convert::Infallible>(response)
                }
            })
        };
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADERS as u32)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(1 << 20)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.ended(&activity) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, client = %self.origin.client, "a connection ended");
        }
    }

    /// Returns when an HTTP/2 connection should end: at the stop, or when it has been idle.
    async fn ended(&self, activity: &Activity) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = activity.idle() => {}
        }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Download>, std::convert::Infallible> {
        request.extensions_mut().insert(self.open.clone());
        Ok(self.proxy.handle(self.origin, request).await)
    }
}

/// Looks at the first bytes of a connection without taking them.
async fn is_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut first).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if first[..n] != PREFACE[..n] {
            return Ok(false);
        }
        if n == PREFACE.len() {
            return Ok(true);
        }
        // The bytes that are there make the socket readable at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Requests of an HTTP/2 connection.
struct Activity {
    began: Instant,
    running: AtomicUsize,
    /// Milliseconds since the beginning at the last end of a request.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            running: AtomicUsize::new(0),
            last: AtomicU64::new(0),
        }
    }

    async fn idle(&self) {
        loop {
            tokio::time::sleep(IDLE_TIMEOUT / 5).await;
            let quiet = self.began.elapsed()
                - Duration::from_millis(self.last.load(Ordering::Relaxed))
                    .min(self.began.elapsed());
            if self.running.load(Ordering::Relaxed) == 0 && quiet >= IDLE_TIMEOUT {
                return;
            }
        }
    }
}

/// A request that is being answered.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.running.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
