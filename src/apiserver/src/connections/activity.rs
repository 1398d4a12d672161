//! The activity of one connection: whether it is idle, and whether its client wastes requests.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::body::{Body, BoxError};

/// Maximum excess of the requests that a client cancels before the answer over those that it
/// completes. Clients cancel when they stop or run out of time. Hostile ones do so to have work
/// done that no limit of concurrent requests counts (CVE-2023-44487).
const MAX_CANCELLED: usize = 500;

/// The requests of one connection.
#[derive(Debug)]
pub struct Activity {
    began: Instant,
    /// Requests whose response is not sent in full.
    running: AtomicUsize,
    /// The time at which the last of them ended, in milliseconds since `began`.
    ended: AtomicU64,
    /// The excess of cancelled requests over answered ones.
    cancelled: AtomicUsize,
    /// Notified when the connection is to be closed after the running requests.
    end: Notify,
    /// Notified when the connection is to be closed at once.
    cut: Notify,
}

/// A request of a connection, until its response is sent or given up.
#[derive(Debug)]
pub struct Running {
    activity: Arc<Activity>,
    answered: bool,
}

impl Activity {
    /// Returns the activity of a new connection.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            running: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            cancelled: AtomicUsize::new(0),
            end: Notify::new(),
            cut: Notify::new(),
        })
    }

    /// Begins a request.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running {
            activity: self.clone(),
            answered: false,
        }
    }

    /// Asks for the end of the connection.
    pub fn end(&self) {
        self.end.notify_one();
    }

    /// Completes when the end of the connection was asked for.
    pub async fn ended(&self) {
        self.end.notified().await;
    }

    /// Completes when the client cancels too many requests.
    pub async fn abused(&self) {
        self.cut.notified().await;
    }

    /// Completes when there was no request for the time `limit`, counted from the call.
    ///
    /// Looks when the time is over, without a notification for each request: then busy connections
    /// cost nothing. A connection may thus be idle for almost twice that time.
    pub async fn idle(&self, limit: Duration) {
        let asked = self.began.elapsed();
        loop {
            let left = match self.running.load(Ordering::Relaxed) {
                0 => {
                    let ended = Duration::from_millis(self.ended.load(Ordering::Relaxed));
                    (ended.max(asked) + limit).saturating_sub(self.began.elapsed())
                }
                _ => limit,
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

impl Running {
    /// Notes that there is a response.
    pub fn answer(&mut self) {
        self.answered = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let activity = &self.activity;
        let now = u64::try_from(activity.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        activity.ended.fetch_max(now, Ordering::Relaxed);
        activity.running.fetch_sub(1, Ordering::Relaxed);
        let change = |count: usize| match self.answered {
            true => Some(count.saturating_sub(1)),
            false => Some(count.saturating_add(1)),
        };
        let before = activity
            .cancelled
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        if !self.answered && before.is_ok_and(|count| count >= MAX_CANCELLED) {
            activity.cut.notify_one();
        }
    }
}

/// A response's body, until whose end the request runs.
pub struct TrackedBody {
    body: Body,
    _running: Running,
}

impl TrackedBody {
    /// Returns the body of a response to the request.
    pub fn new(body: Body, running: Running) -> Self {
        Self {
            body,
            _running: running,
        }
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_without_requests_is_idle() {
        let limit = Duration::from_millis(20);
        let activity = Activity::new();
        let began = Instant::now();
        activity.idle(limit).await;
        assert!(began.elapsed() >= limit);

        let running = activity.begin();
        let idle = tokio::spawn({
            let activity = activity.clone();
            async move { activity.idle(limit).await }
        });
        tokio::time::sleep(5 * limit).await;
        assert!(!idle.is_finished(), "a long request is no idleness");
        drop(running);
        idle.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_cancels_all_requests_is_disconnected() {
        let activity = Activity::new();
        // As many answers as cancellations are no reason.
        for _ in 0..2 * MAX_CANCELLED {
            drop(activity.begin());
            let mut running = activity.begin();
            running.answer();
        }
        assert!(activity.abused().now_or_never().is_none());
        for _ in 0..=MAX_CANCELLED {
            drop(activity.begin());
        }
        assert!(activity.abused().now_or_never().is_some());
    }
}
