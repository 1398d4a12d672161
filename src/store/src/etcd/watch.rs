//! Watches: one stream per watch, opened again when it breaks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::client::{Client, OUT_OF_RANGE, is_internal, prefix_end};
use super::follower::Follower;
use super::grpc::{Answers, Failure};
use super::wire::{self, WatchResponse};
use crate::types::{Change, KeyValue, Revision, StoreError, Watch, WatchBatch};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// The number of batches that may wait for the receiver. Above it, flow control
/// holds etcd's stream back.
const MAX_QUEUED_BATCHES: usize = 256;
/// Timeout of a new watch that waits for a connection.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of etcd's report that a start revision is compacted.
const COMPACTED_TIMEOUT: Duration = Duration::from_secs(2);
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The range of a watch.
struct Target {
    key: String,
    end: Vec<u8>,
}

impl Target {
    fn new(client: &Client, prefix: &str) -> Self {
        let key = client.key(prefix);
        Self {
            end: prefix_end(key.as_bytes()),
            key,
        }
    }
}

/// A watch stream that etcd has confirmed.
struct Stream {
    requests: mpsc::Sender<Bytes>,
    answers: Answers,
}

/// Opens a stream of the changes after revision `after`. Without a connection it
/// retries for `timeout`.
async fn open_stream(
    client: &Client,
    target: &Target,
    after: Revision,
    timeout: Duration,
) -> Result<Stream, StoreError> {
    let request = wire::watch_create(target.key.as_bytes(), &target.end, after + 1);
    let (requests, mut answers) = client.channel.stream(WATCH, &request, timeout).await?;
    let first = next_response(client, &mut answers).await?;
    check_running(&first, after)?;
    if !first.created {
        return Err(StoreError::Unavailable(
            "etcd did not confirm a watch".into(),
        ));
    }
    Ok(Stream { requests, answers })
}

/// Receives the next response of a stream.
async fn next_response(
    client: &Client,
    answers: &mut Answers,
) -> Result<WatchResponse, StoreError> {
    let message = match answers.next().await {
        Ok(Some(message)) => message,
        ended => {
            // Its server has lost its leader, or is stopping.
            client.channel.leave(answers.server()).await;
            ended?;
            return Err(Failure::Interrupted("etcd ended a watch".into()).into());
        }
    };
    let response: WatchResponse = wire::decode(&client.root, message)
        .ok_or_else(|| StoreError::Unavailable("etcd's watch cannot be read".into()))?;
    client.observe(response.revision);
    Ok(response)
}

/// Checks that a response does not end the watch.
fn check_running(response: &WatchResponse, after: Revision) -> Result<(), StoreError> {
    if response.compacted > 0 {
        return Err(StoreError::Compacted {
            asked: after,
            oldest: response.compacted,
        });
    }
    if response.canceled {
        return Err(StoreError::Unavailable(format!(
            "etcd canceled a watch: {}",
            response.reason
        )));
    }
    Ok(())
}

/// Returns the oldest revision that etcd still has, if it is after `revision`.
async fn oldest_revision(client: &Client, revision: Revision) -> Option<Revision> {
    let target = Target::new(client, "");
    let after = revision.saturating_sub(1).max(1);
    let result = match open_stream(client, &target, after, Duration::ZERO).await {
        // etcd reports it in a separate response, after the confirmation.
        Ok(mut stream) => {
            let response = next_response(client, &mut stream.answers);
            match tokio::time::timeout(COMPACTED_TIMEOUT, response).await {
                Ok(Ok(response)) => check_running(&response, revision),
                _ => Ok(()),
            }
        }
        Err(error) => Err(error),
    };
    match result {
        Err(StoreError::Compacted { oldest, .. }) => Some(oldest),
        _ => None,
    }
}

/// Converts the failure of a request at revision `asked`, which etcd may have
/// refused because it is compacted or has not happened yet.
pub(super) async fn revision_error(
    client: &Client,
    asked: Revision,
    failure: Failure,
) -> StoreError {
    match &failure {
        Failure::Status { code, message } if *code == OUT_OF_RANGE => {
            if message.contains("future") {
                return match client.linear_revision().await {
                    Ok(newest) => StoreError::Future { asked, newest },
                    Err(error) => error,
                };
            }
            let oldest = oldest_revision(client, asked).await.unwrap_or(asked + 1);
            StoreError::Compacted { asked, oldest }
        }
        _ => failure.into(),
    }
}

/// Starts a watch of the changes after revision `after`. It ends when its receiver is
/// dropped.
pub(super) async fn start(
    client: &Arc<Client>,
    prefix: &str,
    after: Revision,
) -> Result<Watch, StoreError> {
    let target = Target::new(client, prefix);
    let stream = open_stream(client, &target, after, START_TIMEOUT).await?;
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_BATCHES);
    let follower = Arc::new(Follower::new(prefix, after, stream.requests.clone()));
    client.add_follower(&follower);
    let task = WatchTask {
        client: client.clone(),
        target,
        follower,
        sender,
    };
    tokio::spawn(task.run(stream));
    Ok(receiver)
}

/// Converts a response; `None` if it has nothing to deliver.
fn to_batch(response: WatchResponse) -> Option<WatchBatch> {
    let Some(last) = response.events.last() else {
        // Progress: everything up to the header's revision has been sent.
        return (!response.created).then(|| WatchBatch {
            changes: Vec::new(),
            revision: response.revision,
        });
    };
    // The header's revision may be ahead of events that are still to come.
    let revision = last.now.mod_revision;
    let changes = response
        .events
        .into_iter()
        .filter(|event| !is_internal(&event.now.key))
        .map(to_change)
        .collect();
    Some(WatchBatch { changes, revision })
}

/// Converts an event of etcd into a change of the store.
fn to_change(event: wire::WatchEvent) -> Change {
    let revision = event.now.mod_revision;
    if event.deleted {
        // The state before may be compacted; the key is known in any case.
        let before = event.before.unwrap_or_else(|| {
            Arc::new(KeyValue {
                key: event.now.key.clone(),
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: 0,
            })
        });
        return Change::Delete { before, revision };
    }
    Change::Put {
        now: event.now,
        before: event.before,
    }
}

/// The next event of a stream.
enum Next {
    /// Changes or progress to deliver.
    Batch(WatchBatch),
    /// A response with nothing to deliver.
    Nothing,
    /// The stream has ended and can be opened again.
    Broken(StoreError),
    /// The watch has ended, with the last error for the receiver, if it is there.
    Ended(Option<StoreError>),
}

/// The task that delivers one watch.
struct WatchTask {
    client: Arc<Client>,
    target: Target,
    follower: Arc<Follower>,
    sender: mpsc::Sender<Result<WatchBatch, StoreError>>,
}

impl WatchTask {
    /// Delivers batches until the watch ends, across broken connections.
    async fn run(self, mut stream: Stream) {
        let error = loop {
            match self.next_batch(&mut stream).await {
                Next::Batch(batch) => {
                    let revision = batch.revision;
                    if self.sender.send(Ok(batch)).await.is_err() {
                        return;
                    }
                    self.follower.set_delivered(revision);
                }
                Next::Nothing => {}
                Next::Broken(error) => {
                    self.follower.set_requests(None);
                    tracing::warn!(%error, "a watch of etcd broke, going on from where it was");
                    stream = match self.reconnect().await {
                        Ok(stream) => stream,
                        Err(error) => break error,
                    };
                    self.follower.set_requests(Some(stream.requests.clone()));
                    tracing::info!("a watch of etcd goes on");
                }
                Next::Ended(error) => {
                    self.follower.set_requests(None);
                    break error;
                }
            }
        };
        if let Some(error) = error {
            // Fails only if the receiver is gone, and then the error is not needed.
            let _ = self.sender.send(Err(error)).await;
        }
    }

    /// Waits for the next response of the stream.
    async fn next_batch(&self, stream: &mut Stream) -> Next {
        let response = tokio::select! {
            () = self.sender.closed() => return Next::Ended(None),
            () = self.client.closing.cancelled() => return Next::Ended(Some(StoreError::Closed)),
            response = next_response(&self.client, &mut stream.answers) => response,
        };
        let checked = response.and_then(|response| {
            check_running(&response, self.follower.revision())?;
            Ok(response)
        });
        match checked {
            Ok(response) => to_batch(response).map_or(Next::Nothing, Next::Batch),
            Err(error @ StoreError::Unavailable(_)) => Next::Broken(error),
            Err(error) => Next::Ended(Some(error)),
        }
    }

    /// Opens the stream again after the last delivered revision, for as long as etcd
    /// is unavailable.
    ///
    /// # Errors
    /// The last error for the receiver, or `None` if it is gone or the store closes.
    async fn reconnect(&self) -> Result<Stream, Option<StoreError>> {
        let mut backoff = MIN_BACKOFF;
        loop {
            tokio::select! {
                () = self.sender.closed() => return Err(None),
                () = self.client.closing.cancelled() => return Err(None),
                () = tokio::time::sleep(backoff) => {}
            }
            let after = self.follower.revision();
            match open_stream(&self.client, &self.target, after, Duration::ZERO).await {
                Ok(stream) => return Ok(stream),
                Err(StoreError::Unavailable(reason)) => {
                    tracing::debug!(reason, "etcd is unavailable");
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
                Err(error) => return Err(Some(error)),
            }
        }
    }
}
