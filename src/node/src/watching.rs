//! Watches that survive everything: a thin layer on kube's watcher.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use tracing::debug;

use crate::client::retry_delay;

/// Watches for ever. Errors are waited out: shortly while the API server may be
/// coming up, longer when it stays away.
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
                        // Watches end together when the server goes; do not come back together.
                        let jitter = Duration::from_millis(rand::random_range(0..20));
                        tokio::time::sleep(retry_delay(failures) + jitter).await;
                        failures += 1;
                    }
                }
            }
        },
    )
}
