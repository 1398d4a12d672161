//! The server: services on a Unix socket.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::authority::Named;
use super::{Code, MAX_MESSAGE, Status, chain, frame, unframe};
use crate::wire::Message;

/// The answers of a method.
pub enum Reply {
    /// One message.
    One(Vec<u8>),
    /// Messages until the sender is dropped; a failure ends them.
    Many(mpsc::Receiver<Result<Vec<u8>, Status>>),
}

/// Returns a reply with one message.
pub fn answer(message: &impl Message) -> Result<Reply, Status> {
    Ok(Reply::One(message.encode()))
}

/// What a server serves.
pub trait Service: Send + Sync + 'static {
    /// Answers a call; `None` if there is no such method.
    fn call(
        &self,
        method: &str,
        request: Bytes,
    ) -> Option<BoxFuture<'static, Result<Reply, Status>>>;
}

/// Listens on a socket that only root can connect to. Removes what is at its path, and makes missing
/// directories.
///
/// # Errors
///
/// Fails if the directory cannot be made or written.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        // Somebody mounted the path before there was a socket.
        Err(_) if path.is_dir() => std::fs::remove_dir(path)?,
        done => done?,
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    Ok(listener)
}

/// Serves connections until the future is dropped; connections end with it.
pub async fn serve(listener: UnixListener, service: Arc<dyn Service>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(socket, service.clone()));
                }
                Err(e) => {
                    // No more files, for example: others may be closed soon.
                    tracing::warn!("a plugin's connection: {e}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(socket: tokio::net::UnixStream, service: Arc<dyn Service>) {
    let calls = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(respond(service.as_ref(), request).await) }
    });
    let done = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(64)
        .serve_connection(TokioIo::new(Named::new(socket)), calls)
        .await;
    if let Err(e) = done {
        tracing::debug!("a connection to the node agent's socket: {}", chain(&e));
    }
}

type Frames = Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

async fn respond(
    service: &dyn Service,
    request: Request<Incoming>,
) -> Response<StreamBody<Frames>> {
    let method = request.uri().path().to_owned();
    let reply = match message(request.into_body()).await {
        Ok(message) => match service.call(&method, message) {
            Some(reply) => reply.await,
            None => Err(unknown(&method)),
        },
        Err(status) => Err(status),
    };
    let end = |result: Result<(), Status>| Frame::trailers(Status::trailers(&result));
    let frames: Frames = match reply {
        Ok(Reply::One(message)) => {
            let frames = [Frame::data(frame(&message)), end(Ok(()))];
            Box::pin(futures::stream::iter(frames.map(Ok)))
        }
        Err(status) => Box::pin(futures::stream::iter([Ok(end(Err(status)))])),
        Ok(Reply::Many(receiver)) => {
            let frames = futures::stream::unfold(Some(receiver), move |receiver| async move {
                let mut receiver = receiver?;
                Some(match receiver.recv().await {
                    Some(Ok(message)) => (Ok(Frame::data(frame(&message))), Some(receiver)),
                    Some(Err(status)) => (Ok(end(Err(status))), None),
                    None => (Ok(end(Ok(()))), None),
                })
            });
            frames.boxed()
        }
    };
    let mut response = Response::new(StreamBody::new(frames));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// Returns the failure of a call to a method that is not served, in Go's words.
fn unknown(method: &str) -> Status {
    let path = method.strip_prefix('/').unwrap_or(method);
    let message = match path.rsplit_once('/') {
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {method:?}"),
    };
    Status::new(Code::Unimplemented, message)
}

/// Reads the request's message.
async fn message(mut body: Incoming) -> Result<Bytes, Status> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(message) = unframe(&mut buffer)? {
            return Ok(message);
        }
        if buffer.len() > MAX_MESSAGE + 5 {
            return Err(Status::new(Code::ResourceExhausted, "too much data"));
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    buffer.extend_from_slice(&data);
                }
            }
            Some(Err(e)) => return Err(Status::new(Code::Canceled, chain(&e))),
            None => return Err(Status::new(Code::Internal, "a call without a message")),
        }
    }
}
