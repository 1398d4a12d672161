//! Upkeep by the clock: events that are old enough go, bookmarks are due,
//! reservations of services are held against the services.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rkube_api::meta;
use rkube_store::Expect;

use crate::backend::Backend;
use crate::cache::Filter;
use crate::services;

/// How long an event is kept, as upstream's default.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
/// How often old events are looked for; once a minute is far below their life.
const SWEEP_EVERY: u64 = 5;
/// How often reservations are looked at, as upstream's default.
const REPAIR_EVERY: u64 = 3;
/// How often watches are told how far they are.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Runs until the server shuts down. One timer serves every purpose.
pub async fn upkeep(backend: Arc<Backend>) {
    let mut ticks = 0u64;
    loop {
        tokio::select! {
            () = backend.shutdown.cancelled() => return,
            () = tokio::time::sleep(BOOKMARK_EVERY) => {}
        }
        ticks += 1;
        backend.bookmarks.send_replace(ticks);
        if ticks.is_multiple_of(SWEEP_EVERY) {
            sweep(&backend, Timestamp::now()).await;
        }
        if ticks.is_multiple_of(REPAIR_EVERY)
            && let Err(error) = services::repair(&backend, Timestamp::now()).await
        {
            tracing::warn!(%error, "reservations of services were not repaired");
        }
    }
}

/// Deletes the events that have outlived [`EVENT_TTL`].
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
        // Changed or gone meanwhile: the next sweep sees.
        let _ = backend
            .store
            .delete(&key, Expect::Revision(event.revision))
            .await;
    }
}
