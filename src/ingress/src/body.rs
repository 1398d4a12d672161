//! Bodies of requests and responses on their way through the proxy.
//!
//! They are never collected: a part is read when the other side takes it, so that a slow reader
//! holds back its writer.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::access::Record;

/// An error of a body.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The state of a request's body, which its sender watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Whether it is complete.
    pub done: AtomicBool,
    /// Whether it is larger than allowed.
    pub too_large: AtomicBool,
    /// Whether the client has not sent anything for too long.
    pub stalled: AtomicBool,
    /// Whether the client is waited for.
    pub waiting: AtomicBool,
    /// Grows with every part.
    pub parts: AtomicU64,
}

/// The body of a request.
#[derive(Debug)]
pub enum Upload {
    /// Without content.
    Empty,
    /// With content.
    Stream(Box<Stream>),
}

/// Content of a request.
#[derive(Debug)]
pub struct Stream {
    incoming: Incoming,
    left: Option<u64>,
    progress: Arc<Progress>,
    idle: Idle,
}

impl Upload {
    /// Creates a body of at most `limit` bytes, which may pause for `timeout`.
    pub fn new(
        incoming: Incoming,
        limit: Option<u64>,
        timeout: Duration,
        progress: &Arc<Progress>,
    ) -> Self {
        if incoming.is_end_stream() {
            progress.done.store(true, Ordering::Relaxed);
            return Self::Empty;
        }
        Self::Stream(Box::new(Stream {
            incoming,
            left: limit,
            progress: progress.clone(),
            idle: Idle::new(timeout),
        }))
    }

    /// Whether it has no content.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self::Stream(stream) = self.get_mut() else {
            return Poll::Ready(None);
        };
        let stream = &mut **stream;
        let frame = Pin::new(&mut stream.incoming).poll_frame(cx);
        let waiting = frame.is_pending();
        stream.progress.waiting.store(waiting, Ordering::Relaxed);
        if waiting {
            ready!(stream.idle.poll(cx));
            stream.progress.stalled.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err("the client stopped sending the body".into())));
        }
        stream.idle.reset();
        let frame = ready!(frame);
        stream.progress.parts.fetch_add(1, Ordering::Relaxed);
        let Some(frame) = frame.transpose()? else {
            stream.progress.done.store(true, Ordering::Relaxed);
            return Poll::Ready(None);
        };
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        if let Some(left) = &mut stream.left {
            match left.checked_sub(size) {
                Some(rest) => *left = rest,
                None => {
                    stream.progress.too_large.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("the body is larger than allowed".into())));
                }
            }
        }
        if stream.incoming.is_end_stream() {
            stream.progress.done.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}

/// A time limit that starts when its owner begins to wait.
#[derive(Debug)]
struct Idle {
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Idle {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            timer: None,
            running: false,
        }
    }

    fn reset(&mut self) {
        self.running = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = Instant::now() + self.timeout;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if !self.running {
            timer.as_mut().reset(end);
            self.running = true;
        }
        timer.as_mut().poll(cx)
    }
}

/// The body of a response. The access log gets its line when it is dropped.
#[derive(Debug)]
pub struct Download {
    content: Content,
    record: Option<Box<Record>>,
    held: Option<Box<dyn Any + Send>>,
}

#[derive(Debug)]
enum Content {
    Text(Option<Bytes>),
    Stream(Incoming, Idle),
}

impl Download {
    /// Creates a body of the proxy's own.
    pub fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self {
            content: Content::Text((!text.is_empty()).then_some(text)),
            record: None,
            held: None,
        }
    }

    /// Creates a body from a backend's, which may pause for `timeout`.
    pub fn stream(incoming: Incoming, timeout: Duration) -> Self {
        Self {
            content: Content::Stream(incoming, Idle::new(timeout)),
            record: None,
            held: None,
        }
    }

    /// Keeps something until the end.
    pub fn hold(&mut self, guard: impl Any + Send) {
        self.held = Some(Box::new(guard));
    }

    /// Sets the record that is written at the end.
    pub fn record(&mut self, record: Box<Record>) {
        self.record = Some(record);
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Content::Stream(incoming, idle) => {
                let frame = Pin::new(incoming).poll_frame(cx);
                if frame.is_pending() {
                    ready!(idle.poll(cx));
                    return Poll::Ready(Some(Err("the backend stopped sending the body".into())));
                }
                idle.reset();
                ready!(frame).map(|frame| frame.map_err(Into::into))
            }
        };
        if let (Some(Ok(frame)), Some(record)) = (&frame, &mut this.record) {
            record.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.is_none(),
            Content::Stream(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Content::Stream(incoming, _) => incoming.size_hint(),
        }
    }
}
