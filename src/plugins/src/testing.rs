//! Plugins for tests: they answer on real sockets as they are told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::grpc::{self, Reply, Service, Status};
use crate::wire::Message;

type Answers = mpsc::Receiver<Result<Vec<u8>, Status>>;
type Answer = dyn Fn(Bytes) -> Result<Vec<u8>, Status> + Send + Sync;

/// A plugin on a socket. It ends when it is dropped.
#[derive(Default)]
pub(crate) struct Fake {
    answers: BTreeMap<&'static str, Arc<Answer>>,
    streams: Mutex<BTreeMap<&'static str, Answers>>,
    hanging: Vec<&'static str>,
    calls: Arc<Mutex<Vec<String>>>,
}

/// A running plugin.
pub(crate) struct Running {
    task: tokio::task::JoinHandle<()>,
    /// The methods that were called.
    pub calls: Arc<Mutex<Vec<String>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Ends the plugin.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        // An aborted task ends with an error.
        let _ = (&mut self.task).await;
    }
}

impl Fake {
    /// Answers a method.
    pub(crate) fn on<Q: Message, A: Message>(
        mut self,
        method: &'static str,
        answer: impl Fn(Q) -> Result<A, Status> + Send + Sync + 'static,
    ) -> Self {
        let answer = move |request: Bytes| {
            let request = Q::decode(&request).expect("a request");
            answer(request).map(|a| a.encode())
        };
        self.answers.insert(method, Arc::new(answer));
        self
    }

    /// Streams what is sent.
    pub(crate) fn streaming<A: Message>(self, method: &'static str) -> (Self, Sender<A>) {
        let (sender, receiver) = mpsc::channel(8);
        self.streams.lock().insert(method, receiver);
        (self, Sender(sender, std::marker::PhantomData))
    }

    /// Never answers a method.
    pub(crate) fn hanging(mut self, method: &'static str) -> Self {
        self.hanging.push(method);
        self
    }

    /// Listens on a socket.
    pub(crate) fn listen(self, socket: &Path) -> Running {
        let calls = self.calls.clone();
        let listener = grpc::listen(socket).expect("a socket");
        let task = tokio::spawn(grpc::serve(listener, Arc::new(self)));
        Running { task, calls }
    }
}

/// Sends messages of a stream.
pub(crate) struct Sender<A>(
    mpsc::Sender<Result<Vec<u8>, Status>>,
    std::marker::PhantomData<A>,
);

impl<A: Message> Sender<A> {
    pub(crate) async fn send(&self, message: A) {
        self.0.send(Ok(message.encode())).await.expect("a reader");
    }
}

impl Service for Fake {
    fn call(
        &self,
        method: &str,
        request: Bytes,
    ) -> Option<BoxFuture<'static, Result<Reply, Status>>> {
        self.calls
            .lock()
            .push(method.rsplit('/').next().unwrap_or_default().to_owned());
        if self.hanging.contains(&method) {
            return Some(Box::pin(std::future::pending()));
        }
        if let Some(receiver) = self.streams.lock().remove(method) {
            return Some(Box::pin(async { Ok(Reply::Many(receiver)) }));
        }
        let answer = self.answers.get(method)?.clone();
        Some(Box::pin(async move { answer(request).map(Reply::One) }))
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
