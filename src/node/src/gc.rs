//! Garbage collection of unused images and unused sandboxes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rkube_runtime::{ImageStatus, Runtime};
use tracing::{debug, info, warn};

use crate::pods::images::{BUILTIN_LABEL, ImagePuller};
use crate::pods::table::PodTable;
use crate::recorder::{Recorder, Severity, node_reference};

/// Time between two collections of sandboxes.
const COLLECTION_PERIOD: Duration = Duration::from_secs(300);

/// Removes unused sandboxes until the future is dropped.
pub(crate) async fn run(runtime: Runtime, pods: Arc<PodTable>) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(COLLECTION_PERIOD).await;
        collect_sandboxes(&runtime, &pods).await;
    }
}

/// Removes unused images on demand.
pub(crate) struct ImageCollector {
    pub node: String,
    pub runtime: Runtime,
    pub recorder: Recorder,
    pub images: Arc<ImagePuller>,
}

impl ImageCollector {
    /// Removes unused images, largest first, until `bytes` are freed; returns the number of bytes
    /// freed. Records an event if that is less than `bytes`.
    pub(crate) async fn free(&self, bytes: u64) -> u64 {
        let used: HashSet<String> = self
            .runtime
            .list_containers()
            .into_iter()
            .map(|c| c.image_id)
            .collect();
        let mut freed = 0;
        for image in candidates(self.runtime.list_images(), &used) {
            if freed >= bytes {
                break;
            }
            match self.runtime.remove_image(&image.id).await {
                Ok(()) => {
                    info!(image = %image.id, bytes = image.size, "removed an unused image");
                    freed += image.size;
                }
                Err(e) => debug!("removing image {}: {e}", image.id),
            }
        }
        self.images.notify_change();
        if freed < bytes {
            self.recorder.record(
                node_reference(&self.node),
                Severity::Warning,
                "FreeDiskSpaceFailed",
                format!(
                    "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."
                ),
            );
        }
        freed
    }
}

/// Returns the removable images, largest first, so that few images are removed.
///
/// Built-in images take no space and cannot be pulled again, so they are kept.
fn candidates(images: Vec<ImageStatus>, used: &HashSet<String>) -> Vec<ImageStatus> {
    let mut unused: Vec<_> = images
        .into_iter()
        .filter(|i| !used.contains(&i.id) && !i.labels.contains_key(BUILTIN_LABEL))
        .collect();
    unused.sort_by_key(|i| std::cmp::Reverse(i.size));
    unused
}

/// Removes stopped sandboxes that have no containers and are not their pod's current sandbox.
async fn collect_sandboxes(runtime: &Runtime, pods: &PodTable) {
    let current: HashSet<String> = pods.all().into_iter().filter_map(|p| p.sandbox).collect();
    let holding: HashSet<String> = runtime
        .list_containers()
        .into_iter()
        .map(|c| c.sandbox_id)
        .collect();
    for sandbox in runtime.list_sandboxes() {
        let stopped = sandbox.state == rkube_runtime::SandboxState::NotReady;
        if stopped
            && !current.contains(&sandbox.id)
            && !holding.contains(&sandbox.id)
            && let Err(e) = runtime.remove_sandbox(&sandbox.id).await
        {
            warn!("removing sandbox {}: {e}", sandbox.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_unused_images_go_first() {
        let image = |id: &str, size, builtin: bool| ImageStatus {
            id: id.into(),
            size,
            labels: builtin
                .then(|| (BUILTIN_LABEL.to_owned(), String::new()))
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let images = vec![
            image("small", 1, false),
            image("used", 9, false),
            image("large", 5, false),
            image("builtin", 7, true),
        ];
        let ids: Vec<String> = candidates(images, &HashSet::from(["used".to_owned()]))
            .into_iter()
            .map(|i| i.id)
            .collect();
        assert_eq!(ids, ["large", "small"]);
    }
}
