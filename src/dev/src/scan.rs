//! The state of the watched files, and what distinguishes two states.
//!
//! A change is what two scans differ in, and not what the system reports: reports get lost, come in
//! several pieces, and tell of files that editors make for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rkube_build::pattern::Matcher;

use crate::manifests::is_manifest;

/// Deepest directory that is read, against links that lead back and stacks that overflow.
const MAX_DEPTH: usize = 128;

/// A place of files to watch.
#[derive(Clone, Debug)]
pub enum Root {
    /// A directory with everything below it but what is excluded.
    Tree {
        /// The directory.
        dir: PathBuf,
        /// Patterns of files to leave out, relative to it.
        excluded: Matcher,
    },
    /// The manifests directly in a directory.
    Manifests(PathBuf),
    /// A single file.
    File(PathBuf),
}

/// What tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Mode and inode.
    identity: (u32, u64),
    /// The target, if it is a link.
    link: Option<PathBuf>,
}

/// The files of all roots at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    files: BTreeMap<PathBuf, Stamp>,
    /// The directories that changes can happen in.
    pub directories: BTreeSet<PathBuf>,
    /// What is there and cannot be read at the moment.
    unread: BTreeSet<PathBuf>,
}

impl Root {
    /// Returns whether a file belongs to it.
    fn covers(&self, path: &Path) -> bool {
        match self {
            Self::Tree { dir, excluded } => path.strip_prefix(dir).is_ok_and(|below| {
                let parts = below.components();
                let parts: Vec<_> = parts.map(|p| p.as_os_str().to_string_lossy()).collect();
                !excluded.matches(&parts.join("/"))
            }),
            Self::Manifests(dir) => path.parent() == Some(dir) && is_manifest(path),
            Self::File(file) => file == path,
        }
    }
}

/// What has happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new or has another content.
    Written,
    /// It is gone.
    Removed,
}

/// A file that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its absolute path.
    pub path: PathBuf,
    /// What has happened.
    pub what: What,
}

/// Returns whether a file or directory is an editor's, a file manager's or a version control's own.
pub fn is_temporary(name: &str) -> bool {
    let swap = |end: &str| {
        // vim counts down from .swp.
        end.len() == 3 && end.starts_with("sw") && end.as_bytes()[2].is_ascii_lowercase()
    };
    let hidden_swap = name.starts_with('.') && name.rsplit_once('.').is_some_and(|(_, e)| swap(e));
    hidden_swap
        || name.ends_with('~')
        || name.starts_with(".#")
        || (name.starts_with('#') && name.ends_with('#'))
        || name.ends_with("___jb_tmp___")
        || name.ends_with("___jb_old___")
        || name.ends_with(".kate-swp")
        || name.starts_with(".goutputstream-")
        || matches!(
            name,
            "4913" | ".DS_Store" | "Thumbs.db" | ".git" | ".hg" | ".svn"
        )
}

/// Returns whether an error says that something is not there.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// Reads the state of all files. What cannot be read is noted, see [`Snapshot::carry`].
pub fn scan(roots: &[Root]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for root in roots {
        match root {
            Root::Tree { dir, excluded } => snapshot.tree(dir, "", excluded, 0),
            Root::Manifests(dir) => snapshot.manifests(dir),
            Root::File(path) => {
                if let Some(parent) = path.parent() {
                    snapshot.directories.insert(parent.to_path_buf());
                }
                snapshot.file(path);
            }
        }
    }
    snapshot
}

impl Snapshot {
    fn file(&mut self, path: &Path) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_dir() => {
                self.files
                    .insert(path.to_path_buf(), stamp(path, &metadata));
            }
            Err(e) if !is_gone(&e) => {
                self.unread.insert(path.to_path_buf());
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Returns the entries of a directory.
    fn entries(&mut self, dir: &Path) -> Vec<fs::DirEntry> {
        let read = fs::read_dir(dir).and_then(Iterator::collect);
        read.unwrap_or_else(|e: std::io::Error| {
            if !is_gone(&e) {
                self.unread.insert(dir.to_path_buf());
            }
            Vec::new()
        })
    }

    /// Takes over from an earlier state what could not be read now: it may not have changed.
    pub fn carry(&mut self, earlier: &Self) {
        for (path, stamp) in &earlier.files {
            if path.ancestors().any(|above| self.unread.contains(above)) {
                let entry = self.files.entry(path.clone());
                entry.or_insert_with(|| stamp.clone());
            }
        }
    }

    /// Returns this state, which was read with the roots `before`, as if it had been read with the
    /// roots `after`. `now` is read with these: files that did not belong to `before` are in it as
    /// they are now.
    pub fn moved(&self, before: &[Root], after: &[Root], now: &Self) -> Self {
        let covers = |roots: &[Root], path: &Path| roots.iter().any(|root| root.covers(path));
        let mut moved = now.clone();
        moved
            .files
            .retain(|path, _| !covers(before, path) && !self.files.contains_key(path));
        for (path, stamp) in &self.files {
            if now.files.contains_key(path) || covers(after, path) {
                moved.files.insert(path.clone(), stamp.clone());
            }
        }
        moved
    }

    fn manifests(&mut self, dir: &Path) {
        self.directories.insert(dir.to_path_buf());
        for entry in self.entries(dir) {
            let path = entry.path();
            if is_manifest(&path) && !is_temporary(&entry.file_name().to_string_lossy()) {
                self.file(&path);
            }
        }
    }

    fn tree(&mut self, dir: &Path, below: &str, excluded: &Matcher, depth: usize) {
        self.directories.insert(dir.to_path_buf());
        if depth > MAX_DEPTH {
            return;
        }
        for entry in self.entries(dir) {
            let own = entry.file_name();
            let own = own.to_string_lossy();
            if is_temporary(&own) {
                continue;
            }
            let name = match below {
                "" => own.into_owned(),
                parent => format!("{parent}/{own}"),
            };
            // Links are not followed, as by builds.
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(e) => {
                    if !is_gone(&e) {
                        self.unread.insert(entry.path());
                    }
                    continue;
                }
            };
            let left_out = excluded.matches(&name);
            let path = entry.path();
            match metadata.is_dir() {
                true if left_out && !excluded.has_exceptions() => {}
                true => self.tree(&path, &name, excluded, depth + 1),
                false if left_out => {}
                false => {
                    let stamp = stamp(&path, &metadata);
                    self.files.insert(path, stamp);
                }
            }
        }
    }

    /// Returns in which files `newer` differs.
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (path, stamp) in &newer.files {
            if self.files.get(path) != Some(stamp) {
                let path = path.clone();
                let what = What::Written;
                changes.push(Change { path, what });
            }
        }
        for path in self.files.keys() {
            if !newer.files.contains_key(path) {
                let path = path.clone();
                let what = What::Removed;
                changes.push(Change { path, what });
            }
        }
        changes
    }
}

fn stamp(path: &Path, metadata: &Metadata) -> Stamp {
    Stamp {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        identity: identity(metadata),
        link: metadata
            .is_symlink()
            .then(|| fs::read_link(path).ok())
            .flatten(),
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u32, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.mode(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u32, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editors_files_are_known() {
        for name in [
            ".main.py.swp",
            ".x.swo",
            "4913",
            "main.py~",
            ".#main.py",
            "#main.py#",
            ".git",
            "a___jb_tmp___",
            ".DS_Store",
        ] {
            assert!(is_temporary(name), "{name}");
        }
        for name in [
            "main.py",
            ".env",
            "x.swp",
            "#a",
            ".gitignore",
            ".swift",
            "a.swift",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn scans_differ_in_what_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("app/a.py", "1");
        write("app/b.py", "1");
        write("app/build/x", "1");
        write("deploy.yaml", "1");
        write("deploy.txt", "1");
        let roots = [
            Root::Tree {
                dir: dir.path().join("app"),
                excluded: Matcher::of_ignore_file("build\n*.log\n").unwrap(),
            },
            Root::Manifests(dir.path().to_path_buf()),
            Root::File(dir.path().join("late")),
        ];
        let first = scan(&roots);
        assert!(first.changes(&scan(&roots)).is_empty());
        assert!(!first.directories.contains(&dir.path().join("app/build")));
        // Neither excluded files nor those of editors count.
        for name in ["app/build/x", "app/a.log", "app/.a.py.swp", "deploy.txt"] {
            write(name, "22");
        }
        assert!(first.changes(&scan(&roots)).is_empty());
        write("app/a.py", "22");
        write("app/new/c.py", "1");
        write("deploy.yaml", "22");
        write("late", "");
        fs::remove_file(dir.path().join("app/b.py")).unwrap();
        let second = scan(&roots);
        let changes = first.changes(&second);
        let names: Vec<_> = changes
            .iter()
            .map(|change| {
                let name = change.path.strip_prefix(dir.path()).unwrap();
                format!("{} {:?}", name.display(), change.what)
            })
            .collect();
        assert_eq!(
            names,
            [
                "app/a.py Written",
                "app/new/c.py Written",
                "deploy.yaml Written",
                "late Written",
                "app/b.py Removed"
            ]
        );
        assert!(second.directories.contains(&dir.path().join("app/new")));
    }

    #[test]
    fn what_cannot_be_read_has_not_changed() {
        let file = |name: &str| (PathBuf::from(name), None::<SystemTime>);
        let state = |names: &[&str]| Snapshot {
            files: names
                .iter()
                .map(|name| {
                    let (path, modified) = file(name);
                    let (length, identity, link) = (1, (0, 0), None);
                    let stamp = Stamp {
                        modified,
                        length,
                        identity,
                        link,
                    };
                    (path, stamp)
                })
                .collect(),
            ..Snapshot::default()
        };
        let before = state(&["/a/b/c", "/a/d"]);
        let mut now = state(&[]);
        now.unread.insert("/a/b".into());
        now.carry(&before);
        let removed: Vec<_> = before.changes(&now).into_iter().map(|c| c.path).collect();
        assert_eq!(removed, [PathBuf::from("/a/d")]);
    }

    #[test]
    fn other_roots_keep_what_is_not_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b", "x.log"] {
            fs::write(path(name), "1").unwrap();
        }
        let tree = |text: &str| {
            [Root::Tree {
                dir: dir.path().to_path_buf(),
                excluded: Matcher::of_ignore_file(text).unwrap(),
            }]
        };
        let (before, after) = (tree("*.log\n"), tree("unused\n"));
        let seen = scan(&before);
        fs::write(path("a"), "22").unwrap();
        fs::write(path("new"), "1").unwrap();
        fs::remove_file(path("b")).unwrap();
        let now = scan(&after);
        let changes = seen.moved(&before, &after, &now).changes(&now);
        let names: Vec<_> = changes
            .iter()
            .map(|c| c.path.file_name().unwrap().to_string_lossy())
            .collect();
        assert_eq!(names, ["a", "new", "b"]);
    }

    #[test]
    fn a_file_that_was_replaced_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [Root::Tree {
            dir: dir.path().to_path_buf(),
            excluded: Matcher::default(),
        }];
        let path = dir.path().join("a");
        let old = SystemTime::UNIX_EPOCH;
        let write = |path: &Path| {
            let file = fs::File::create(path).unwrap();
            file.set_modified(old).unwrap();
        };
        write(&path);
        let first = scan(&roots);
        let other = dir.path().join("b~");
        write(&other);
        fs::rename(&other, &path).unwrap();
        assert_eq!(first.changes(&scan(&roots)).len(), usize::from(cfg!(unix)));
    }
}
