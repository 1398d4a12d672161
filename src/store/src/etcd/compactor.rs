//! Compaction of etcd's history.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::client::{COMPACT_KEY, Client, OUT_OF_RANGE};
use super::grpc::Failure;
use crate::types::{Expect, KeyValue, StoreError};

/// Age of the history that other clients may rely on; upstream's API server has the same.
const COMPACTION_PERIOD: Duration = Duration::from_secs(300);

/// Compacts history older than [`COMPACTION_PERIOD`] until the store closes.
///
/// Of several API servers the one that changes [`COMPACT_KEY`] first does it, as
/// with upstream's API servers.
pub(super) async fn run(client: Weak<Client>, closing: CancellationToken) {
    // The key as it was read last.
    let mut last: Option<Arc<KeyValue>> = None;
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(COMPACTION_PERIOD) => {}
        }
        let Some(client) = client.upgrade() else {
            return;
        };
        match compact_once(&client, last.as_ref()).await {
            Ok(now) => last = now,
            Err(error) => tracing::warn!(%error, "cannot compact etcd"),
        }
    }
}

/// Records the current revision unless another server has done so since, and then
/// compacts to the revision that was recorded one period ago.
///
/// Returns the record that the next period starts from.
async fn compact_once(
    client: &Client,
    last: Option<&Arc<KeyValue>>,
) -> Result<Option<Arc<KeyValue>>, StoreError> {
    let now = client.linear_revision().await?;
    let expect = last.map_or(Expect::Absent, |kv| Expect::Revision(kv.mod_revision));
    match client.put_internal(COMPACT_KEY, now, expect).await {
        Ok(written) => {
            let before = last
                .and_then(|kv| std::str::from_utf8(&kv.value).ok())
                .and_then(|text| text.parse().ok());
            if let Some(before) = before {
                match client.compact(before).await {
                    Ok(()) => tracing::debug!(revision = before, "compacted etcd"),
                    Err(Failure::Status { code, .. }) if code == OUT_OF_RANGE => {}
                    Err(failure) => return Err(failure.into()),
                }
            }
            Ok(Some(written))
        }
        // Another server compacts; the next period starts from its record.
        Err(StoreError::Conflict { found }) => Ok(found),
        Err(error) => Err(error),
    }
}
