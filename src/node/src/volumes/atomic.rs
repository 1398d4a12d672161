//! Updates a volume's files atomically, in the layout of upstream's `AtomicWriter`.
//!
//! The files are in a directory that is named after its creation time. `..data` is a symbolic link
//! to it, and each visible file is a symbolic link into `..data`. Replacing that one link replaces
//! all files.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

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
    if !relative || path.starts_with("..") || path.len() > 4096 {
        return Err(format!("invalid path {path:?}"));
    }
    Ok(())
}

/// Replaces the content of `dir` with `files`; returns whether anything changed.
pub(crate) fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    for path in files.keys() {
        check_path(path).map_err(io::Error::other)?;
    }
    std::fs::create_dir_all(dir)?;
    let data = dir.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if let Some(old) = &old
        && has_exactly(&dir.join(old), files)
    {
        return Ok(false);
    }
    let now = jiff::Timestamp::now();
    let name = format!(
        "..{}.{:09}",
        now.strftime("%Y_%m_%d_%H_%M_%S"),
        now.subsec_nanosecond()
    );
    let new = dir.join(&name);
    make_dir(&new, group)?;
    for (path, file) in files {
        let target = new.join(path);
        if let Some(parent) = Path::new(path)
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
        {
            let mut at = new.clone();
            for part in parent.components() {
                at.push(part);
                if !at.is_dir() {
                    make_dir(&at, group)?;
                }
            }
        }
        let mut f = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&target)?;
        f.write_all(&file.content)?;
        let mode = match group {
            // Whatever the owner can read, the group can read.
            Some(_) => file.mode | ((file.mode & 0o400) >> 3),
            None => file.mode,
        };
        std::os::unix::fs::chown(&target, file.uid, group)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode & 0o7777))?;
    }
    // Visible links into the new directory; those of removed files are deleted below.
    let tops: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|p| p.split('/').next()).collect();
    let next = dir.join(DATA_NEW);
    remove(&next)?;
    symlink(&name, &next)?;
    std::fs::rename(&next, &data)?;
    for top in &tops {
        let link = dir.join(top);
        if link.symlink_metadata().is_err() {
            symlink(PathBuf::from(DATA).join(top), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let file = entry.file_name();
        let text = file.to_string_lossy();
        let mine = text == name || text == DATA || tops.contains(text.as_ref());
        if !mine {
            remove(&entry.path())?;
        }
    }
    Ok(true)
}

fn make_dir(path: &Path, group: Option<u32>) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o755).create(path)?;
    // Permissions must not depend on the process's umask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match path.symlink_metadata() {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Returns whether a directory contains exactly these files.
fn has_exactly(dir: &Path, files: &Files) -> bool {
    let mut count = 0;
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&at) else {
            return false;
        };
        for entry in entries.flatten() {
            if entry.path().is_dir() {
                pending.push(entry.path());
            } else {
                count += 1;
            }
        }
    }
    count == files.len()
        && files.iter().all(|(path, file)| {
            let full = dir.join(path);
            std::fs::read(&full).is_ok_and(|c| c == file.content)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn changes_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(visible(dir), ["a", "sub"]);
        assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(
            std::fs::read_link(dir.join("a")).unwrap(),
            Path::new("..data/a")
        );
        let mode = std::fs::metadata(dir.join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
        let before = std::fs::read_link(dir.join(DATA)).unwrap();
        assert!(!write(dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(std::fs::read_link(dir.join(DATA)).unwrap(), before);
        assert!(write(dir, &files(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(visible(dir), ["a", "c"]);
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "3");
        // One content directory and the `..data` link are left.
        let hidden = std::fs::read_dir(dir).unwrap().flatten().count();
        assert_eq!(hidden, 4);
    }

    #[test]
    fn paths_stay_inside() {
        for bad in ["", "/a", "../a", "a/../b", "..a", "."] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        assert!(check_path("a/b.c").is_ok());
    }
}
