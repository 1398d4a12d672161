//! What a session takes away: names of older builds, and in the end everything it has made.

use std::collections::BTreeSet;

use rkube_dev::reference;
use rkube_failure::Failure;
use serde_json::json;

use super::Session;
use crate::cli::dev::images;

/// Names of an image's earlier builds that stay on the nodes, for `kubectl rollout undo`.
const KEPT_BUILDS: usize = 2;

impl Session<'_> {
    /// Takes the names of older builds away.
    pub(super) async fn forget_old(&mut self) -> Result<(), Failure> {
        let mut old = Vec::new();
        for image in &self.images {
            let known = self.store.record.images.iter();
            let others = known.filter(|name| image.name.as_ref() != Some(*name));
            let names: Vec<_> = others
                .filter(|name| reference::is_build_of(&image.built, name))
                .collect();
            let count = names.len().saturating_sub(KEPT_BUILDS);
            old.extend(names.into_iter().take(count).cloned());
        }
        if old.is_empty() {
            return Ok(());
        }
        // Pods of objects that could not be applied, or that are older, still need theirs.
        let used = self.deployer.used_images().await?;
        old.retain(|name| !used.contains(name));
        let left = images::forget(self.home, &self.profile, &old).await;
        let known = &mut self.store.record.images;
        known.retain(|name| !old.contains(name) || left.contains(name));
        self.store.save()
    }

    /// Prints and forwards nothing any more.
    pub fn quiet(&mut self) {
        if let Some(wait) = self.wait.take() {
            wait.abort();
        }
        self.live.quiet();
        self.forwards.stop();
    }

    /// Takes away what the session, or an earlier one, has made.
    pub async fn clean_up(&mut self) -> Result<(), Failure> {
        let objects = self.store.record.objects.clone();
        self.live.quiet();
        let removed = self.deployer.remove(&objects, &self.live).await?;
        self.store.record.objects.retain(|object| object.adopted);
        self.store.save()?;
        // Objects that were there before stay, and with them the images that they got.
        let mut used = BTreeSet::new();
        let names = std::mem::take(&mut self.store.record.images);
        let mut adopted = std::mem::take(&mut self.store.record.objects);
        let mut kept = Vec::new();
        for object in adopted.drain(..) {
            let images = self.deployer.images_of(&object).await?;
            if names.iter().any(|name| images.contains(name)) {
                used.extend(images);
                kept.push(object);
            }
        }
        used.extend(self.deployer.pod_images().await?);
        let (kept_names, old): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| used.contains(name));
        self.store.record.objects = kept;
        self.store.record.images = images::forget(self.home, &self.profile, &old).await;
        self.store.record.images.extend(kept_names);
        self.store.save()?;
        let message = match removed.is_empty() {
            true => "there was nothing to delete".to_owned(),
            false => format!("deleted {}", removed.join(", ")),
        };
        self.show
            .event("deleted", &message, json!({ "objects": removed }));
        Ok(())
    }
}
