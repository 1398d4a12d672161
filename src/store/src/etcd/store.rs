//! [`EtcdStore`]: the store's contract in requests to etcd.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;

use super::client::{
    CLOCK_KEY, Client, OUT_OF_RANGE, compare_revision, is_internal, prefix_end, undecodable,
};
use super::grpc::{Channel, Failure};
use super::options::{EtcdOptions, parse_endpoint, tls_config};
use super::wire::{self, Range};
use super::{compactor, watch};
use crate::types::{
    Expect, KeyValue, ListOptions, Page, Pending, Revision, Store, StoreError, Watch,
};

const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// A [`Store`] in etcd. Dropping it ends its watches.
pub struct EtcdStore {
    client: Arc<Client>,
}

impl EtcdStore {
    /// Connects to etcd and reads its current revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when an endpoint or a file is invalid or no endpoint
    /// answers; the message says which and why.
    pub async fn open(options: EtcdOptions) -> Result<Arc<EtcdStore>, StoreError> {
        let endpoints = options
            .endpoints
            .iter()
            .map(|url| parse_endpoint(url))
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
        let tls = secure.then(|| tls_config(&options)).transpose()?;
        let endpoints = endpoints.into_iter().map(|(mut endpoint, _)| {
            endpoint.address = options.loopback.filter(|_| endpoint.is_loopback());
            endpoint
        });
        let channel = Channel::new(endpoints.collect(), tls);
        let client = Arc::new(Client::new(channel, &options.root));
        let status = client.channel.call(STATUS, &[]).await?;
        let version =
            wire::server_version(status).ok_or_else(|| undecodable("a status request"))?;
        tracing::info!(version, "connected to etcd");
        client.set_reports_progress(reports_progress(&version));
        client.linear_revision().await?;
        tokio::spawn(compactor::run(
            Arc::downgrade(&client),
            client.closing.clone(),
        ));
        Ok(Arc::new(EtcdStore { client }))
    }

    /// Deletes everything below the root.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when etcd does not answer.
    pub async fn wipe(&self) -> Result<(), StoreError> {
        let key = self.client.key("");
        let end = prefix_end(key.as_bytes());
        let request = wire::delete_range(key.as_bytes(), &end);
        self.client.channel.call(DELETE, &request).await?;
        Ok(())
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.client.closing.cancel();
    }
}

/// Returns whether the responses of a server of this version to progress requests
/// cannot overtake events.
pub(super) fn reports_progress(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|n| n.parse::<u32>());
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        (major, minor, _) => (major, minor) > (3, 5),
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)> {
        async move {
            let key = self.client.key(key);
            let response = self
                .client
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
            let prefix = self.client.key(prefix);
            let end = prefix_end(prefix.as_bytes());
            let mut start = prefix.clone().into_bytes();
            if let Some(after) = &options.after {
                // The next key after one is that with a zero byte at its end.
                let mut after = self.client.key(after).into_bytes();
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
            let response = match self.client.range(&range).await {
                Ok(response) => response,
                Err(failure) => {
                    return Err(watch::revision_error(&self.client, revision, failure).await);
                }
            };
            Ok(Page {
                remaining: response.count.saturating_sub(response.items.len() as u64),
                revision: options.revision.unwrap_or(response.revision),
                // Internal keys are not entries of the store.
                items: response
                    .items
                    .into_iter()
                    .filter(|kv| !is_internal(&kv.key))
                    .collect(),
            })
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>> {
        async move {
            self.client.check_key(key, &value)?;
            let full = self.client.key(key);
            let full = full.as_bytes();
            let found = wire::op_range(&Range {
                key: full,
                ..Range::default()
            });
            // The written entry, for its create revision.
            let written = wire::op_range(&Range {
                key: full,
                keys_only: true,
                ..Range::default()
            });
            let request = wire::txn(
                compare_revision(full, expect).as_deref(),
                &[wire::op_put(full, &value), written],
                &[found],
            );
            let response = self.client.txn(&request, key, &value).await?;
            if !response.succeeded {
                return Err(StoreError::Conflict {
                    found: response.found,
                });
            }
            let create_revision = response
                .found
                .map_or(response.revision, |kv| kv.create_revision);
            self.client.wait_delivered(key, response.revision).await;
            Ok(Arc::new(KeyValue {
                key: key.into(),
                value,
                create_revision,
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
            self.client.check_key(key, &[])?;
            let full = self.client.key(key);
            let full = full.as_bytes();
            let found = wire::op_range(&Range {
                key: full,
                ..Range::default()
            });
            let request = wire::txn(
                compare_revision(full, expect).as_deref(),
                &[wire::op_delete(full)],
                &[found],
            );
            let response = self.client.txn(&request, key, &[]).await?;
            match (response.succeeded, response.deleted) {
                (true, Some(last)) => {
                    self.client.wait_delivered(key, response.revision).await;
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
            // etcd would wait for a future revision; the store refuses it.
            let newest = self.client.newest();
            if after > newest {
                let newest = self.client.linear_revision().await?;
                if after > newest {
                    return Err(StoreError::Future {
                        asked: after,
                        newest,
                    });
                }
            }
            // etcd reports a compacted start only some time after it has confirmed
            // the watch. A read fails at once.
            let key = self.client.key(CLOCK_KEY);
            let range = Range {
                key: key.as_bytes(),
                revision: after,
                count_only: true,
                ..Range::default()
            };
            if after > 0
                && let Err(failure) = self.client.range(&range).await
            {
                return Err(watch::revision_error(&self.client, after, failure).await);
            }
            watch::start(&self.client, prefix, after).await
        }
        .boxed()
    }

    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()> {
        async move {
            match self.client.compact(revision).await {
                Ok(()) => Ok(()),
                Err(Failure::Status { code, message })
                    if code == OUT_OF_RANGE && message.contains("compacted") =>
                {
                    Ok(())
                }
                Err(failure) => Err(watch::revision_error(&self.client, revision, failure).await),
            }
        }
        .boxed()
    }

    fn revision(&self) -> Revision {
        self.client.newest()
    }

    fn current(&self) -> Pending<'_, Revision> {
        async move {
            let revision = self.client.linear_revision().await?;
            self.client.announce(revision).await?;
            Ok(revision)
        }
        .boxed()
    }
}
