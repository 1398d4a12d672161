//! The loop that drives the server's own controllers.

use std::future::Future;
use std::sync::Arc;

use futures::future::select_all;

use crate::backend::Backend;
use crate::cache::{Event, Filter, TooOld, Watcher};

/// Keeps something in line with the objects of some resources.
pub trait Controller: Send + 'static {
    /// Returns the watched resources by group and plural name. There is at
    /// least one, and the first is always watched.
    fn resources(&self) -> Vec<(&'static str, &'static str)>;

    /// Handles all objects: at the start, and whenever events were missed.
    fn resync(&mut self) -> impl Future<Output = ()> + Send;

    /// Handles changes to objects of the resource at `index` of
    /// [`resources`](Self::resources).
    fn handle_events(
        &mut self,
        index: usize,
        events: &[Arc<Event>],
    ) -> impl Future<Output = ()> + Send;

    /// Returns whether the resource at `index` is watched at present. Changes
    /// of a resource that is not watched stay queued.
    fn is_watching(&self, _index: usize) -> bool {
        true
    }

    /// Waits until [`handle_timer`](Self::handle_timer) is due. Cancelled and
    /// called again after every other event; never completes by default.
    fn wait_timer(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Handles what [`wait_timer`](Self::wait_timer) waited for.
    fn handle_timer(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Runs a controller until the server shuts down.
pub async fn run(mut controller: impl Controller, backend: Arc<Backend>) {
    let stop = backend.shutdown.clone();
    loop {
        // Positions are taken first, so that no change is missed meanwhile.
        let mut watchers: Vec<Watcher> = controller
            .resources()
            .into_iter()
            .map(|(group, plural)| {
                let cache = backend.cache.resource(group, plural);
                let (_, position) = cache.snapshot(&Filter::nothing(), 0);
                Watcher::new(cache, position)
            })
            .collect();
        controller.resync().await;
        loop {
            let watched: Vec<(usize, &mut Watcher)> = watchers
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| *index == 0 || controller.is_watching(*index))
                .collect();
            tokio::select! {
                () = stop.cancelled() => return,
                (index, events) = next_events(watched) => match events {
                    Ok(events) => controller.handle_events(index, &events).await,
                    Err(_) => break,
                },
                () = controller.wait_timer() => controller.handle_timer().await,
            }
        }
    }
}

/// Waits for events of any of the watchers, which must not be empty.
async fn next_events(
    watchers: Vec<(usize, &mut Watcher)>,
) -> (usize, Result<Vec<Arc<Event>>, TooOld>) {
    let waiting = watchers
        .into_iter()
        .map(|(index, watcher)| Box::pin(async move { (index, watcher.next().await) }));
    select_all(waiting).await.0
}
