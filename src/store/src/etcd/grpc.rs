//! The parts of gRPC over HTTP/2 that etcd's API needs: one connection, unary calls
//! and bidirectional streams.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::wire;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Timeout of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of a call, including the time to connect.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a call that waits for a connection.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the pings on an open connection.
const PING_PERIOD: Duration = Duration::from_secs(15);
/// Timeout of the response to a ping, after which the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay before a call that was not sent is repeated.
const REPEAT_DELAY: Duration = Duration::from_millis(50);
/// The gRPC code with which a server says that it cannot serve: it has no leader, is
/// stopping, or its peers do not answer.
const UNAVAILABLE: u32 = 14;
/// Metadata that makes a server without a leader end a stream. Without it, the stream
/// stays open and delivers nothing.
const REQUIRE_LEADER: HeaderName = HeaderName::from_static("hasleader");
/// Flow-control window of a stream, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// Flow-control window of the connection, in bytes.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Why a call failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// etcd responded with an error.
    Status {
        /// The gRPC status code.
        code: u32,
        /// The status message.
        message: String,
    },
    /// Nothing was sent: there is no connection.
    Unreachable(String),
    /// Nothing was sent: the connection had just been closed.
    NotSent(String),
    /// The connection broke; it is unknown whether the call took effect.
    Interrupted(String),
}

impl Failure {
    /// Returns whether another server may succeed where this one failed.
    pub fn is_of_server(&self) -> bool {
        match self {
            Self::Status { code, .. } => *code == UNAVAILABLE,
            Self::Interrupted(_) => true,
            Self::Unreachable(_) | Self::NotSent(_) => false,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { code, message } => write!(f, "etcd answered: {message} (code {code})"),
            Self::Unreachable(why) | Self::NotSent(why) => {
                write!(f, "etcd cannot be reached: {why}")
            }
            Self::Interrupted(why) => write!(f, "the connection to etcd broke: {why}"),
        }
    }
}

/// A server of the cluster.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host name or address, as certificates have it.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address to connect to, if not that of `host`.
    pub address: Option<IpAddr>,
}

impl Endpoint {
    /// Returns whether the host is the loopback.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A connection to one of several endpoints, opened again when it breaks.
pub struct Channel {
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<rustls::ClientConfig>>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    sender: Option<(SendRequest<Body>, String)>,
    /// The endpoint to try first.
    next: usize,
}

impl Channel {
    /// Creates a channel that connects with its first call.
    pub fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self {
            endpoints,
            tls,
            open: Mutex::default(),
        }
    }

    /// Returns the connection. Without one it tries all endpoints in turn, for
    /// `retry_for`.
    async fn sender(&self, retry_for: Duration) -> Result<(SendRequest<Body>, String), Failure> {
        // Concurrent callers wait here and find the connection made.
        let mut open = self.open.lock().await;
        if let Some((sender, authority)) = &open.sender
            && !sender.is_closed()
        {
            return Ok((sender.clone(), authority.clone()));
        }
        open.sender = None;
        let until = Instant::now() + retry_for;
        let mut pause = Duration::from_millis(50);
        loop {
            let mut reasons = Vec::new();
            for _ in 0..self.endpoints.len() {
                let endpoint = &self.endpoints[open.next % self.endpoints.len()];
                match timeout(CONNECT_TIMEOUT, self.connect(endpoint)).await {
                    Ok(Ok(sender)) => {
                        let made = (sender, endpoint.to_string());
                        open.sender = Some(made.clone());
                        return Ok(made);
                    }
                    Ok(Err(why)) => reasons.push(format!("{endpoint}: {why}")),
                    Err(_) => reasons.push(format!("{endpoint}: no answer in {CONNECT_TIMEOUT:?}")),
                }
                open.next += 1;
            }
            if Instant::now() + pause >= until {
                return Err(Failure::Unreachable(reasons.join("; ")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Turns away from a server that does not serve, as when it has lost its peers: the next
    /// call goes to another one. Running calls keep their connection.
    pub async fn leave(&self, server: &str) {
        if self.endpoints.len() < 2 {
            return;
        }
        let mut open = self.open.lock().await;
        // Others may have left it already.
        if open.sender.as_ref().is_some_and(|(_, name)| name == server) {
            tracing::warn!(server, "this etcd does not serve, turning to the next");
            open.sender = None;
            open.next += 1;
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<SendRequest<Body>, String> {
        let tcp = match endpoint.address {
            Some(address) => TcpStream::connect((address, endpoint.port)).await,
            None => TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await,
        };
        let tcp = tcp.map_err(|e| e.to_string())?;
        // Small requests must not wait for more data.
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_PERIOD)
            .keep_alive_timeout(PING_TIMEOUT);
        let Some(tls) = &self.tls else {
            let (sender, connection) = builder
                .handshake(TokioIo::new(tcp))
                .await
                .map_err(|e| chain(&e))?;
            tokio::spawn(connection);
            return Ok(sender);
        };
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| format!("{:?} is not a host's name", endpoint.host))?;
        let stream = TlsConnector::from(tls.clone())
            .connect(name, tcp)
            .await
            .map_err(|e| format!("TLS: {e}"))?;
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| chain(&e))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn send(
        &self,
        method: &str,
        body: Body,
        (mut sender, authority): (SendRequest<Body>, String),
        require_leader: bool,
    ) -> Result<http::Response<Incoming>, Failure> {
        sender
            .ready()
            .await
            .map_err(|e| Failure::NotSent(chain(&e)))?;
        let uri = Uri::builder()
            .scheme(if self.tls.is_some() { "https" } else { "http" })
            .authority(authority)
            .path_and_query(method)
            .build()
            .map_err(|e| Failure::Unreachable(e.to_string()))?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if require_leader {
            headers.insert(REQUIRE_LEADER, HeaderValue::from_static("true"));
        }
        sender.send_request(request).await.map_err(|e| {
            if e.is_canceled() {
                Failure::NotSent(chain(&e))
            } else {
                Failure::Interrupted(chain(&e))
            }
        })
    }

    /// Performs a unary call. A call that was not sent is repeated. After a failure of the
    /// server, the next call goes to another one.
    pub async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, Failure> {
        let mut server = String::new();
        let calls = async {
            loop {
                let connection = self.sender(RECONNECT_TIMEOUT).await?;
                server.clone_from(&connection.1);
                match self.call_once(method, message, connection).await {
                    Err(Failure::NotSent(why)) => {
                        tracing::debug!(why, "calling etcd again");
                        self.open.lock().await.sender = None;
                        tokio::time::sleep(REPEAT_DELAY).await;
                    }
                    result => return result,
                }
            }
        };
        let result = timeout(CALL_TIMEOUT, calls)
            .await
            .unwrap_or_else(|_| Err(no_answer(method)));
        if result.as_ref().is_err_and(Failure::is_of_server) {
            self.leave(&server).await;
        }
        result
    }

    async fn call_once(
        &self,
        method: &str,
        message: &[u8],
        connection: (SendRequest<Body>, String),
    ) -> Result<Bytes, Failure> {
        let body = Full::new(wire::frame(message)).boxed_unsync();
        let server = connection.1.clone();
        let response = self.send(method, body, connection, false).await?;
        check(response.status().as_u16(), response.headers())?;
        let mut answers = Answers {
            body: response.into_body(),
            buffer: BytesMut::new(),
            server,
        };
        let message = answers.next().await?;
        // A status may also follow a message.
        while answers.next().await?.is_some() {}
        message.ok_or_else(|| Failure::Interrupted("an answer without a message".into()))
    }

    /// Opens a bidirectional stream with a first request. Requests put into the sender
    /// follow it. The server ends the stream when it has no leader.
    pub async fn stream(
        &self,
        method: &str,
        first: &[u8],
        retry_for: Duration,
    ) -> Result<(mpsc::Sender<Bytes>, Answers), Failure> {
        let (sender, receiver) = mpsc::channel::<Bytes>(8);
        let first = futures::stream::once(std::future::ready(wire::frame(first)));
        let rest = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let frames = first
            .chain(rest)
            .map(|message| Ok::<_, Infallible>(Frame::data(message)));
        let body = StreamBody::new(frames).boxed_unsync();
        let mut server = String::new();
        let open = async {
            let connection = self.sender(retry_for).await?;
            server.clone_from(&connection.1);
            let response = self.send(method, body, connection, true).await?;
            check(response.status().as_u16(), response.headers())?;
            Ok(response)
        };
        let response = timeout(CALL_TIMEOUT, open)
            .await
            .unwrap_or_else(|_| Err(no_answer(method)));
        if response.as_ref().is_err_and(Failure::is_of_server) {
            self.leave(&server).await;
        }
        let answers = Answers {
            body: response?.into_body(),
            buffer: BytesMut::new(),
            server,
        };
        Ok((sender, answers))
    }
}

fn no_answer(method: &str) -> Failure {
    Failure::Interrupted(format!("no answer to {method} in {CALL_TIMEOUT:?}"))
}

/// Formats an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Checks the status in headers or trailers.
fn check(http: u16, headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    match text("grpc-status").parse() {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Status {
            code,
            message: text("grpc-message").to_owned(),
        }),
        Err(_) if http == 200 => Ok(()),
        Err(_) => Err(Failure::Interrupted(format!(
            "HTTP {http} from what should be etcd"
        ))),
    }
}

/// The responses of a call.
pub struct Answers {
    body: Incoming,
    buffer: BytesMut,
    server: String,
}

impl Answers {
    /// Returns the server that answers, for [`Channel::leave`].
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Receives the next message; `None` when the call ended successfully.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = wire::unframe(&mut self.buffer) {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(Failure::Interrupted(chain(&e))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            check(200, &trailers)?;
                        }
                    }
                },
            }
        }
    }
}
