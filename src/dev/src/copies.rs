//! Files that are copied into running containers: what they are, and the stream that carries them.
//!
//! The stream begins with a line of JSON, which is followed by a tar archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

/// The most bytes that are copied; more are built into an image.
pub const MAX_BYTES: u64 = 64 << 20;

/// The first line of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Absolute paths in the container that are removed first.
    pub removed: Vec<String>,
    /// The signal that the container's first process gets in the end.
    pub signal: Option<i32>,
}

/// Files to copy and to remove. The last of several changes to a path counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    written: BTreeMap<String, PathBuf>,
    removed: BTreeSet<String>,
}

impl Copies {
    /// Adds a file of this machine that goes to `target`.
    pub fn write(&mut self, source: PathBuf, target: String) {
        self.removed.remove(&target);
        self.written.insert(target, source);
    }

    /// Adds a path in the containers that is to be removed.
    pub fn remove(&mut self, target: String) {
        self.written.remove(&target);
        self.removed.insert(target);
    }

    /// Adds later changes.
    pub fn merge(&mut self, later: &Self) {
        for target in &later.removed {
            self.remove(target.clone());
        }
        for (target, source) in &later.written {
            self.write(source.clone(), target.clone());
        }
    }

    /// Keeps the files whose source fits, and the removed places that do.
    pub fn retain(
        &mut self,
        mut source: impl FnMut(&Path) -> bool,
        mut removed: impl FnMut(&str) -> bool,
    ) {
        self.written.retain(|_, from| source(from));
        self.removed.retain(|target| removed(target));
    }

    /// Returns whether there is nothing to copy or remove.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.removed.is_empty()
    }

    /// Returns the number of paths.
    pub fn len(&self) -> usize {
        self.written.len() + self.removed.len()
    }

    /// Returns the files with their places in the containers.
    pub fn written(&self) -> impl Iterator<Item = (&Path, &str)> {
        let written = self.written.iter();
        written.map(|(target, source)| (source.as_path(), target.as_str()))
    }

    /// Returns the paths in the containers that are removed.
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        self.removed.iter().map(String::as_str)
    }

    /// Returns the number of bytes of the files.
    pub fn bytes(&self) -> u64 {
        let sizes = self.written.values().map(fs::symlink_metadata);
        sizes.flatten().map(|metadata| metadata.len()).sum()
    }

    /// Writes the stream. Files that are gone by now are left out: another change follows.
    ///
    /// # Errors
    /// I/O errors, with the path that they happened at.
    pub fn stream(&self, signal: Option<i32>, mut to: impl Write) -> io::Result<()> {
        let head = Head {
            removed: self.removed.iter().cloned().collect(),
            signal,
        };
        let mut line = serde_json::to_vec(&head).map_err(io::Error::other)?;
        line.push(b'\n');
        to.write_all(&line)?;
        let mut archive = Builder::new(to);
        for (target, source) in &self.written {
            let done = append(&mut archive, source, target.trim_start_matches('/'));
            match done {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(io::Error::new(
                        e.kind(),
                        format!("{}: {e}", source.display()),
                    ));
                }
                Ok(()) => {}
            }
        }
        archive.into_inner()?.flush()
    }
}

fn append(archive: &mut Builder<impl Write>, source: &Path, target: &str) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_uid(0);
    header.set_gid(0);
    if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        return archive.append_link(&mut header, target, fs::read_link(source)?);
    }
    if !metadata.is_file() {
        return Ok(());
    }
    // Read first: the header must have the size that follows, also while somebody writes.
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut File::open(source)?, &mut bytes)?;
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, target, bytes.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, Read as _};

    #[test]
    fn the_last_change_of_a_path_counts() {
        let mut copies = Copies::default();
        copies.write("/a".into(), "/x".into());
        copies.remove("/x".into());
        assert_eq!(copies.removed().collect::<Vec<_>>(), ["/x"]);
        assert_eq!(copies.len(), 1);
        let mut later = Copies::default();
        later.write("/b".into(), "/x".into());
        copies.merge(&later);
        assert_eq!(copies, later);
        assert!(!copies.is_empty());
    }

    #[test]
    fn the_stream_has_what_is_removed_and_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "text").unwrap();
        let long = format!("/{}/b", "d".repeat(150));
        let mut copies = Copies::default();
        copies.write(dir.path().join("a"), "/srv/a".into());
        copies.write(dir.path().join("a"), long.clone());
        copies.write(dir.path().join("gone"), "/srv/gone".into());
        copies.remove("/srv/old".into());
        assert_eq!(copies.bytes(), 8);
        let mut stream = Vec::new();
        copies.stream(Some(1), &mut stream).unwrap();
        let mut input = stream.as_slice();
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        let head: Head = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (head.removed, head.signal),
            (vec!["/srv/old".into()], Some(1))
        );
        let mut archive = tar::Archive::new(input);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.push((format!("/{path}"), text));
        }
        assert_eq!(
            found,
            [(long, "text".into()), ("/srv/a".into(), "text".into())]
        );
    }
}
