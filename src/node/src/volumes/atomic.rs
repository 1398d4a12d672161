//! Updates a volume's files atomically, in the layout of upstream's `AtomicWriter`.
//!
//! The files are in a directory that is named after its creation time. `..data` is a symbolic link
//! to it, and each visible file is a symbolic link into `..data`. Replacing that one link replaces
//! all files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Component, Path};

use super::beneath::{Dir, is_dir, is_name, set_access};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
/// Maximum length of a path within a volume, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// Maximum length of each part of such a path, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner of the file; `None` leaves it to root.
    pub uid: Option<u32>,
}

/// A volume's files by path relative to the volume.
pub(crate) type Files = BTreeMap<String, File>;

/// Checks a path within a volume: relative, without `..`, and not starting with `..`.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let relative = !path.is_empty()
        && Path::new(path)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
    let long = |part: &str| part.len() > MAX_NAME_BYTES;
    if !relative
        || path.starts_with("..")
        || path.len() > MAX_PATH_BYTES
        || path.split('/').any(long)
    {
        return Err(format!("invalid path {path:?}"));
    }
    Ok(())
}

/// A volume's directory and what it has to contain.
pub(crate) struct Volume<'a> {
    pub dir: &'a Path,
    pub files: &'a Files,
    /// The group that may read the files, if the pod has an `fsGroup`.
    pub group: Option<u32>,
    /// Directories, relative to the volume, that other volumes are mounted at.
    pub mount_points: &'a BTreeSet<String>,
}

/// Makes the content of a volume's directory equal to its files; returns whether anything changed.
///
/// The directory must exist. Symbolic links in it are never followed.
pub(crate) fn write(volume: &Volume<'_>) -> io::Result<bool> {
    let Volume { files, group, .. } = *volume;
    for path in files.keys().chain(volume.mount_points) {
        check_path(path).map_err(io::Error::other)?;
    }
    let dir = Dir::open(volume.dir)?;
    for path in volume.mount_points {
        make_mount_point(&dir, path)?;
    }
    let data = OsStr::new(DATA);
    if let Some(old) = dir.link(data)?.filter(|old| is_name(old))
        && has_exactly(&dir, &old, files, group)
    {
        // An agent that was killed may have left them out.
        return link_visible(&dir, files);
    }
    let now = jiff::Timestamp::now();
    let name = OsString::from(format!(
        "..{}.{:09}",
        now.strftime("%Y_%m_%d_%H_%M_%S"),
        now.subsec_nanosecond()
    ));
    let new = dir.make_dir(&name, dir_mode(group), group)?;
    let mut files_in_order = files.iter();
    let filled =
        files_in_order.try_for_each(|(path, file)| put(&new, Path::new(path), file, group));
    if let Err(e) = filled {
        // Every retry would leave another one, for example on a full disk.
        let _ = dir.remove(&name);
        return Err(e);
    }
    // Visible links into the new directory; those of removed files are deleted below.
    let next = OsStr::new(DATA_NEW);
    dir.remove(next)?;
    dir.make_link(next, Path::new(&name))?;
    dir.rename(next, data)?;
    link_visible(&dir, files)?;
    let tops = top_names(files);
    let mounts: BTreeSet<&OsStr> = volume.mount_points.iter().map(|p| top_name(p)).collect();
    for entry in dir.names()? {
        let entry = entry.as_os_str();
        let mine = entry == name || entry == data || tops.contains(entry);
        if !mine && !mounts.contains(entry) {
            dir.remove(entry)?;
        }
    }
    Ok(true)
}

/// Makes the visible links into the current directory that are missing; returns whether there were
/// any.
fn link_visible(dir: &Dir, files: &Files) -> io::Result<bool> {
    let mut any = false;
    for top in top_names(files) {
        if dir.status_of(top)?.is_none() {
            dir.make_link(top, &Path::new(DATA).join(top))?;
            any = true;
        }
    }
    Ok(any)
}

/// Returns the names of the visible links.
fn top_names(files: &Files) -> BTreeSet<&OsStr> {
    files.keys().map(|path| top_name(path)).collect()
}

/// Returns the first part of a path.
fn top_name(path: &str) -> &OsStr {
    OsStr::new(path.split('/').next().unwrap_or_default())
}

/// Returns the mode of directories. With a group, it may read them, and new files inherit it.
fn dir_mode(group: Option<u32>) -> u32 {
    if group.is_some() { 0o2755 } else { 0o755 }
}

/// Returns the mode of a file. A group may read whatever the file's own mode is, as upstream.
fn file_mode(file: &File, group: Option<u32>) -> u32 {
    let mode = file.mode & 0o7777;
    if group.is_some() { mode | 0o440 } else { mode }
}

/// Creates a directory below the volume, with its parents, unless it exists.
fn make_mount_point(dir: &Dir, path: &str) -> io::Result<()> {
    let mut at: Option<Dir> = None;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let parent = at.as_ref().unwrap_or(dir);
        let name = OsStr::new(part);
        let next = match parent.status_of(name)? {
            None => parent.make_dir(name, 0o755, None)?,
            Some(stat) if is_dir(&stat) => match parent.dir(Path::new(name)) {
                // The other volume is mounted there already.
                Err(e) if e.raw_os_error() == Some(libc::EXDEV) => return Ok(()),
                opened => opened?,
            },
            Some(_) => {
                return Err(io::Error::other(format!(
                    "cannot make the mount point {path}: {part} is not a directory"
                )));
            }
        };
        at = Some(next);
    }
    Ok(())
}

/// Creates a file, and its directories, below a new directory.
fn put(new: &Dir, path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    let mut at: Option<Dir> = None;
    let (parent, name) = (path.parent(), path.file_name().unwrap_or_default());
    for part in parent.into_iter().flat_map(Path::components) {
        let dir = at.as_ref().unwrap_or(new);
        let part = part.as_os_str();
        at = Some(match dir.status_of(part)? {
            Some(_) => dir.dir(Path::new(part))?,
            None => dir.make_dir(part, dir_mode(group), group)?,
        });
    }
    let mut to = at.as_ref().unwrap_or(new).create(Path::new(name))?;
    to.write_all(&file.content)?;
    set_access(&to, file.uid, group, file_mode(file, group))
}

/// Returns whether a directory contains exactly these files, with their modes and owners.
fn has_exactly(dir: &Dir, name: &OsStr, files: &Files, group: Option<u32>) -> bool {
    let Ok(data) = dir.dir(Path::new(name)) else {
        return false;
    };
    // The directories that the files need; more than these are not looked at.
    let dirs: BTreeSet<&Path> = files
        .keys()
        .flat_map(|p| Path::new(p).ancestors().skip(1))
        .filter(|p| !p.as_os_str().is_empty())
        .collect();
    let mut pending = vec![(data, std::path::PathBuf::new())];
    let mut found = 0;
    while let Some((at, prefix)) = pending.pop() {
        let Ok(names) = at.names() else { return false };
        for name in names {
            let path = prefix.join(&name);
            let same = if dirs.contains(path.as_path()) {
                let below = at.dir(Path::new(&name));
                below.map(|d| pending.push((d, path))).is_ok()
            } else {
                found += 1;
                let wanted = path.to_str().and_then(|p| files.get(p));
                wanted.is_some_and(|file| equals(&at, &name, file, group))
            };
            if !same {
                return false;
            }
        }
    }
    found == files.len()
}

/// Returns whether a file has this content, mode, owner and group.
fn equals(dir: &Dir, name: &OsStr, file: &File, group: Option<u32>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(open) = dir.file(Path::new(name)) else {
        return false;
    };
    let Ok(meta) = open.metadata() else {
        return false;
    };
    if !meta.is_file()
        || meta.len() != file.content.len() as u64
        || meta.mode() & 0o7777 != file_mode(file, group)
        || file.uid.is_some_and(|uid| uid != meta.uid())
        || group.is_some_and(|group| group != meta.gid())
    {
        return false;
    }
    let mut content = Vec::with_capacity(file.content.len());
    let limit = meta.len() + 1;
    open.take(limit).read_to_end(&mut content).is_ok() && content == file.content
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(p, c)| {
                (
                    (*p).to_owned(),
                    File {
                        content: c.as_bytes().to_vec(),
                        mode: 0o640,
                        uid: None,
                    },
                )
            })
            .collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| !n.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    fn put_all(dir: &Path, files: &Files) -> io::Result<bool> {
        put_around(dir, files, &[])
    }

    fn put_around(dir: &Path, files: &Files, mount_points: &[&str]) -> io::Result<bool> {
        write(&Volume {
            dir,
            files,
            group: None,
            mount_points: &mount_points.iter().map(|p| (*p).to_owned()).collect(),
        })
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn links_that_a_killed_agent_left_out_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, files) = (dir.path(), files(&[("a", "1"), ("sub/b", "2")]));
        put_all(dir, &files).unwrap();
        std::fs::remove_file(dir.join("sub")).unwrap();
        assert!(put_all(dir, &files).unwrap());
        assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert!(!put_all(dir, &files).unwrap());
    }

    #[test]
    fn changes_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(put_all(dir, &files(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert_eq!(visible(dir), ["a", "sub"]);
        assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(
            std::fs::read_link(dir.join("a")).unwrap(),
            Path::new("..data/a")
        );
        assert_eq!(mode(&dir.join("a")), 0o640);
        let before = std::fs::read_link(dir.join(DATA)).unwrap();
        assert!(!put_all(dir, &files(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert_eq!(std::fs::read_link(dir.join(DATA)).unwrap(), before);
        assert!(put_all(dir, &files(&[("a", "3"), ("c", "4")])).unwrap());
        assert_eq!(visible(dir), ["a", "c"]);
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "3");
        // One content directory and the `..data` link are left.
        let hidden = std::fs::read_dir(dir).unwrap().flatten().count();
        assert_eq!(hidden, 4);
    }

    #[test]
    fn changed_modes_are_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = files(&[("a", "1")]);
        assert!(put_all(dir.path(), &files).unwrap());
        files.get_mut("a").unwrap().mode = 0o400;
        assert!(put_all(dir.path(), &files).unwrap());
        assert_eq!(mode(&dir.path().join("a")), 0o400);
        assert!(!put_all(dir.path(), &files).unwrap());
    }

    #[test]
    fn links_of_a_container_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("a"), "1").unwrap();
        std::fs::create_dir(outside.path().join("sub")).unwrap();
        let untouched = |what: &str| {
            assert_eq!(visible(outside.path()), ["a", "sub"], "{what}");
            assert_eq!(visible(&outside.path().join("sub")).len(), 0, "{what}");
            assert_eq!(std::fs::read(outside.path().join("a")).unwrap(), b"1");
        };
        let wanted = files(&[("a", "1"), ("sub/b", "2")]);
        for target in [
            outside.path(),
            Path::new("/"),
            Path::new(".."),
            Path::new(DATA),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            for name in [DATA, DATA_NEW, "sub", "other"] {
                symlink(target, dir.join(name)).unwrap();
            }
            assert!(put_all(dir, &wanted).unwrap(), "{target:?}");
            untouched("by the first write");
            assert!(!dir.join("other").is_symlink());
            // A data directory whose parts were replaced is written again.
            let data = dir.join(std::fs::read_link(dir.join(DATA)).unwrap());
            std::fs::remove_dir_all(data.join("sub")).unwrap();
            symlink(outside.path().join("sub"), data.join("sub")).unwrap();
            assert!(put_all(dir, &wanted).unwrap(), "{target:?}");
            untouched("by the second write");
            let read = std::fs::read_to_string(dir.join(DATA).join("sub/b"));
            assert_eq!(read.unwrap(), "2");
        }
        // The directory itself may not be a link either.
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("volume")).unwrap();
        assert!(put_all(&dir.path().join("volume"), &wanted).is_err());
        untouched("by a link for a directory");
    }

    #[test]
    fn mount_points_of_other_volumes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(put_around(dir, &files(&[("a", "1")]), &["more", "deep/er"]).unwrap());
        assert_eq!(visible(dir), ["a", "deep", "more"]);
        assert_eq!(mode(&dir.join("deep/er")), 0o755);
        assert!(!put_around(dir, &files(&[("a", "1")]), &["more", "deep/er"]).unwrap());
        assert!(put_around(dir, &files(&[("b", "1")]), &["more", "deep/er"]).unwrap());
        assert_eq!(visible(dir), ["b", "deep", "more"]);
        let error = put_around(dir, &files(&[("b", "1")]), &["b"]).unwrap_err();
        assert!(error.to_string().contains("b is not a directory"));
    }

    #[test]
    fn groups_may_read() {
        for (own, group, wanted) in [
            (0o400, None, 0o400),
            (0o400, Some(5), 0o440),
            (0o644, Some(5), 0o644),
            (0o100_600, None, 0o600),
        ] {
            let file = File {
                content: vec![],
                mode: own,
                uid: None,
            };
            assert_eq!(file_mode(&file, group), wanted);
        }
        assert_eq!((dir_mode(None), dir_mode(Some(1))), (0o755, 0o2755));
    }

    #[test]
    fn paths_stay_inside() {
        let long = "a".repeat(256);
        for bad in ["", "/a", "../a", "a/../b", "..a", ".", long.as_str()] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        assert!(check_path("a/b.c").is_ok());
    }
}
