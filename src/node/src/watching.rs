//! Watches that retry forever, based on kube-rs's watcher.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use tracing::debug;

use crate::client::retry_delay;

/// Returns the events of a watch that never ends.
///
/// After an error the watch is retried with increasing delays (see [`retry_delay`]).
pub(crate) fn forever<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Event<K>> + Send
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream = watcher::watcher(api, config);
    futures::stream::unfold(
        (Box::pin(stream), 0u32),
        |(mut stream, mut failures)| async move {
            loop {
                match stream.next().await? {
                    Ok(event) => {
                        if !matches!(event, Event::Init) {
                            failures = 0;
                        }
                        return Some((event, (stream, failures)));
                    }
                    Err(e) => {
                        debug!("watching {}: {e}", K::plural(&()));
                        // All watches end when the server does; jitter spreads their restarts.
                        let jitter = Duration::from_millis(rand::random_range(0..20));
                        tokio::time::sleep(retry_delay(failures) + jitter).await;
                        failures += 1;
                    }
                }
            }
        },
    )
}
