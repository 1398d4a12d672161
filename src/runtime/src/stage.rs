//! The files that a container's processes open during set-up, in a directory that they can reach.
//!
//! Processes of a user namespace have no rights over the node's directories, which are closed to
//! others. So all mounts of such a container, and namespaces that it joins, are shown in the run
//! directory, under a path that everybody may search.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::snapshot;
use crate::tree::{self, Tree};
use crate::users::Users;

/// Ignores that a file is missing: it may be removed at the container's end and on request at once.
fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The directory of one container.
pub struct Stage {
    dir: PathBuf,
}

impl Stage {
    /// Returns the stage of a container below the runtime's run directory.
    pub fn new(run: &Path, container: &str) -> Self {
        Self {
            dir: run.join("stages").join(container),
        }
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        fs::create_dir_all(&self.dir).context(|| format!("cannot make {}", self.dir.display()))?;
        Ok(self.dir.join(name))
    }

    /// Shows a mounted file system as it is. Returns where.
    pub fn show(&self, name: &str, source: &Path) -> Result<PathBuf> {
        let place = self.place(name)?;
        let tree = Tree::of(source, true)?;
        tree.follow()?;
        tree.attach(&place)?;
        Ok(place)
    }

    /// Shows a file or directory of the node with the IDs of a user namespace. Returns where.
    pub fn show_shifted(
        &self,
        name: &str,
        source: &Path,
        recursive: bool,
        users: &Users,
    ) -> Result<PathBuf> {
        let place = self.place(name)?;
        let tree = users.shifted(source, recursive)?;
        tree.follow()?;
        tree.attach(&place)?;
        Ok(place)
    }

    /// Pins the namespace of an open file. Returns where.
    pub fn pin(&self, name: &str, namespace: &fs::File) -> Result<PathBuf> {
        let place = self.place(name)?;
        tree::pin_open(namespace, &place)?;
        Ok(place)
    }

    /// Unmounts everything and removes the directory. Can be repeated.
    ///
    /// Removes mount points only, never what is in them: a mount may have been left.
    pub fn clear(&self) -> Result<()> {
        let failed = || format!("cannot remove {}", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.context(failed)?,
        };
        for entry in entries {
            let entry = entry.context(failed)?;
            let place = entry.path();
            snapshot::unmount(&place)?;
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir(&place),
                _ => fs::remove_file(&place),
            };
            unless_missing(removed).context(|| format!("cannot remove {}", place.display()))?;
        }
        unless_missing(fs::remove_dir(&self.dir)).context(failed)
    }
}
