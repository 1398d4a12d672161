//! Garbage collection of unused images and unused sandboxes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rkube_config::paths;
use rkube_runtime::{ImageStatus, Runtime};
use tracing::{debug, info, warn};

use crate::machine;
use crate::pods::images::{BUILTIN_LABEL, ImagePuller};
use crate::pods::table::PodTable;
use crate::recorder::{Recorder, Severity, node_reference};

/// Time between two collections (the kubelet's of images).
const COLLECTION_PERIOD: Duration = Duration::from_secs(300);
/// Images are collected while less than this is available on their disk, in bytes.
///
/// Not the kubelet's 85 % of the disk, which is the user's and may be nearly full. As with the
/// kubelet's defaults, this is one and a half times what pods are evicted for.
const COLLECT_BELOW: u64 = 3 << 29;
/// Collections of images end when this is available, in bytes: the counterpart of 80 %.
const COLLECT_UNTIL: u64 = 2 << 30;
/// Images that have been here for less are kept (the kubelet's default).
const MINIMUM_AGE: Duration = Duration::from_secs(120);

/// Removes unused sandboxes and, if the disk is nearly full, unused images until the future is
/// dropped.
pub(crate) async fn run(pods: Arc<PodTable>, images: Arc<ImageCollector>) -> anyhow::Result<()> {
    // Images from before the agent's start are old enough to be removed.
    images.look(None);
    loop {
        tokio::time::sleep(COLLECTION_PERIOD).await;
        collect_sandboxes(&images.runtime, &pods).await;
        images.collect().await;
    }
}

/// Times at which an image was seen; `None` is before the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ImageTimes {
    first: Option<Instant>,
    last_used: Option<Instant>,
}

/// The images of the node and when they were seen, by ID.
type ImageHistory = HashMap<String, ImageTimes>;

/// Removes unused images.
pub(crate) struct ImageCollector {
    node: String,
    runtime: Runtime,
    recorder: Recorder,
    images: Arc<ImagePuller>,
    known: Mutex<ImageHistory>,
}

impl ImageCollector {
    pub(crate) fn new(
        node: &str,
        runtime: Runtime,
        recorder: Recorder,
        images: Arc<ImagePuller>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            runtime,
            recorder,
            images,
            known: Mutex::default(),
        }
    }

    /// Notes which images are there and used; returns those that may be removed, the first first.
    fn look(&self, now: Option<Instant>) -> Vec<ImageStatus> {
        let images = self.runtime.list_images();
        let containers = self.runtime.list_containers();
        let used: HashSet<String> = containers.into_iter().map(|c| c.image_id).collect();
        let mut known = self.known.lock();
        note(&mut known, &images, &used, now);
        now.map_or_else(Vec::new, |now| candidates(images, &used, &known, now))
    }

    /// Removes unused images if their disk is nearly full.
    async fn collect(&self) {
        let candidates = self.look(Some(Instant::now()));
        let Some(space) = machine::filesystem(paths::IMAGES.as_ref()) else {
            return;
        };
        if space.available >= COLLECT_BELOW {
            return;
        }
        let wanted = COLLECT_UNTIL - space.available;
        let freed = self.free(candidates, wanted).await;
        if freed < wanted {
            self.recorder.record(
                node_reference(&self.node),
                Severity::Warning,
                "FreeDiskSpaceFailed",
                format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
                ),
            );
        }
    }

    /// Removes all unused images; returns the number of bytes freed.
    pub(crate) async fn remove_unused(&self) -> u64 {
        let candidates = self.look(Some(Instant::now()));
        self.free(candidates, u64::MAX).await
    }

    /// Removes images until `bytes` are freed; returns the number of bytes freed.
    ///
    /// That is an estimate: images have layers in common, and nodes share them. Removes nothing
    /// while an image is pulled or pushed, which may take long: the next collection does.
    async fn free(&self, candidates: Vec<ImageStatus>, bytes: u64) -> u64 {
        let mut freed: u64 = 0;
        for image in candidates {
            if freed >= bytes {
                break;
            }
            match self.runtime.remove_image_unless_busy(&image.id).await {
                Ok(false) => {
                    debug!("no image is removed while others are pulled or pushed");
                    break;
                }
                Ok(true) => {
                    info!(image = %image.id, bytes = image.size, "removed an unused image");
                    freed = freed.saturating_add(image.size);
                    self.known.lock().remove(&image.id);
                    self.images.notify_change();
                }
                Err(e) => debug!("removing image {}: {e}", image.id),
            }
        }
        freed
    }
}

/// Notes the images that are there now, and forgets others.
fn note(
    known: &mut ImageHistory,
    images: &[ImageStatus],
    used: &HashSet<String>,
    now: Option<Instant>,
) {
    known.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in images {
        let seen = known.entry(image.id.clone()).or_insert(ImageTimes {
            first: now,
            last_used: None,
        });
        if used.contains(&image.id) {
            seen.last_used = now;
        }
    }
}

/// Returns the removable images: the longest unused first, then the oldest.
///
/// Built-in images take no space and cannot be pulled again, so they are kept.
fn candidates(
    images: Vec<ImageStatus>,
    used: &HashSet<String>,
    known: &ImageHistory,
    now: Instant,
) -> Vec<ImageStatus> {
    let seen = |image: &ImageStatus| known.get(&image.id).copied().unwrap_or_default();
    let is_young = |image: &ImageStatus| {
        let first = seen(image).first;
        first.is_some_and(|first| now.duration_since(first) < MINIMUM_AGE)
    };
    let mut unused: Vec<_> = images
        .into_iter()
        .filter(|i| !used.contains(&i.id) && !i.labels.contains_key(BUILTIN_LABEL))
        .filter(|i| !is_young(i))
        .collect();
    unused.sort_by_key(|i| (seen(i).last_used, seen(i).first));
    unused
}

/// Removes stopped sandboxes that have no containers and are not their pod's current sandbox.
pub(crate) async fn collect_sandboxes(runtime: &Runtime, pods: &PodTable) {
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

    fn image(id: &str, builtin: bool) -> ImageStatus {
        ImageStatus {
            id: id.into(),
            labels: builtin
                .then(|| (BUILTIN_LABEL.to_owned(), String::new()))
                .into_iter()
                .collect(),
            ..Default::default()
        }
    }

    fn set(ids: &[&str]) -> HashSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    /// Upstream's `TestGarbageCollectImageNotOldEnough` and `TestFreeSpaceImagesInUseContainersAreIgnored`,
    /// `TestFreeSpaceRemoveByLeastRecentlyUsed`, `TestFreeSpaceTiesBrokenByDetectedTime`.
    #[test]
    fn the_longest_unused_go_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = ImageHistory::new();
        let old = vec![image("old", false), image("builtin", true)];
        note(&mut known, &old, &set(&[]), None);
        let all = ["old", "early", "late", "busy"].map(|id| image(id, false));
        note(&mut known, &all[..2], &set(&["early"]), Some(at(0)));
        note(&mut known, &all, &set(&["late", "busy"]), Some(at(60)));
        let ids = |used: &[&str], now| {
            let mut images = all.to_vec();
            images.push(image("builtin", true));
            let order = candidates(images, &set(used), &known, now);
            order.into_iter().map(|i| i.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&["busy"], at(61)), ["old"], "the others are too young");
        assert_eq!(ids(&["busy"], at(120)), ["old", "early"]);
        assert_eq!(ids(&["busy"], at(180)), ["old", "early", "late"]);
        assert_eq!(ids(&["old", "early", "late", "busy"], at(180)), [""; 0]);
    }

    #[test]
    fn images_that_are_gone_are_forgotten() {
        let mut known = ImageHistory::new();
        let now = Instant::now();
        note(&mut known, &[image("a", false)], &set(&["a"]), None);
        note(&mut known, &[image("b", false)], &set(&[]), Some(now));
        assert_eq!(known.len(), 1);
        let first = Some(now);
        assert_eq!(
            known["b"],
            ImageTimes {
                first,
                last_used: None
            }
        );
    }
}
