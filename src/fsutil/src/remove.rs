//! Removal of trees of any depth.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// A directory whose content is being removed. Its parent is that of the frame before.
struct Frame {
    name: CString,
    /// Device and inode, to recognize the directory on the way back.
    identity: (u64, u64),
    /// Names of the directories in it that are still to be removed.
    directories: Vec<CString>,
}

/// Removes `path`, which may be of any kind. Fails if it does not exist.
pub fn remove_path(path: &Path) -> io::Result<()> {
    let Some(Component::Normal(name)) = path.components().next_back() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = open(None, parent, OFlag::empty())?;
    remove_in(parent, c_name(name)?)
}

/// Removes a name from the directory `dir`, with the content if it is a directory. Succeeds if
/// it does not exist. Symbolic links are removed, not followed.
///
/// # Errors
///
/// Fails if `name` is no single path component, or if another process moves a directory of
/// the tree meanwhile.
pub fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    if Path::new(name).components().count() != 1 || matches!(name.as_bytes(), b"." | b"..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parent = open(Some(dir.as_raw_fd()), Path::new("."), OFlag::empty())?;
    match remove_in(parent, c_name(name)?) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Removes a name from a directory. Holds two directories open at most: it returns from a
/// directory to its parent by `..`, and checks that this is where it came from.
fn remove_in(mut current: Dir, name: CString) -> io::Result<()> {
    if is_file(&current, &name)? {
        return Ok(unlinkat(fd(&current), &*name, UnlinkatFlags::NoRemoveDir)?);
    }
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = Some(name);
    loop {
        if let Some(name) = next.take() {
            let identity = identity(&fstat(current.as_raw_fd())?);
            current = match open(fd(&current), &*name, OFlag::O_NOFOLLOW) {
                // Removed by another process.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !frames.is_empty() => continue,
                opened => opened?,
            };
            let directories = empty(&mut current)?;
            frames.push(Frame {
                name,
                identity,
                directories,
            });
        }
        let Some(frame) = frames.last_mut() else {
            return Ok(());
        };
        next = frame.directories.pop();
        if next.is_none() {
            let parent = open(fd(&current), c"..", OFlag::empty())?;
            if identity(&fstat(parent.as_raw_fd())?) != frame.identity {
                return Err(io::Error::other(format!(
                    "the directory {} was moved while it was removed",
                    frame.name.to_string_lossy()
                )));
            }
            tolerate(unlinkat(
                fd(&parent),
                &*frame.name,
                UnlinkatFlags::RemoveDir,
            ))?;
            current = parent;
            frames.pop();
        }
    }
}

/// Removes everything but directories from a directory. Returns the names of those.
fn empty(dir: &mut Dir) -> io::Result<Vec<CString>> {
    // Removing names while the directory is read may hide others.
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    let mut directories = Vec::new();
    for (name, kind) in names {
        let directory = match kind {
            Some(kind) => kind == Type::Directory,
            None => match is_file(dir, &name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                file => !file?,
            },
        };
        if directory {
            directories.push(name);
            continue;
        }
        tolerate(unlinkat(fd(dir), &*name, UnlinkatFlags::NoRemoveDir))?;
    }
    Ok(directories)
}

/// Ignores that another process has removed a name first.
fn tolerate(removed: nix::Result<()>) -> io::Result<()> {
    match removed {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Returns whether a name is anything but a directory.
fn is_file(dir: &Dir, name: &CStr) -> io::Result<bool> {
    let stat = fstatat(fd(dir), name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR)
}

fn open<P: ?Sized + nix::NixPath>(dir: Option<i32>, path: &P, flags: OFlag) -> io::Result<Dir> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(Dir::openat(dir, path, flags, Mode::empty())?)
}

fn fd(dir: &Dir) -> Option<i32> {
    Some(dir.as_raw_fd())
}

fn identity(stat: &FileStat) -> (u64, u64) {
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "the types differ between systems"
    )]
    let identity = (stat.st_dev as u64, stat.st_ino as u64);
    identity
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::remove_tree;

    #[test]
    fn a_deep_tree_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        // Longer than a path may be, and with more levels than a process may usually open files.
        let mut current = open(None, &top, OFlag::empty()).unwrap();
        for level in 0..4000 {
            nix::sys::stat::mkdirat(fd(&current), c"d", Mode::S_IRWXU).unwrap();
            if level % 100 == 0 {
                let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let file = nix::fcntl::openat(fd(&current), c"f", flags, Mode::S_IRWXU).unwrap();
                nix::unistd::close(file).unwrap();
            }
            current = open(fd(&current), c"d", OFlag::empty()).unwrap();
        }
        drop(current);
        remove_tree(&top).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir_all(kept.join("sub")).unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir_all(tree.join("c")).unwrap();
        fs::write(tree.join("c/file"), "").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        symlink("nowhere", tree.join("c/link")).unwrap();
        remove_tree(&tree).unwrap();
        symlink(&kept, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(kept.join("sub").is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_is_removed_from_an_open_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let handle = fs::File::open(dir.path()).unwrap();
        for name in ["a", "a", "file"] {
            remove_at(handle.as_fd(), OsStr::new(name)).unwrap();
        }
        for name in ["", ".", "..", "a/b"] {
            assert!(
                remove_at(handle.as_fd(), OsStr::new(name)).is_err(),
                "{name}"
            );
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
