//! Periodic maintenance: deletes expired events, requests bookmarks, lets old lists expire, repairs service reservations.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rkube_api::meta;
use rkube_store::Expect;

use crate::backend::Backend;
use crate::cache::Filter;
use crate::services;

/// The lifetime of an event; upstream's default.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
/// Interval between sweeps of old events, in ticks of [`BOOKMARK_PERIOD`].
const SWEEP_TICKS: u64 = 5;
/// Interval between compactions, in ticks of [`BOOKMARK_PERIOD`]; upstream's default.
const COMPACTION_TICKS: u64 = 5;
/// Interval between repairs of reservations, in ticks of [`BOOKMARK_PERIOD`]; upstream's default.
const REPAIR_TICKS: u64 = 3;
/// Interval between bookmarks of watches.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// Runs until the server shuts down. One timer drives all maintenance.
pub async fn upkeep(backend: Arc<Backend>) {
    let mut ticks = 0u64;
    loop {
        tokio::select! {
            () = backend.shutdown.cancelled() => return,
            () = tokio::time::sleep(BOOKMARK_PERIOD) => {}
        }
        ticks += 1;
        backend.bookmarks.send_replace(ticks);
        if ticks.is_multiple_of(COMPACTION_TICKS) {
            backend.compaction.round(backend.cache.revision());
        }
        if ticks.is_multiple_of(SWEEP_TICKS) {
            sweep(&backend, Timestamp::now()).await;
        }
        if ticks.is_multiple_of(REPAIR_TICKS)
            && let Err(error) = services::repair(&backend, Timestamp::now()).await
        {
            tracing::warn!(%error, "reservations of services were not repaired");
        }
    }
}

/// Deletes the events that are older than [`EVENT_TTL`].
pub async fn sweep(backend: &Backend, now: Timestamp) {
    let Some(cache) = backend.cache.existing("", "events") else {
        return;
    };
    for event in cache.list(&Filter::default()) {
        let object = event.parse();
        let last = ["lastTimestamp", "eventTime", "firstTimestamp"]
            .iter()
            .find_map(|f| meta::parse_time(object[*f].as_str()?))
            .into_iter()
            .chain(
                object["series"]["lastObservedTime"]
                    .as_str()
                    .and_then(meta::parse_time),
            )
            .chain(meta::parse_time(meta::creation_timestamp(&object)))
            .max();
        if last.is_some_and(|last| now.duration_since(last) < EVENT_TTL) {
            continue;
        }
        let key = format!("/registry/core/events/{}/{}", event.namespace, event.name);
        // If the event was changed or deleted meanwhile, the next sweep handles it.
        let _ = backend
            .store
            .delete(&key, Expect::Revision(event.revision))
            .await;
    }
}
