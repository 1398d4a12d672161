//! Content that builds keep: for their cache, and while they run.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rkube_fsutil::write_durable;

use super::Store;
use crate::error::{Context, ImageError};
use crate::image::digest::Digest;

impl Store {
    /// Returns the file that lists what the cache of builds on this node keeps.
    fn kept_path(&self) -> PathBuf {
        self.shared
            .join("nodes")
            .join(format!("build-{}", self.node))
    }

    /// Returns the file that lists what a build needs while it runs.
    fn held_path(&self, build: &str) -> PathBuf {
        self.shared
            .join("nodes")
            .join(format!("build-{}-{build}", self.node))
    }

    /// Prevents the deletion of content until [`Self::keep_only`]. The caller holds the lock from
    /// [`Self::hold`].
    pub fn keep(&self, content: &[Digest]) -> Result<(), ImageError> {
        let _lock = self.lock_index()?;
        append_missing(&self.kept_path(), content, true)
            .image_context(|| format!("cannot write {}", self.kept_path().display()))
    }

    /// Begins the list of what a build keeps. Can be repeated until [`Self::end_build`].
    pub fn begin_build(&self, build: &str) -> Result<(), ImageError> {
        let path = self.held_path(build);
        let _lock = self.lock_index()?;
        append_missing(&path, &[], true)
            .image_context(|| format!("cannot write {}", path.display()))
    }

    /// Prevents the deletion of content until the build ends, see [`Self::end_build`]. The caller
    /// holds the lock from [`Self::hold`].
    ///
    /// # Errors
    /// Fails if the build has not begun or has ended: nothing would permit the deletion later.
    pub fn keep_for(&self, build: &str, content: &[Digest]) -> Result<(), ImageError> {
        let path = self.held_path(build);
        let _lock = self.lock_index()?;
        match append_missing(&path, content, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(e).image_context(|| format!("build {build} has ended, or has not begun"))
            }
            kept => kept.image_context(|| format!("cannot write {}", path.display())),
        }
    }

    /// Permits the deletion of what only this build has kept. Can be repeated.
    pub fn end_build(&self, build: &str) -> Result<(), ImageError> {
        let path = self.held_path(build);
        let _lock = self.lock_index()?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.image_context(|| format!("cannot remove {}", path.display())),
        }
    }

    /// Permits the deletion of all kept content but `still`, and deletes what is unused.
    pub fn keep_only(&self, still: &[Digest]) -> Result<(), ImageError> {
        let path = self.kept_path();
        let lock = self.lock_index()?;
        let lines: String = still.iter().map(|d| format!("{d}\n")).collect();
        write_durable(&path, lines.as_bytes())
            .image_context(|| format!("cannot write {}", path.display()))?;
        drop(lock);
        self.collect()
    }
}

/// Appends digests to a list, those that it lacks. `create` makes a list that does not exist.
fn append_missing(path: &Path, content: &[Digest], create: bool) -> io::Result<()> {
    let known = match fs::read_to_string(path) {
        Err(e) if create && e.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let known: HashSet<&str> = known.lines().collect();
    let lines: String = content
        .iter()
        .filter(|d| !known.contains(d.as_str()))
        .map(|d| format!("{d}\n"))
        .collect();
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(create).append(true).open(path)?;
    io::Write::write_all(&mut file, lines.as_bytes())
}
