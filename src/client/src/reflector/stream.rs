//! The changes of a source as a stream, for loops that have more to wait for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use kube::Client;
use parking_lot::Mutex;

use super::types::{Listed, Sink, Source, Unreadable, Versioned};

/// A change of a source.
#[derive(Clone, Debug)]
pub enum Event<K> {
    /// These are all objects: see [`Sink::replace`].
    Listed(Listed<K>),
    /// An object was added or updated.
    Applied(K),
    /// An object was deleted.
    Deleted(K),
    /// An object was added or updated and cannot be read. What is known of it stays.
    Unreadable(Unreadable),
    /// The list or watch failed with this error and is tried again.
    Failed(String),
}

/// A stream of the changes of a source. It never ends; dropping it ends the watch.
///
/// The watch is read only while the stream is polled, so that a receiver that does not keep up holds
/// up the server instead of filling memory.
pub struct Changes<K> {
    run: BoxFuture<'static, ()>,
    pending: Arc<Pending<K>>,
}

struct Pending<K>(Mutex<VecDeque<Event<K>>>);

impl<K: Versioned> Changes<K> {
    /// Lists and watches `source` as soon as the stream is polled.
    pub fn new(client: Client, source: Source) -> Self {
        let pending = Arc::new(Pending(Mutex::default()));
        Self {
            run: Box::pin(super::reflect(client, source, pending.clone())),
            pending,
        }
    }
}

impl<K> Pending<K> {
    fn push(&self, event: Event<K>) {
        self.0.lock().push_back(event);
    }
}

impl<K: Versioned> Sink<K> for Pending<K> {
    fn replace(&self, list: Listed<K>) {
        self.push(Event::Listed(list));
    }

    fn apply(&self, object: K) {
        self.push(Event::Applied(object));
    }

    fn remove(&self, object: K) {
        self.push(Event::Deleted(object));
    }

    fn unreadable(&self, object: Unreadable) {
        self.push(Event::Unreadable(object));
    }

    fn failed(&self, error: &kube::Error) {
        self.push(Event::Failed(error.to_string()));
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        // Needs no waker: the stream polls the watch again once it has handed everything out.
        let is_empty = |_: &mut Context<'_>| match self.0.lock().is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        };
        let is_idle = self.0.lock().is_empty();
        (!is_idle).then(|| Box::pin(std::future::poll_fn(is_empty)) as BoxFuture<'_, ()>)
    }
}

impl<K: Versioned> Stream for Changes<K> {
    type Item = Event<K>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event<K>>> {
        if let Some(event) = self.pending.0.lock().pop_front() {
            return Poll::Ready(Some(event));
        }
        let ended = self.run.as_mut().poll(context);
        match (self.pending.0.lock().pop_front(), ended) {
            (Some(event), _) => Poll::Ready(Some(event)),
            (None, Poll::Ready(())) => Poll::Ready(None),
            (None, Poll::Pending) => Poll::Pending,
        }
    }
}
