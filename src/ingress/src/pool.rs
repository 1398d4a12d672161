//! Connections to backends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::body::Upload;
use crate::resolve;
use crate::stream::keep_alive;
use crate::table::{Protocol, Target};

/// The time after which an idle connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The greatest number of idle connections to an endpoint.
const MAX_IDLE: usize = 128;
/// The time for which an endpoint that could not be reached is tried last.
const DEAD_PERIOD: Duration = Duration::from_secs(5);

type Key = (Target, bool);

/// Why a request got no response.
#[derive(Debug)]
pub enum Failure {
    /// It was not sent: it can be sent to another endpoint.
    NotSent(Box<Request<Upload>>, String),
    /// It may have been received.
    Lost(String),
}

struct Idle {
    sender: http1::SendRequest<Upload>,
    since: Instant,
}

/// Connections to all endpoints.
pub struct Pool {
    dns: SocketAddr,
    idle: Mutex<HashMap<Key, Vec<Idle>>>,
    /// HTTP/2 connections, which requests share.
    shared: Mutex<HashMap<Key, http2::SendRequest<Upload>>>,
    dead: Mutex<HashMap<Target, Instant>>,
    any_dead: AtomicBool,
    tls: [tokio_rustls::TlsConnector; 2],
}

impl Pool {
    /// Creates a pool without connections. `dns` is the server that knows external names.
    pub fn new(dns: SocketAddr) -> Arc<Self> {
        let connector = |protocol: &[u8]| {
            let mut config = crate::tls::backend_config();
            config.alpn_protocols = vec![protocol.to_vec()];
            tokio_rustls::TlsConnector::from(Arc::new(config))
        };
        Arc::new(Self {
            dns,
            idle: Mutex::default(),
            shared: Mutex::default(),
            dead: Mutex::default(),
            any_dead: AtomicBool::new(false),
            tls: [connector(b"http/1.1"), connector(b"h2")],
        })
    }

    /// Sends a request to an endpoint.
    pub async fn send(
        self: &Arc<Self>,
        target: &Target,
        protocol: Protocol,
        request: Request<Upload>,
        timeout: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        if protocol.http2() {
            return self.send_http2(target, protocol, request, timeout).await;
        }
        let key = (target.clone(), protocol.tls());
        let mut request = request;
        loop {
            let kept = self.take(&key);
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => match self.connect_http1(&key, &request, timeout).await {
                    Ok(sender) => sender,
                    Err(why) => return Err(Failure::NotSent(Box::new(request), why)),
                },
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(key, sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(again) if fresh => {
                        let why = chain(error.error());
                        return Err(Failure::NotSent(Box::new(again), why));
                    }
                    // The endpoint has just closed a connection that was idle.
                    Some(again) => request = again,
                    None => return Err(Failure::Lost(chain(error.error()))),
                },
            }
        }
    }

    fn take(&self, key: &Key) -> Option<http1::SendRequest<Upload>> {
        let mut idle = self.idle.lock();
        let list = idle.get_mut(key)?;
        while let Some(last) = list.pop() {
            if last.since.elapsed() < IDLE_TIMEOUT && last.sender.is_ready() {
                return Some(last.sender);
            }
        }
        None
    }

    /// Keeps a connection for other requests once its response is complete.
    fn keep(self: &Arc<Self>, key: Key, mut sender: http1::SendRequest<Upload>) {
        let pool = self.clone();
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let mut idle = pool.idle.lock();
            let list = idle.entry(key).or_default();
            if list.len() < MAX_IDLE {
                let since = Instant::now();
                list.push(Idle { sender, since });
            }
        });
    }

    async fn connect_http1(
        &self,
        key: &Key,
        request: &Request<Upload>,
        timeout: Duration,
    ) -> Result<http1::SendRequest<Upload>, String> {
        let connecting = async {
            let stream = self.open(&key.0).await?;
            let mut builder = http1::Builder::new();
            builder.max_buf_size(128 << 10);
            if key.1 {
                let name = server_name(request, &key.0);
                let stream = self.tls[0].connect(name, stream).await;
                let stream = stream.map_err(|e| format!("TLS: {e}"))?;
                start_http1(&builder, stream).await
            } else {
                start_http1(&builder, stream).await
            }
        };
        within(timeout, connecting).await
    }

    async fn open(&self, target: &Target) -> Result<TcpStream, String> {
        let stream = match target {
            Target::Address(address) => TcpStream::connect(address).await,
            Target::Name(name, port) => {
                let found = resolve::outside(name, *port, self.dns).await?;
                TcpStream::connect(&found[..]).await
            }
        };
        let stream = stream.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        // Finds out that a node has gone, also while nothing is sent.
        keep_alive(&stream).map_err(|e| e.to_string())?;
        Ok(stream)
    }

    async fn send_http2(
        &self,
        target: &Target,
        protocol: Protocol,
        mut request: Request<Upload>,
        timeout: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let key = (target.clone(), protocol.tls());
        // A connection that ends just now costs one more.
        for attempt in 0..2 {
            let present = self.shared.lock().get(&key).cloned();
            let mut sender = match present.filter(|s| !s.is_closed()) {
                Some(sender) => sender,
                None => match within(timeout, self.connect_http2(&key, &request)).await {
                    Ok(sender) => {
                        self.shared.lock().insert(key.clone(), sender.clone());
                        sender
                    }
                    Err(why) => return Err(Failure::NotSent(Box::new(request), why)),
                },
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => {
                    let why = chain(error.error());
                    match error.take_message() {
                        Some(again) if attempt == 0 => {
                            self.shared.lock().remove(&key);
                            request = again;
                        }
                        Some(again) => return Err(Failure::NotSent(Box::new(again), why)),
                        None => return Err(Failure::Lost(why)),
                    }
                }
            }
        }
        Err(Failure::NotSent(
            Box::new(request),
            "the connection was closed".into(),
        ))
    }

    async fn connect_http2(
        &self,
        key: &Key,
        request: &Request<Upload>,
    ) -> Result<http2::SendRequest<Upload>, String> {
        let stream = self.open(&key.0).await?;
        if !key.1 {
            return start_http2(stream).await;
        }
        let name = server_name(request, &key.0);
        let stream = self.tls[1].connect(name, stream).await;
        start_http2(stream.map_err(|e| format!("TLS: {e}"))?).await
    }

    /// Remembers that an endpoint could not be reached.
    pub fn failed(&self, target: &Target) {
        self.dead.lock().insert(target.clone(), Instant::now());
        self.any_dead.store(true, Ordering::Relaxed);
    }

    /// Whether an endpoint could not be reached a short while ago.
    pub fn is_dead(&self, target: &Target) -> bool {
        self.any_dead.load(Ordering::Relaxed)
            && self
                .dead
                .lock()
                .get(target)
                .is_some_and(|at| at.elapsed() < DEAD_PERIOD)
    }

    /// Closes what has been idle for too long, until the future is dropped.
    pub async fn clean(self: Arc<Self>) {
        loop {
            tokio::time::sleep(DEAD_PERIOD).await;
            self.idle.lock().retain(|_, list| {
                list.retain(|i| i.since.elapsed() < IDLE_TIMEOUT && !i.sender.is_closed());
                !list.is_empty()
            });
            self.shared.lock().retain(|_, sender| !sender.is_closed());
            let mut dead = self.dead.lock();
            dead.retain(|_, at| at.elapsed() < DEAD_PERIOD);
            self.any_dead.store(!dead.is_empty(), Ordering::Relaxed);
        }
    }
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or_else(|_| Err(format!("no connection within {} s", timeout.as_secs_f32())))
}

async fn start_http1<S>(
    builder: &http1::Builder,
    stream: S,
) -> Result<http1::SendRequest<Upload>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let started = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = started.map_err(|e| chain(&e))?;
    tokio::spawn(async move {
        // Whoever waits for a response gets the error, too.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

async fn start_http2<S>(stream: S) -> Result<http2::SendRequest<Upload>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(2 << 20)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let started = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = started.map_err(|e| chain(&e))?;
    tokio::spawn(async move {
        // Whoever waits for a response gets the error, too.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Returns the name that a backend's certificate is asked for.
fn server_name(request: &Request<Upload>, target: &Target) -> ServerName<'static> {
    if let Target::Name(name, _) = target
        && let Ok(name) = ServerName::try_from(name.to_string())
    {
        return name;
    }
    let host = request.headers().get(http::header::HOST);
    let host = host.and_then(|h| h.to_str().ok());
    let host = host.or(request.uri().host()).unwrap_or_default();
    let name = ServerName::try_from(crate::table::host_name(host));
    name.unwrap_or_else(|_| match target {
        Target::Address(address) => ServerName::from(address.ip()),
        Target::Name(..) => ServerName::from(IpAddr::from([0, 0, 0, 0])),
    })
}

/// Returns an error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
