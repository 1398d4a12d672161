//! The client: one connection to a plugin's socket.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Code, Status, chain, frame, unframe};
use crate::wire::Message;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A connection to a server on a Unix socket. Clones share it.
#[derive(Clone, Debug)]
pub struct Channel {
    path: PathBuf,
    sender: SendRequest<Body>,
    open: watch::Receiver<bool>,
}

impl Channel {
    /// Connects to the socket, within `limit`.
    ///
    /// # Errors
    ///
    /// Fails if nothing listens there, or it does not speak HTTP/2 in time.
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, Status> {
        timeout(limit, Self::open(path))
            .await
            .unwrap_or_else(|_| Err(Status::late()))
    }

    async fn open(path: &Path) -> Result<Self, Status> {
        let socket = UnixStream::connect(path).await.map_err(|e| {
            let reason = e.raw_os_error().map(nix::errno::Errno::from_raw);
            let reason = reason.map_or_else(|| e.to_string(), |r| r.desc().to_lowercase());
            let path = path.display();
            Status::unavailable(format!(
                "Error while dialing: dial unix {path}: connect: {reason}"
            ))
        })?;
        let (mut sender, connection) = Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|e| Status::unavailable(chain(&e)))?;
        let (alive, open) = watch::channel(true);
        let socket = path.to_owned();
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(socket = %socket.display(), "connection: {}", chain(&e));
            }
            alive.send_replace(false);
        });
        sender
            .ready()
            .await
            .map_err(|e| Status::unavailable(chain(&e)))?;
        Ok(Self {
            path: path.to_owned(),
            sender,
            open,
        })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the connection is open.
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Waits until the connection is closed.
    pub async fn closed(&self) {
        let mut open = self.open.clone();
        // An error means that the connection's task is gone, too.
        let _ = open.wait_for(|open| !open).await;
    }

    async fn send(&self, method: &str, message: Vec<u8>) -> Result<Incoming, Status> {
        let mut sender = self.sender.clone();
        sender
            .ready()
            .await
            .map_err(|e| Status::unavailable(chain(&e)))?;
        let uri = Uri::builder()
            .scheme("http")
            .authority("localhost")
            .path_and_query(method)
            .build()
            .map_err(|e| Status::new(Code::Internal, e.to_string()))?;
        let mut request = Request::new(Full::new(frame(&message)).boxed_unsync());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(header::CONTENT_TYPE, grpc);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| Status::unavailable(chain(&e)))?;
        if let Some(Err(status)) = Status::of(response.headers()) {
            return Err(status);
        }
        if response.status() != http::StatusCode::OK {
            return Err(Status::new(
                Code::Unknown,
                format!(
                    "unexpected HTTP status code received from server: {}",
                    response.status()
                ),
            ));
        }
        Ok(response.into_body())
    }

    /// Calls a method that answers once, within `limit`.
    ///
    /// # Errors
    ///
    /// Fails with the server's status, or with that of a connection that broke or a limit that
    /// passed.
    pub async fn call<Q: Message, A: Message>(
        &self,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, Status> {
        let call = async {
            let mut stream = Stream::<A>::new(self.send(method, request.encode()).await?);
            let answer = stream.next().await?;
            // A status may also follow a message.
            while stream.next().await?.is_some() {}
            let none = || Status::new(Code::Internal, "cardinality violation: no message");
            answer.ok_or_else(none)
        };
        timeout(limit, call)
            .await
            .unwrap_or_else(|_| Err(Status::late()))
    }

    /// Calls a method that answers with a stream. The server must accept it within `limit`.
    ///
    /// # Errors
    ///
    /// As [`Channel::call`].
    pub async fn stream<Q: Message, A: Message>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<Stream<A>, Status> {
        // No time limit: a server may send its headers with the first message only.
        Ok(Stream::new(self.send(method, request.encode()).await?))
    }
}

/// The answers of a call.
pub struct Stream<A> {
    body: Incoming,
    buffer: BytesMut,
    answers: PhantomData<fn() -> A>,
}

impl<A: Message> Stream<A> {
    fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            answers: PhantomData,
        }
    }

    /// Receives the next answer; `None` when the call ended successfully.
    ///
    /// # Errors
    ///
    /// Fails with the status that ended the call.
    pub async fn next(&mut self) -> Result<Option<A>, Status> {
        loop {
            if let Some(message) = unframe(&mut self.buffer)? {
                let answer = A::decode(&message).map_err(|e| {
                    let why = format!("grpc: failed to unmarshal the received message: {e}");
                    Status::new(Code::Internal, why)
                })?;
                return Ok(Some(answer));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|e| Status::unavailable(chain(&e)))?;
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(other) => {
                    let trailers = other.into_trailers().unwrap_or_default();
                    Status::of(&trailers).unwrap_or(Ok(()))?;
                }
            }
        }
    }
}
