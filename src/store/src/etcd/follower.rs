//! The progress of a running watch.

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::wire;
use crate::types::Revision;

/// The progress of a running watch, shared by its task and the store.
pub struct Follower {
    /// Everything up to here is in the receiver's channel.
    delivered: watch::Sender<Revision>,
    /// Sends requests on the current stream; `None` while there is none.
    requests: Mutex<Option<mpsc::Sender<Bytes>>>,
    prefix: String,
}

impl Follower {
    /// Creates the follower of the keys that begin with `prefix`, which has delivered
    /// everything up to `after`.
    pub fn new(prefix: &str, after: Revision, requests: mpsc::Sender<Bytes>) -> Self {
        Self {
            delivered: watch::Sender::new(after),
            requests: Mutex::new(Some(requests)),
            prefix: prefix.to_owned(),
        }
    }

    /// Returns the prefix of the keys that are followed.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns whether changes of `key` are delivered.
    pub fn follows(&self, key: &str) -> bool {
        key.starts_with(&self.prefix)
    }

    /// Returns the revision up to which everything has been delivered.
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

    /// Asks etcd for the watch's progress; the response arrives as an empty batch.
    pub fn request_progress(&self) {
        if let Some(requests) = &*self.requests.lock() {
            // Fails when requests are queued, and one of those asks the same.
            let _ = requests.try_send(wire::frame(&wire::watch_progress()));
        }
    }

    /// Notes that everything up to `revision` has been delivered.
    pub fn set_delivered(&self, revision: Revision) {
        self.delivered.send_if_modified(|now| {
            let later = revision > *now;
            *now = revision.max(*now);
            later
        });
    }

    /// Sets where requests go, or that there is no stream.
    pub fn set_requests(&self, requests: Option<mpsc::Sender<Bytes>>) {
        *self.requests.lock() = requests;
    }
}
