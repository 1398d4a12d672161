//! Responses of the Docker Engine API.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use rkube_failure::{Failure, Kind};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request that fails.
#[derive(Debug)]
pub struct Error {
    /// The status of the response.
    pub status: StatusCode,
    /// The message for the user.
    pub message: String,
}

impl Error {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// Returns the error of something that the endpoint does not do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// Returns the error as Docker's clients read it.
    pub fn response(&self) -> Response<Body> {
        let mut response = json(&serde_json::json!({ "message": self.message }));
        *response.status_mut() = self.status;
        response
    }
}

/// Returns what failed and what to do about it, in one text.
pub fn words(failure: &Failure) -> String {
    match &failure.advice {
        Some(advice) => format!("{} ({advice})", failure.message),
        None => failure.message.clone(),
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let status = match failure.kind {
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Usage | Kind::Config => StatusCode::BAD_REQUEST,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Permission => StatusCode::FORBIDDEN,
            Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Kind::NotRunning => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Error | Kind::Timeout | Kind::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, words(&failure))
    }
}

/// Returns a body that is already complete.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    let body = Full::new(bytes.into());
    body.map_err(|never| match never {}).boxed_unsync()
}

fn typed(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Returns a response without content.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Returns a short text.
pub fn text(text: &'static str) -> Response<Body> {
    typed("text/plain; charset=utf-8", full(text))
}

/// Returns a document.
pub fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => typed("application/json", full(bytes)),
        Err(e) => {
            let mut response = typed("text/plain; charset=utf-8", full(e.to_string()));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Returns an archive that is sent as it comes.
pub fn archive(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response<Body> {
    let frames = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
    typed("application/x-tar", frames.boxed_unsync())
}

/// The number of messages at which their source waits for the client.
const MAX_QUEUE: usize = 1024;

/// The messages that the client has not read yet.
#[derive(Default)]
struct Queue {
    length: AtomicUsize,
    /// Tells that the client has read one.
    read: Notify,
}

/// Sends messages to a client: JSON documents, one per line.
#[derive(Clone)]
pub struct Messages {
    sender: mpsc::UnboundedSender<Bytes>,
    queue: Arc<Queue>,
}

impl Messages {
    /// Returns a sender, and the response with what it sends.
    pub fn open() -> (Self, Response<Body>) {
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        let queue = Arc::new(Queue::default());
        let start = (receiver, queue.clone());
        let pieces = futures::stream::unfold(start, |(mut receiver, queue)| async move {
            let piece = receiver.recv().await?;
            queue.length.fetch_sub(1, Ordering::Relaxed);
            queue.read.notify_waiters();
            Some((Ok(Frame::data(piece)), (receiver, queue)))
        });
        let body = StreamBody::new(pieces).boxed_unsync();
        (Self { sender, queue }, typed("application/json", body))
    }

    /// Sends a message. It is lost if the client is gone. Senders of many messages wait for
    /// [`Self::room`] before each.
    pub fn send(&self, message: &serde_json::Value) {
        // Before the message can be read.
        self.queue.length.fetch_add(1, Ordering::Relaxed);
        // The client is gone, which `closed` tells.
        let _ = self.sender.send(format!("{message}\r\n").into());
    }

    /// Waits until the client has read enough for another message, or is gone.
    pub async fn room(&self) {
        loop {
            let read = self.queue.read.notified();
            if self.queue.length.load(Ordering::Relaxed) < MAX_QUEUE {
                return;
            }
            tokio::select! {
                () = read => {}
                () = self.closed() => return,
            }
        }
    }

    /// Sends a line of output.
    pub fn line(&self, text: &str) {
        self.send(&serde_json::json!({ "stream": format!("{text}\n") }));
    }

    /// Sends a state.
    pub fn status(&self, text: &str) {
        self.send(&serde_json::json!({ "status": text }));
    }

    /// Sends the reason of a failure, with which the messages end.
    pub fn error(&self, code: i32, message: &str) {
        self.send(&serde_json::json!({
            "errorDetail": { "code": code, "message": message },
            "error": message,
        }));
    }

    /// Resolves when the client is gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_waited_for() {
        let (messages, mut response) = Messages::open();
        let mut sent = 0;
        while messages.room().now_or_never().is_some() {
            messages.status("s");
            sent += 1;
            assert!(sent <= MAX_QUEUE, "the queue has no end");
        }
        assert_eq!(sent, MAX_QUEUE);
        let read = async { response.body_mut().frame().await };
        let ((), frame) = tokio::join!(messages.room(), read);
        assert!(frame.is_some());
        messages.status("s");
        assert!(messages.room().now_or_never().is_none());
        drop(response);
        messages.room().await;
    }
}
