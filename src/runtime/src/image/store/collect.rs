//! The deletion of unused content.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Store, name_of, paths_in, remove};
use crate::error::{Context, ImageError};
use crate::image::lock::FileLock;

/// What begins the names of directories with the blobs of a bundle while it is written.
pub const BUNDLE: &str = "bundle-";

impl Store {
    /// Removes an image and deletes unused content, unless content is in use by a pull, load or
    /// push: then changes nothing. Returns whether it was done; it is for an unknown image.
    pub fn remove_unless_busy(&self, image: &str) -> Result<bool, ImageError> {
        let lock = FileLock::try_exclusive(&self.collect_lock())
            .image_context(|| "cannot lock the image store".into())?;
        let Some(lock) = lock else {
            return Ok(false);
        };
        if self.forget(image)? {
            self.delete_unused(&lock)?;
        }
        Ok(true)
    }

    /// Deletes content that no node refers to. Waits until no pull or load is in progress, so the
    /// caller must not hold a lock of the index: the end of a pull waits for it.
    pub(super) fn collect(&self) -> Result<(), ImageError> {
        let lock = FileLock::exclusive(&self.collect_lock())
            .image_context(|| "cannot lock the image store".into())?;
        self.delete_unused(&lock)
    }

    /// Returns the lock that is shared while content is added, exclusive while it is deleted.
    pub(super) fn collect_lock(&self) -> PathBuf {
        self.shared.join("locks/collect")
    }

    /// Deletes content that no node refers to. The caller holds the lock of [`Self::collect_lock`].
    fn delete_unused(&self, _lock: &FileLock) -> Result<(), ImageError> {
        let mut used: HashSet<String> = HashSet::new();
        for path in paths_in(&self.shared.join("nodes"))? {
            match fs::read_to_string(&path) {
                Ok(text) => used.extend(text.lines().map(str::to_string)),
                // Another removal has replaced a list: this was the new one under the name that it
                // had while it was written. No references are added meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(e).image_context(|| format!("cannot read {}", path.display()));
                }
            }
        }
        // No pull or load is in progress, so partial content is abandoned.
        for path in paths_in(&self.ingest_dir())? {
            let name = name_of(&path);
            if name.starts_with("blob-") {
                let _ = fs::remove_file(&path);
                let _ = fs::remove_file(self.shared.join("locks").join(&name));
            } else if ["layer-", "trash-", BUNDLE]
                .iter()
                .any(|p| name.starts_with(p))
            {
                remove(&path)?;
            }
        }
        for algorithm in ["sha256", "sha512"] {
            let unused = |kind: &str| -> Result<Vec<PathBuf>, ImageError> {
                let mut paths = paths_in(&self.shared.join(kind).join(algorithm))?;
                paths.retain(|path| !used.contains(&format!("{algorithm}:{}", name_of(path))));
                Ok(paths)
            };
            for path in unused("blobs")? {
                fs::remove_file(&path)
                    .image_context(|| format!("cannot remove blob {}", path.display()))?;
                self.forget_lock(&path);
            }
            for path in unused("layers")? {
                // Renamed first, so that a partially deleted layer is never found.
                let trash = self.ingest_dir().join(format!("trash-{}", name_of(&path)));
                remove(&trash)?;
                fs::rename(&path, &trash)
                    .image_context(|| format!("cannot remove layer {}", path.display()))?;
                remove(&trash)?;
                self.forget_lock(&path);
            }
        }
        Ok(())
    }

    /// Removes the lock file of deleted content. One that is left does no harm.
    fn forget_lock(&self, content: &Path) {
        let _ = fs::remove_file(self.shared.join("locks").join(name_of(content)));
    }
}
