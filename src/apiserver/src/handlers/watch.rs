//! `watch`: the changes of a resource.

use std::sync::Arc;

use rkube_api::status::Status;

use super::error::HandlerError;
use super::read::at_least;
use crate::backend::Backend;
use crate::cache::{Filter, Watcher};
use crate::input::watch::WatchOptions;
use crate::metrics::Metrics;
use crate::outcome::{Outcome, Watching};
use crate::resources::Resource;

/// Begins a watch: determines the initial events and where the further ones begin.
pub async fn watch(
    backend: &Backend,
    metrics: &Metrics,
    resource: &Arc<Resource>,
    options: WatchOptions,
) -> Result<Outcome, HandlerError> {
    let WatchOptions {
        filter,
        revision,
        initial,
        bookmarks,
        duration,
    } = options;
    let mut first = Vec::new();
    let send_state = initial.unwrap_or(revision.is_none_or(|r| r == 0));
    let position = if send_state {
        let at = match revision {
            None => backend.cache.try_consistent().await?,
            Some(revision) => at_least(backend, revision).await?,
        };
        let (items, position) = resource
            .cache
            .snapshot(&resource.stored_filter(&filter), at);
        first = backend.select(resource, items, &filter).await?;
        Ok(position)
    } else {
        match revision {
            // Start at the current revision, without initial events.
            None | Some(0) => {
                let now = backend.cache.try_consistent().await?;
                Ok(resource.cache.snapshot(&Filter::nothing(), now).1)
            }
            Some(revision) => resource.cache.position_after(revision),
        }
    };
    let watcher = position
        .map(|position| Watcher::new(resource.cache.clone(), position))
        .map_err(|too_old| {
            let asked = revision.unwrap_or_default();
            Status::gone(format!(
                "too old resource version: {asked} ({})",
                too_old.oldest
            ))
        });
    Ok(Outcome::Watch(Box::new(Watching {
        first,
        watcher,
        filter,
        bookmarks,
        marks_initial: initial == Some(true) && bookmarks,
        duration,
        gauge: metrics.watch_started(&resource.plural),
    })))
}
