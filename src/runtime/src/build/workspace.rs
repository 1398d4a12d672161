//! Mounted layers outside of containers.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::snapshot;

/// Layers that are mounted in a directory. Unmounted when dropped.
pub struct Workspace {
    dir: PathBuf,
    root: PathBuf,
    mounted: bool,
}

impl Workspace {
    /// Mounts `layers` (directories, bottom first) in the directory `dir`, with a writable layer on
    /// top. Without layers, the root is the writable layer itself.
    pub fn writable(dir: &Path, layers: &[PathBuf]) -> Result<Self> {
        if layers.is_empty() {
            let upper = snapshot::upper(dir);
            fs::create_dir_all(&upper).context(|| format!("cannot make {}", upper.display()))?;
            return Ok(Self {
                dir: dir.to_path_buf(),
                root: upper,
                mounted: false,
            });
        }
        snapshot::mount_root(dir, layers, None)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            root: snapshot::rootfs(dir),
            mounted: true,
        })
    }

    /// Mounts `layers` (directories, bottom first) in the directory `dir`, read-only.
    pub fn read_only(dir: &Path, layers: &[PathBuf]) -> Result<Self> {
        let root = snapshot::rootfs(dir);
        if layers.is_empty() {
            fs::create_dir_all(&root).context(|| format!("cannot make {}", root.display()))?;
        } else {
            snapshot::mount_image(&root, layers, None)?;
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            root,
            mounted: !layers.is_empty(),
        })
    }

    /// Returns the root of the merged layers.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of what was changed.
    pub fn upper(&self) -> PathBuf {
        snapshot::upper(&self.dir)
    }

    /// Unmounts the layers; what was changed stays in [`Self::upper`].
    pub fn unmount(&mut self) -> Result<()> {
        if self.mounted {
            snapshot::unmount(&self.root)?;
            self.mounted = false;
        }
        Ok(())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(e) = self.unmount() {
            tracing::warn!("{e}");
        }
    }
}
