//! Watches: a stream each, made again when it breaks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::grpc::{Answers, Failure};
use super::wire::{self, WatchResponse};
use super::{Shared, change, is_own, prefix_end};
use crate::{Revision, StoreError, Watch, WatchBatch};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Batches that wait for the receiver; beyond, etcd's stream is held back.
const BUFFER: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the store knows of a running watch.
pub struct Follower {
    /// Everything up to here is in the receiver's channel.
    delivered: watch::Sender<Revision>,
    /// Where requests on the present stream go.
    requests: parking_lot::Mutex<Option<mpsc::Sender<Bytes>>>,
    prefix: String,
}

impl Follower {
    /// What the keys begin with that are followed.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether changes of `key` are delivered.
    pub fn follows(&self, key: &str) -> bool {
        key.starts_with(&self.prefix)
    }

    /// Everything up to here has been delivered.
    pub fn revision(&self) -> Revision {
        *self.delivered.borrow()
    }

    /// Waits until everything up to `revision` has been delivered.
    pub async fn reached(&self, revision: Revision) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .delivered
            .subscribe()
            .wait_for(|now| *now >= revision)
            .await;
    }

    /// Asks etcd how far the watch is; the answer comes as an empty batch.
    pub fn ask_for_progress(&self) {
        if let Some(requests) = &*self.requests.lock() {
            // When others are waiting to go out, one of them asks the same.
            let _ = requests.try_send(wire::frame(&wire::watch_progress()));
        }
    }

    fn delivered(&self, revision: Revision) {
        self.delivered.send_if_modified(|now| {
            let later = revision > *now;
            *now = revision.max(*now);
            later
        });
    }
}

/// One watch's range.
struct Target {
    key: String,
    end: Vec<u8>,
}

/// A stream that etcd has confirmed.
struct Stream {
    requests: mpsc::Sender<Bytes>,
    answers: Answers,
}

/// Begins a stream after revision `after`.
async fn begin(
    shared: &Shared,
    target: &Target,
    after: Revision,
    patience: Duration,
) -> Result<Stream, StoreError> {
    let request = wire::watch_create(target.key.as_bytes(), &target.end, after + 1);
    let (requests, mut answers) = shared.channel.stream(WATCH, &request, patience).await?;
    let first = next(shared, &mut answers).await?;
    compacted_or_canceled(&first, after)?;
    if !first.created {
        return Err(StoreError::Unavailable(
            "etcd did not confirm a watch".into(),
        ));
    }
    Ok(Stream { requests, answers })
}

async fn next(shared: &Shared, answers: &mut Answers) -> Result<WatchResponse, StoreError> {
    let message = answers
        .next()
        .await?
        .ok_or_else(|| Failure::Interrupted("etcd ended a watch".into()))?;
    let response = WatchResponse::decode(&shared.root, message)
        .ok_or_else(|| StoreError::Unavailable("etcd's watch cannot be read".into()))?;
    shared.saw(response.revision);
    Ok(response)
}

fn compacted_or_canceled(response: &WatchResponse, after: Revision) -> Result<(), StoreError> {
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

/// To which revision etcd is compacted, if that is after `revision`.
pub async fn compacted(shared: &Shared, revision: Revision) -> Option<Revision> {
    let key = shared.key("");
    let target = Target {
        end: prefix_end(key.as_bytes()),
        key,
    };
    let stream = begin(
        shared,
        &target,
        revision.saturating_sub(1).max(1),
        Duration::ZERO,
    )
    .await;
    let result = match stream {
        // etcd says so in an answer of its own, after the confirmation.
        Ok(mut stream) => {
            let response =
                tokio::time::timeout(Duration::from_secs(2), next(shared, &mut stream.answers))
                    .await;
            match response {
                Ok(Ok(response)) => compacted_or_canceled(&response, revision),
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

/// Starts a watch that follows until its receiver goes.
pub async fn start(
    shared: &Arc<Shared>,
    prefix: &str,
    after: Revision,
) -> Result<Watch, StoreError> {
    let key = shared.key(prefix);
    let target = Target {
        end: prefix_end(key.as_bytes()),
        key,
    };
    let stream = begin(shared, &target, after, Duration::from_secs(5)).await?;
    let (sender, receiver) = mpsc::channel(BUFFER);
    let follower = Arc::new(Follower {
        delivered: watch::Sender::new(after),
        requests: parking_lot::Mutex::new(Some(stream.requests.clone())),
        prefix: prefix.to_owned(),
    });
    shared.followers.lock().push(Arc::downgrade(&follower));
    tokio::spawn(follow(shared.clone(), target, follower, stream, sender));
    Ok(receiver)
}

/// What an answer delivers; `None` when it tells nothing.
fn batch(response: WatchResponse) -> Option<WatchBatch> {
    let Some(last) = response.events.last() else {
        // Progress: everything up to the header's revision has been sent.
        return (!response.created).then(|| WatchBatch {
            changes: Vec::new(),
            revision: response.revision,
        });
    };
    // The header may be ahead of the events that are still to come.
    let revision = last.now.mod_revision;
    let changes = response
        .events
        .into_iter()
        .filter(|event| !is_own(&event.now.key))
        .map(change)
        .collect();
    Some(WatchBatch { changes, revision })
}

async fn follow(
    shared: Arc<Shared>,
    target: Target,
    follower: Arc<Follower>,
    mut stream: Stream,
    sender: mpsc::Sender<Result<WatchBatch, StoreError>>,
) {
    loop {
        let ended = tokio::select! {
            () = sender.closed() => return,
            () = shared.closing.cancelled() => {
                let _ = sender.send(Err(StoreError::Closed)).await;
                return;
            }
            response = next(&shared, &mut stream.answers) => match response {
                Ok(response) => {
                    match compacted_or_canceled(&response, follower.revision()) {
                        Ok(()) => {
                            if let Some(batch) = batch(response) {
                                let revision = batch.revision;
                                if sender.send(Ok(batch)).await.is_err() {
                                    return;
                                }
                                follower.delivered(revision);
                            }
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            },
        };
        follower.requests.lock().take();
        if !matches!(ended, StoreError::Unavailable(_)) {
            let _ = sender.send(Err(ended)).await;
            return;
        }
        tracing::warn!(error = %ended, "a watch of etcd broke, going on from where it was");
        let mut pause = FIRST_PAUSE;
        stream = loop {
            tokio::select! {
                () = sender.closed() => return,
                () = shared.closing.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match begin(&shared, &target, follower.revision(), Duration::ZERO).await {
                Ok(stream) => break stream,
                Err(StoreError::Unavailable(why)) => {
                    tracing::debug!(why, "etcd is away");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        };
        *follower.requests.lock() = Some(stream.requests.clone());
        tracing::info!("a watch of etcd goes on");
    }
}
