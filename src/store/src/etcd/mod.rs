//! A store in an etcd v3 cluster, which several API servers may share.
//!
//! Every key stands below a root of the store's own, so that one etcd can hold
//! many clusters. A write is a transaction on the key's `mod_revision`. Reads
//! of the store are linearized. A watch is a stream of its own that goes on
//! after the connection broke, from where it was; it ends only when etcd has
//! compacted what it has not seen.

mod grpc;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::{
    Change, Expect, KeyValue, ListOptions, Page, Pending, Revision, Store, StoreError, Watch,
};
use grpc::{Channel, Endpoint, Failure};
use watch::Follower;
use wire::{Range, RangeResponse, TxnResponse};

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// gRPC's codes that etcd tells reasons with.
const INVALID_ARGUMENT: u32 = 3;
const OUT_OF_RANGE: u32 = 11;

/// etcd takes requests up to 1.5 MiB unless told otherwise; it says so itself.
const KEY_MAX: usize = 4096;
/// How long a write waits for the store's own watches to have seen it.
const SEEN: Duration = Duration::from_secs(1);
/// How much history other clients may count on, as upstream's API server.
const COMPACT_EVERY: Duration = Duration::from_secs(300);
/// The key, below the root, by which API servers agree on who compacts.
const COMPACT_KEY: &str = "/compact_rev_key";
/// A key that is only ever asked for, so that etcd says how far it is.
const CLOCK_KEY: &str = "/clock";
/// What stands behind a watch's prefix in the key whose writes tell old servers'
/// watches how far they are: a watch hears of its own range only. No object's name
/// may contain a `%`.
const SYNC_NAME: &str = "%sync";

/// Where etcd is and how it is spoken to.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// `http://` or `https://` URLs; one that answers is used.
    pub endpoints: Vec<String>,
    /// Keys stand below this, as `/rkube/<profile>`; without a `/` at its end.
    pub root: String,
    /// PEM file of the authority that etcd's certificate is of.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file of the key of `cert`.
    pub key: Option<PathBuf>,
    /// Where this machine's loopback is reached, for endpoints on it; unset
    /// where it is the loopback itself.
    pub loopback: Option<IpAddr>,
}

impl EtcdOptions {
    /// With those of `etcd-ca.crt`, `etcd-client.crt` and `etcd-client.key`
    /// that are in `folder`.
    pub fn with_files(endpoints: Vec<String>, root: String, folder: &Path) -> Self {
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        Self {
            endpoints,
            root,
            ca: file("etcd-ca.crt"),
            cert: file("etcd-client.crt"),
            key: file("etcd-client.key"),
            loopback: None,
        }
    }
}

/// A [`Store`] in etcd.
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    channel: Channel,
    root: String,
    /// The newest revision that any answer told of.
    newest: AtomicU64,
    /// Whether etcd tells a watch's progress truthfully when asked.
    tells_progress: AtomicBool,
    followers: Mutex<Vec<Weak<Follower>>>,
    /// Orders linearized reads of the revision, so that who waits shares one.
    clock: AtomicU64,
    linear: tokio::sync::Mutex<(u64, Revision)>,
    closing: tokio_util::sync::CancellationToken,
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        StoreError::Unavailable(failure.to_string())
    }
}

fn garbled(what: &str) -> StoreError {
    StoreError::Unavailable(format!("etcd's answer to {what} cannot be read"))
}

impl EtcdStore {
    /// Connects and learns the present revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when an endpoint or a file is not what it
    /// should be or no endpoint answers; the text says which and why.
    pub async fn open(options: EtcdOptions) -> Result<Arc<EtcdStore>, StoreError> {
        let endpoints = options
            .endpoints
            .iter()
            .map(|url| endpoint(url))
            .collect::<Result<Vec<_>, _>>()?;
        let Some((_, secure)) = endpoints.first() else {
            return Err(StoreError::Unavailable(
                "no endpoint of etcd is given".into(),
            ));
        };
        let secure = *secure;
        if endpoints.iter().any(|(_, s)| *s != secure) {
            return Err(StoreError::Unavailable(
                "etcd's endpoints must be all http or all https".into(),
            ));
        }
        let tls = secure.then(|| tls(&options)).transpose()?;
        let endpoints = endpoints.into_iter().map(|(mut endpoint, _)| {
            endpoint.address = options.loopback.filter(|_| endpoint.is_loopback());
            endpoint
        });
        let channel = Channel::new(endpoints.collect(), tls);
        let shared = Arc::new(Shared {
            channel,
            root: options.root.trim_end_matches('/').to_owned(),
            newest: AtomicU64::new(0),
            tells_progress: AtomicBool::new(false),
            followers: Mutex::default(),
            clock: AtomicU64::new(0),
            linear: tokio::sync::Mutex::default(),
            closing: tokio_util::sync::CancellationToken::new(),
        });
        let status = shared.channel.call(STATUS, &[]).await?;
        let version = wire::version(status).ok_or_else(|| garbled("a status request"))?;
        tracing::info!(version, "connected to etcd");
        shared
            .tells_progress
            .store(tells_progress(&version), Ordering::Relaxed);
        shared.linear_revision().await?;
        tokio::spawn(compactor(Arc::downgrade(&shared), shared.closing.clone()));
        Ok(Arc::new(EtcdStore { shared }))
    }

    /// Deletes everything below the root.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when etcd does not answer.
    pub async fn wipe(&self) -> Result<(), StoreError> {
        let key = self.shared.key("");
        let end = prefix_end(key.as_bytes());
        let request = wire::delete_range(key.as_bytes(), &end);
        self.shared.channel.call(DELETE, &request).await?;
        Ok(())
    }
}

/// Host and port of an endpoint, `http[s]://host[:port]`.
///
/// # Errors
/// [`StoreError::Unavailable`] when it is not such.
pub fn host_and_port(url: &str) -> Result<(String, u16), StoreError> {
    let (endpoint, _) = endpoint(url)?;
    Ok((endpoint.host, endpoint.port))
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

/// `http[s]://host[:port]`.
fn endpoint(url: &str) -> Result<(Endpoint, bool), StoreError> {
    let wrong = || {
        StoreError::Unavailable(format!(
            "{url:?} is not an endpoint of etcd; one is https://host:2379"
        ))
    };
    let (secure, rest) = if let Some(rest) = url.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = url.strip_prefix("http://") {
        (false, rest)
    } else {
        return Err(wrong());
    };
    let authority: http::uri::Authority =
        rest.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    if host.is_empty() {
        return Err(wrong());
    }
    let endpoint = Endpoint {
        host: host.to_owned(),
        port: authority.port_u16().unwrap_or(2379),
        address: None,
    };
    Ok((endpoint, secure))
}

fn tls(options: &EtcdOptions) -> Result<Arc<rustls::ClientConfig>, StoreError> {
    let failed = |path: &std::path::Path, why: String| {
        StoreError::Unavailable(format!("cannot use {}: {why}", path.display()))
    };
    let Some(ca) = &options.ca else {
        return Err(StoreError::Unavailable(
            "etcd over https needs the authority of its certificate (--store-ca)".into(),
        ));
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| failed(ca, e.to_string()))? {
        let certificate = certificate.map_err(|e| failed(ca, e.to_string()))?;
        roots
            .add(certificate)
            .map_err(|e| failed(ca, e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| StoreError::Unavailable(e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(cert)
                .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
                .map_err(|e| failed(cert, e.to_string()))?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|e| failed(key, e.to_string()))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|e| failed(cert, e.to_string()))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(StoreError::Unavailable(
                "a client certificate for etcd and its key go together (--store-cert, --store-key)"
                    .into(),
            ));
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Since these versions an answer to a request for progress cannot overtake
/// events.
fn tells_progress(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|n| n.parse::<u32>());
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        (major, minor, _) => (major, minor) > (3, 5),
    }
}

/// The first key after all that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
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

impl Shared {
    fn saw(&self, revision: Revision) {
        self.newest.fetch_max(revision, Ordering::AcqRel);
    }

    fn newest(&self) -> Revision {
        self.newest.load(Ordering::Acquire)
    }

    /// A key as etcd has it. Every key of the store begins with `/`; without
    /// one, a prefix could reach into another root that begins alike.
    fn key(&self, key: &str) -> String {
        if key.is_empty() {
            format!("{}/", self.root)
        } else {
            format!("{}{key}", self.root)
        }
    }

    fn check(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        if !key.starts_with('/') || key.len() > KEY_MAX {
            return Err(StoreError::TooLarge {
                key: key.len(),
                value: value.len(),
            });
        }
        Ok(())
    }

    async fn range(&self, range: &Range<'_>) -> Result<RangeResponse, Failure> {
        let answer = self.channel.call(RANGE, &range.encode()).await;
        // Reading twice does no harm.
        let answer = match answer {
            Err(Failure::Interrupted(_)) => self.channel.call(RANGE, &range.encode()).await?,
            answer => answer?,
        };
        let response = RangeResponse::decode(&self.root, answer)
            .ok_or_else(|| Failure::Interrupted("its answer to a range cannot be read".into()))?;
        self.saw(response.revision);
        Ok(response)
    }

    async fn txn(
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
        let response =
            TxnResponse::decode(&self.root, answer).ok_or_else(|| garbled("a transaction"))?;
        self.saw(response.revision);
        Ok(response)
    }

    /// etcd's revision, no older than this call.
    async fn linear_revision(&self) -> Result<Revision, StoreError> {
        let called = self.clock.fetch_add(1, Ordering::AcqRel);
        let mut last = self.linear.lock().await;
        // A read that began after this call, for someone else, serves as well.
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

    fn followers(&self) -> Vec<Arc<Follower>> {
        let mut followers = self.followers.lock();
        followers.retain(|f| f.strong_count() > 0);
        followers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Makes sure that the watches will tell of `revision`, also when nothing
    /// of theirs has changed.
    async fn announce(&self, revision: Revision) -> Result<(), StoreError> {
        let behind: Vec<_> = self
            .followers()
            .into_iter()
            .filter(|f| f.revision() < revision)
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        if self.tells_progress.load(Ordering::Relaxed) {
            for follower in behind {
                follower.ask_for_progress();
            }
            return Ok(());
        }
        // An old server's answer may overtake events. A write cannot. What is
        // only on its way is waited for first.
        for follower in &behind {
            let _ =
                tokio::time::timeout(Duration::from_millis(20), follower.reached(revision)).await;
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

    /// Waits a moment for the store's own watches to have seen a write.
    async fn seen(&self, key: &str, revision: Revision) {
        for follower in self.followers().iter().filter(|f| f.follows(key)) {
            let _ = tokio::time::timeout(SEEN, follower.reached(revision)).await;
        }
    }

    /// What [`StoreError`] an out-of-range revision is.
    async fn out_of_range(&self, asked: Revision, failure: Failure) -> StoreError {
        match &failure {
            Failure::Status { code, message } if *code == OUT_OF_RANGE => {
                if message.contains("future") {
                    return match self.linear_revision().await {
                        Ok(newest) => StoreError::Future { asked, newest },
                        Err(error) => error,
                    };
                }
                let oldest = watch::compacted(self, asked).await.unwrap_or(asked + 1);
                StoreError::Compacted { asked, oldest }
            }
            _ => failure.into(),
        }
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)> {
        async move {
            let key = self.shared.key(key);
            let response = self
                .shared
                .range(&Range {
                    key: key.as_bytes(),
                    ..Range::default()
                })
                .await?;
            Ok((response.items.into_iter().next(), response.revision))
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page> {
        async move {
            let prefix = self.shared.key(prefix);
            let end = prefix_end(prefix.as_bytes());
            let mut start = prefix.clone().into_bytes();
            if let Some(after) = &options.after {
                // The next key after one is that with a zero byte at its end.
                let mut after = self.shared.key(after).into_bytes();
                after.push(0);
                start = start.max(after);
            }
            let revision = options.revision.unwrap_or(0);
            let range = Range {
                key: &start,
                end: &end,
                limit: options.limit as u64,
                revision,
                ..Range::default()
            };
            let response = match self.shared.range(&range).await {
                Ok(response) => response,
                Err(failure) => return Err(self.shared.out_of_range(revision, failure).await),
            };
            Ok(Page {
                remaining: response.count.saturating_sub(response.items.len() as u64),
                revision: options.revision.unwrap_or(response.revision),
                // Keys of the store's own are nobody else's.
                items: response
                    .items
                    .into_iter()
                    .filter(|kv| !is_own(&kv.key))
                    .collect(),
            })
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>> {
        async move {
            self.shared.check(key, &value)?;
            let full = self.shared.key(key);
            let full = full.as_bytes();
            let found = wire::op_range(&Range {
                key: full,
                ..Range::default()
            });
            // What was written, for when it was first made.
            let written = wire::op_range(&Range {
                key: full,
                keys_only: true,
                ..Range::default()
            });
            let request = wire::txn(
                compare(full, expect).as_deref(),
                &[wire::op_put(full, &value), written],
                &[found],
            );
            let response = self.shared.txn(&request, key, &value).await?;
            if !response.succeeded {
                return Err(StoreError::Conflict {
                    found: response.found,
                });
            }
            let made = response
                .found
                .map_or(response.revision, |kv| kv.create_revision);
            self.shared.seen(key, response.revision).await;
            Ok(Arc::new(KeyValue {
                key: key.into(),
                value,
                create_revision: made,
                mod_revision: response.revision,
            }))
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
    ) -> Pending<'a, (Arc<KeyValue>, Revision)> {
        async move {
            self.shared.check(key, &[])?;
            let full = self.shared.key(key);
            let full = full.as_bytes();
            let found = wire::op_range(&Range {
                key: full,
                ..Range::default()
            });
            let request = wire::txn(
                compare(full, expect).as_deref(),
                &[wire::op_delete(full)],
                &[found],
            );
            let response = self.shared.txn(&request, key, &[]).await?;
            match (response.succeeded, response.deleted) {
                (true, Some(last)) => {
                    self.shared.seen(key, response.revision).await;
                    Ok((last, response.revision))
                }
                (true, None) => Err(StoreError::Conflict { found: None }),
                (false, _) => Err(StoreError::Conflict {
                    found: response.found,
                }),
            }
        }
        .boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Pending<'a, Watch> {
        async move {
            // etcd waits for the future; the store says that it is not there.
            let newest = self.shared.newest();
            if after > newest {
                let newest = self.shared.linear_revision().await?;
                if after > newest {
                    return Err(StoreError::Future {
                        asked: after,
                        newest,
                    });
                }
            }
            // etcd tells of a start that is compacted only some time after it
            // has confirmed the watch; a read tells at once.
            let key = self.shared.key(CLOCK_KEY);
            let range = Range {
                key: key.as_bytes(),
                revision: after,
                count_only: true,
                ..Range::default()
            };
            if after > 0
                && let Err(failure) = self.shared.range(&range).await
            {
                return Err(self.shared.out_of_range(after, failure).await);
            }
            watch::start(&self.shared, prefix, after).await
        }
        .boxed()
    }

    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()> {
        async move {
            match self
                .shared
                .channel
                .call(COMPACT, &wire::compact(revision))
                .await
            {
                Ok(_) => Ok(()),
                Err(Failure::Status { code, message })
                    if code == OUT_OF_RANGE && message.contains("compacted") =>
                {
                    Ok(())
                }
                Err(failure) => Err(self.shared.out_of_range(revision, failure).await),
            }
        }
        .boxed()
    }

    fn revision(&self) -> Revision {
        self.shared.newest()
    }

    fn current(&self) -> Pending<'_, Revision> {
        async move {
            let revision = self.shared.linear_revision().await?;
            self.shared.announce(revision).await?;
            Ok(revision)
        }
        .boxed()
    }
}

/// Whether a key is the store's own.
fn is_own(key: &str) -> bool {
    key == COMPACT_KEY || key.ends_with(SYNC_NAME)
}

fn compare(key: &[u8], expect: Expect) -> Option<Vec<u8>> {
    match expect {
        Expect::Absent => Some(wire::compare_mod(key, 0)),
        Expect::Revision(revision) => Some(wire::compare_mod(key, revision)),
        Expect::Any => None,
    }
}

/// Compacts what is older than [`COMPACT_EVERY`]. Of several API servers the
/// one that changes the key first does it, as upstream's do.
async fn compactor(shared: Weak<Shared>, closing: tokio_util::sync::CancellationToken) {
    // What the key said when it was last looked at.
    let mut last: Option<Arc<KeyValue>> = None;
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(COMPACT_EVERY) => {}
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match compact_once(&shared, last.as_ref()).await {
            Ok(now) => last = now,
            Err(error) => tracing::warn!(%error, "etcd was not compacted"),
        }
    }
}

/// Writes the present revision down unless someone else has meanwhile, and
/// compacts to what was written down a round ago.
async fn compact_once(
    shared: &Arc<Shared>,
    last: Option<&Arc<KeyValue>>,
) -> Result<Option<Arc<KeyValue>>, StoreError> {
    let now = shared.linear_revision().await?;
    let expect = last.map_or(Expect::Absent, |kv| Expect::Revision(kv.mod_revision));
    match shared.put_own(COMPACT_KEY, now, expect).await {
        Ok(written) => {
            let before = last
                .and_then(|kv| std::str::from_utf8(&kv.value).ok())
                .and_then(|text| text.parse().ok());
            if let Some(before) = before {
                match shared.channel.call(COMPACT, &wire::compact(before)).await {
                    Ok(_) => tracing::debug!(revision = before, "compacted etcd"),
                    Err(Failure::Status { code, .. }) if code == OUT_OF_RANGE => {}
                    Err(failure) => return Err(failure.into()),
                }
            }
            Ok(Some(written))
        }
        // Someone else's turn; what they wrote is where the next round starts.
        Err(StoreError::Conflict { found }) => Ok(found),
        Err(error) => Err(error),
    }
}

impl Shared {
    /// Writes a revision under a key of the store's own.
    async fn put_own(
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
            compare(full, expect).as_deref(),
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

/// An event as the store tells it.
fn change(event: wire::WatchEvent) -> Change {
    let revision = event.now.mod_revision;
    if event.deleted {
        // What was before may be compacted away; the key is known in any case.
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
