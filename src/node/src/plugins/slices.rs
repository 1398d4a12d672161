//! Removes the resource slices of drivers that are gone, so that no more pods are scheduled for
//! them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::node_object::NodeObject;

/// Longest delay between two attempts. Slices that were made meanwhile would go, too.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Removes the slices of all drivers of the node, for none is registered when the agent starts, and
/// then those of each driver that is gone.
pub(super) async fn remove_all(
    client: kube::Client,
    object: NodeObject,
    node: String,
    mut wipes: mpsc::UnboundedReceiver<String>,
) -> anyhow::Result<()> {
    let mut removals = JoinSet::new();
    let first = remove(client.clone(), selector(&node, None));
    removals.spawn(async move {
        // Before, the API server does not know the node, and then its drivers are not there yet.
        object.registered().await;
        first.await;
    });
    loop {
        tokio::select! {
            driver = wipes.recv() => {
                let Some(driver) = driver else {
                    anyhow::bail!("the drivers ended");
                };
                removals.spawn(remove(client.clone(), selector(&node, Some(&driver))));
            }
            Some(_) = removals.join_next() => {}
        }
    }
}

fn selector(node: &str, driver: Option<&str>) -> String {
    match driver {
        Some(driver) => format!("spec.driver={driver},spec.nodeName={node}"),
        None => format!("spec.nodeName={node}"),
    }
}

async fn remove(client: kube::Client, selector: String) {
    let mut delay = Duration::from_secs(1);
    loop {
        match try_remove(&client, &selector).await {
            Ok(()) => return,
            Err(e) if crate::client::answered(&e, 404) => return,
            Err(e) => tracing::debug!(selector, "removing resource slices: {e}"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

async fn try_remove(client: &kube::Client, selector: &str) -> Result<(), kube::Error> {
    let selector = selector.replace('=', "%3D").replace(',', "%2C");
    let uri = format!("/apis/resource.k8s.io/v1/resourceslices?fieldSelector={selector}");
    let request = http::Request::delete(uri)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    client
        .request::<serde_json::Value>(request)
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_slices_of_the_node_are_removed() {
        assert_eq!(super::selector("n", None), "spec.nodeName=n");
        assert_eq!(
            super::selector("n", Some("d")),
            "spec.driver=d,spec.nodeName=n"
        );
    }
}
