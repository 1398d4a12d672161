//! The connection to etcd and the requests that a store makes over it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::follower::Follower;
use super::grpc::{Channel, Failure};
use super::wire::{self, Range, RangeResponse, TxnResponse};
use crate::types::{Expect, KeyValue, Revision, StoreError};

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";

/// The gRPC code with which etcd refuses a request that is too large.
const INVALID_ARGUMENT: u32 = 3;
/// The gRPC code with which etcd refuses a revision that is compacted or has not
/// happened yet.
pub(super) const OUT_OF_RANGE: u32 = 11;

/// The longest key in bytes. Values have no limit here: etcd refuses requests above
/// its own, 1.5 MiB by default.
const MAX_KEY_BYTES: usize = 4096;
/// Timeout of a write until the store's own watches have delivered it.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that a read of the revision waits for events in transit, with servers whose
/// progress responses may overtake events.
const IN_TRANSIT_TIMEOUT: Duration = Duration::from_millis(20);
/// The key, relative to the root, by which API servers elect the one that compacts.
pub(super) const COMPACT_KEY: &str = "/compact_rev_key";
/// A key that is read only to learn etcd's revision. It never exists.
pub(super) const CLOCK_KEY: &str = "/clock";
/// The suffix of keys whose writes advance the watches of old servers. It follows a
/// watch's prefix, as a watch only receives events of its range. No object's name
/// may contain a `%`.
const SYNC_NAME: &str = "%sync";

/// A connection and what is known of the store behind it.
pub(super) struct Client {
    /// The connection.
    pub channel: Channel,
    /// The prefix of all keys.
    pub root: String,
    /// The newest revision in any response.
    newest: AtomicU64,
    /// Whether a response to a progress request cannot overtake events.
    reports_progress: AtomicBool,
    /// The running watches.
    followers: Mutex<Vec<Weak<Follower>>>,
    /// Orders linearized reads of the revision, so that concurrent callers share one.
    clock: AtomicU64,
    /// Start of the last such read, and its result.
    linear: tokio::sync::Mutex<(u64, Revision)>,
    /// Cancelled when the store is dropped.
    pub closing: CancellationToken,
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        StoreError::Unavailable(failure.to_string())
    }
}

/// The error for a response that cannot be decoded.
pub(super) fn undecodable(request: &str) -> StoreError {
    StoreError::Unavailable(format!("etcd's answer to {request} cannot be read"))
}

/// Returns the first key after all that begin with `prefix`.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![0]
}

impl Client {
    /// Creates a client of the store below `root`; it connects with the first call.
    pub fn new(channel: Channel, root: &str) -> Self {
        Self {
            channel,
            root: root.trim_end_matches('/').to_owned(),
            newest: AtomicU64::new(0),
            reports_progress: AtomicBool::new(false),
            followers: Mutex::default(),
            clock: AtomicU64::new(0),
            linear: tokio::sync::Mutex::default(),
            closing: CancellationToken::new(),
        }
    }

    /// Sets whether responses to progress requests cannot overtake events.
    pub fn set_reports_progress(&self, reports_progress: bool) {
        self.reports_progress
            .store(reports_progress, Ordering::Relaxed);
    }

    /// Notes a revision that a response had.
    pub fn observe(&self, revision: Revision) {
        self.newest.fetch_max(revision, Ordering::AcqRel);
    }

    /// Returns the newest revision in any response.
    pub fn newest(&self) -> Revision {
        self.newest.load(Ordering::Acquire)
    }

    /// Returns the key in etcd for a key or prefix of the store.
    ///
    /// Every key of the store begins with `/`. The empty prefix becomes `/`, because
    /// the root alone is also a prefix of other roots that begin alike.
    pub fn key(&self, key: &str) -> String {
        if key.is_empty() {
            format!("{}/", self.root)
        } else {
            format!("{}{key}", self.root)
        }
    }

    /// Checks that the store takes a key.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when it does not.
    pub fn check_key(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        if !key.starts_with('/') || key.len() > MAX_KEY_BYTES {
            return Err(StoreError::TooLarge {
                key: key.len(),
                value: value.len(),
            });
        }
        Ok(())
    }

    /// Reads a range. A read that failed because of the server is repeated once, by another
    /// server if there is one.
    pub async fn range(&self, range: &Range<'_>) -> Result<RangeResponse, Failure> {
        let answer = self.channel.call(RANGE, &range.encode()).await;
        // A read has no side effects, so it is safe to repeat.
        let answer = match answer {
            Err(failure) if failure.is_of_server() => {
                self.channel.call(RANGE, &range.encode()).await?
            }
            answer => answer?,
        };
        let response: RangeResponse = wire::decode(&self.root, answer)
            .ok_or_else(|| Failure::Interrupted("its answer to a range cannot be read".into()))?;
        self.observe(response.revision);
        Ok(response)
    }

    /// Performs a transaction that writes `value` under `key`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when etcd refuses the request's size.
    pub async fn txn(
        &self,
        request: &[u8],
        key: &str,
        value: &[u8],
    ) -> Result<TxnResponse, StoreError> {
        let answer = match self.channel.call(TXN, request).await {
            Err(Failure::Status { code, message })
                if code == INVALID_ARGUMENT && message.contains("too large") =>
            {
                return Err(StoreError::TooLarge {
                    key: key.len(),
                    value: value.len(),
                });
            }
            answer => answer?,
        };
        let response: TxnResponse =
            wire::decode(&self.root, answer).ok_or_else(|| undecodable("a transaction"))?;
        self.observe(response.revision);
        Ok(response)
    }

    /// Returns etcd's revision, no older than this call.
    pub async fn linear_revision(&self) -> Result<Revision, StoreError> {
        let called = self.clock.fetch_add(1, Ordering::AcqRel);
        let mut last = self.linear.lock().await;
        // A read that another caller began after this call serves as well.
        if last.0 > called {
            return Ok(last.1);
        }
        let began = self.clock.fetch_add(1, Ordering::AcqRel);
        let key = self.key(CLOCK_KEY);
        let response = self
            .range(&Range {
                key: key.as_bytes(),
                count_only: true,
                ..Range::default()
            })
            .await?;
        *last = (began, response.revision);
        Ok(response.revision)
    }

    /// Adds a running watch, which is forgotten when it is dropped.
    pub fn add_follower(&self, follower: &Arc<Follower>) {
        self.followers.lock().push(Arc::downgrade(follower));
    }

    fn followers(&self) -> Vec<Arc<Follower>> {
        let mut followers = self.followers.lock();
        followers.retain(|f| f.strong_count() > 0);
        followers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Makes sure that every watch will deliver `revision`, even if nothing in its
    /// range has changed.
    pub async fn announce(&self, revision: Revision) -> Result<(), StoreError> {
        let behind: Vec<_> = self
            .followers()
            .into_iter()
            .filter(|f| f.revision() < revision)
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        if self.reports_progress.load(Ordering::Relaxed) {
            for follower in behind {
                follower.request_progress();
            }
            return Ok(());
        }
        // With old servers a progress response may overtake events, and a write
        // cannot. Events in transit may make the write unnecessary.
        for follower in &behind {
            // A watch that stays behind is found below.
            let _ = tokio::time::timeout(IN_TRANSIT_TIMEOUT, follower.reached(revision)).await;
        }
        let prefixes: BTreeSet<&str> = behind
            .iter()
            .filter(|f| f.revision() < revision)
            .map(|f| f.prefix())
            .collect();
        for prefix in prefixes {
            let key = format!("{}{SYNC_NAME}", self.key(prefix));
            let put = wire::op_put(key.as_bytes(), b"");
            self.txn(&wire::txn(None, &[put], &[]), &key, b"").await?;
        }
        Ok(())
    }

    /// Waits until the store's own watches have delivered a write, no longer than
    /// [`DELIVERY_TIMEOUT`].
    pub async fn wait_delivered(&self, key: &str, revision: Revision) {
        for follower in self.followers().iter().filter(|f| f.follows(key)) {
            // The write is durable: a slow watch must not fail it.
            let _ = tokio::time::timeout(DELIVERY_TIMEOUT, follower.reached(revision)).await;
        }
    }

    /// Compacts etcd's history before `revision`.
    pub async fn compact(&self, revision: Revision) -> Result<(), Failure> {
        let request = wire::compact(revision);
        self.channel.call(COMPACT, &request).await.map(drop)
    }

    /// Writes a revision under one of the store's internal keys.
    pub async fn put_internal(
        &self,
        key: &str,
        revision: Revision,
        expect: Expect,
    ) -> Result<Arc<KeyValue>, StoreError> {
        let value = Bytes::from(revision.to_string());
        let full = self.key(key);
        let full = full.as_bytes();
        let found = wire::op_range(&Range {
            key: full,
            ..Range::default()
        });
        let request = wire::txn(
            compare_revision(full, expect).as_deref(),
            &[wire::op_put(full, &value)],
            &[found],
        );
        let response = self.txn(&request, key, &value).await?;
        if !response.succeeded {
            return Err(StoreError::Conflict {
                found: response.found,
            });
        }
        Ok(Arc::new(KeyValue {
            key: key.into(),
            value,
            create_revision: response.revision,
            mod_revision: response.revision,
        }))
    }
}

/// Returns whether a key is internal to the store rather than an entry of it.
pub(super) fn is_internal(key: &str) -> bool {
    key == COMPACT_KEY || key.ends_with(SYNC_NAME)
}

/// Encodes the comparison for what a write expects; `None` if it expects nothing.
pub(super) fn compare_revision(key: &[u8], expect: Expect) -> Option<Vec<u8>> {
    match expect {
        Expect::Absent => Some(wire::compare_mod(key, 0)),
        Expect::Revision(revision) => Some(wire::compare_mod(key, revision)),
        Expect::Any => None,
    }
}
