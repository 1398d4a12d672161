//! Queues of bytes with a limit: a reader that stops reading holds up the writer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// A number of bytes that may wait in the queues that share it.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes: Arc<Semaphore>,
    limit: u32,
}

/// The writing end of a queue.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    budget: Budget,
}

/// The reading end of a queue. Dropping it returns the bytes that wait to the budget.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
}

/// Error returned for a queue whose receiver was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver of the bytes is gone")]
pub struct Closed;

impl Budget {
    /// Returns a budget of `limit` bytes.
    pub fn new(limit: u32) -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(limit as usize)),
            limit,
        }
    }

    /// Returns a queue for at most `messages` messages, whose bytes count in this budget.
    pub fn queue(&self, messages: usize) -> (Sender, Receiver) {
        let (sender, queue) = mpsc::channel(messages);
        let sender = Sender {
            queue: sender,
            budget: self.clone(),
        };
        (sender, Receiver { queue })
    }
}

impl Sender {
    /// Appends a message once the budget has room for it. One that exceeds the whole budget waits
    /// until nothing else does.
    ///
    /// # Errors
    ///
    /// Fails if the receiver was dropped, also while waiting.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Closed> {
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let count = count.min(self.budget.limit);
        let permit = tokio::select! {
            permit = self.budget.bytes.clone().acquire_many_owned(count) => permit,
            () = self.queue.closed() => return Err(Closed),
        };
        // The semaphore is never closed.
        let permit = permit.map_err(|_| Closed)?;
        self.queue.send((bytes, permit)).await.map_err(|_| Closed)
    }
}

impl Receiver {
    /// Returns the next message; `None` once all senders are dropped.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let (bytes, _permit) = self.queue.recv().await?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn bytes(count: usize) -> Bytes {
        vec![0; count].into()
    }

    #[tokio::test]
    async fn writers_wait_for_readers() {
        let budget = Budget::new(10);
        let (sender, mut receiver) = budget.queue(100);
        sender.send(bytes(6)).await.unwrap();
        let mut second = Box::pin(sender.send(bytes(6)));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(receiver.recv().await.unwrap().len(), 6);
        second.await.unwrap();
        // Larger than the budget: alone, it fits.
        let mut third = Box::pin(sender.send(bytes(50)));
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(receiver.recv().await.unwrap().len(), 6);
        third.await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().len(), 50);
    }

    #[tokio::test]
    async fn messages_are_counted_too() {
        let (sender, _receiver) = Budget::new(10).queue(1);
        sender.send(bytes(0)).await.unwrap();
        assert!(sender.send(bytes(0)).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_dropped_reader_frees_the_budget() {
        let budget = Budget::new(10);
        let (first, gone) = budget.queue(100);
        let (second, mut receiver) = budget.queue(100);
        first.send(bytes(10)).await.unwrap();
        let mut waiting = Box::pin(second.send(bytes(10)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(gone);
        waiting.await.unwrap();
        assert_eq!(first.send(bytes(1)).await, Err(Closed));
        assert!(receiver.recv().await.is_some());
        drop(second);
        assert!(receiver.recv().await.is_none());
    }
}
