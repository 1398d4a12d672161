//! The event loop of the server's own observers of its cache.

use std::future::Future;
use std::sync::Arc;

use futures::future::select_all;

use crate::backend::Backend;
use crate::cache::{Event, Filter, TooOld, Watcher};

/// Reconciles the server's state with the objects of some resources. Reads the cache itself instead
/// of a client's watches, unlike the controllers of the controller manager.
pub trait CacheObserver: Send + 'static {
    /// Returns the watched resources by group and plural name. Must return at least one; the first
    /// is always watched.
    fn resources(&self) -> Vec<(&'static str, &'static str)>;

    /// Reconciles all objects: at startup, and whenever events were missed.
    fn resync(&mut self) -> impl Future<Output = ()> + Send;

    /// Handles changes to objects of the resource at `index` of
    /// [`resources`](Self::resources).
    fn handle_events(
        &mut self,
        index: usize,
        events: &[Arc<Event>],
    ) -> impl Future<Output = ()> + Send;

    /// Returns whether the resource at `index` is currently watched. Events of an unwatched
    /// resource stay queued.
    fn is_watching(&self, _index: usize) -> bool {
        true
    }

    /// Waits until [`handle_timer`](Self::handle_timer) is due. Cancelled and called again after
    /// every other event. Never completes by default.
    fn wait_timer(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Called when [`wait_timer`](Self::wait_timer) completes.
    fn handle_timer(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Runs an observer until the server shuts down.
pub async fn run(mut observer: impl CacheObserver, backend: Arc<Backend>) {
    let stop = backend.shutdown.clone();
    loop {
        // Positions are taken before the resync, so that no change is missed.
        let mut watchers: Vec<Watcher> = observer
            .resources()
            .into_iter()
            .map(|(group, plural)| {
                let cache = backend.cache.resource(group, plural);
                let (_, position) = cache.snapshot(&Filter::nothing(), 0);
                Watcher::new(cache, position)
            })
            .collect();
        observer.resync().await;
        loop {
            let watched: Vec<(usize, &mut Watcher)> = watchers
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| *index == 0 || observer.is_watching(*index))
                .collect();
            tokio::select! {
                () = stop.cancelled() => return,
                (index, events) = next_events(watched) => match events {
                    Ok(events) => observer.handle_events(index, &events).await,
                    Err(_) => break,
                },
                () = observer.wait_timer() => observer.handle_timer().await,
            }
        }
    }
}

/// Waits for events of any of the watchers, of which there must be at least one.
async fn next_events(
    watchers: Vec<(usize, &mut Watcher)>,
) -> (usize, Result<Vec<Arc<Event>>, TooOld>) {
    let waiting = watchers
        .into_iter()
        .map(|(index, watcher)| Box::pin(async move { (index, watcher.next().await) }));
    select_all(waiting).await.0
}
