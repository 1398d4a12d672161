//! Files of contexts and root file systems: reception, digests and copies.
//!
//! Paths are resolved inside their root first (`openat2`, `RESOLVE_IN_ROOT`). Below a resolved
//! path, links are never followed. No process of a build runs on the same files meanwhile.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use ring::digest::{Context, SHA256};
use rkube_runtime::build::{make_dirs, open_dir, open_in_root};

use super::cache::Key;
use super::errors::failed_at;
use super::mode::Mode;
use crate::error::{BuildError, Result};
use crate::pattern::Matcher;

/// Returns the path of an open file, which stays valid while the file is open.
pub fn path_of(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Unpacks a context into a new directory. Returns the number of bytes of its files.
pub fn receive(context: impl Read, target: &Path) -> Result<u64> {
    let received = |e: io::Error| BuildError::new(format!("cannot receive the build context: {e}"));
    fs::create_dir(target).map_err(failed_at(target))?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755)).map_err(failed_at(target))?;
    let root = open_dir(target).map_err(failed_at(target))?;
    let mut archive = tar::Archive::new(context);
    let mut bytes = 0;
    for entry in archive.entries().map_err(received)? {
        let mut entry = entry.map_err(received)?;
        let name = entry.path().map_err(received)?.into_owned();
        bytes += receive_one(&mut entry, &root, &name)
            .map_err(|e| BuildError::new(format!("the build context: {}: {e}", name.display())))?;
    }
    Ok(bytes)
}

fn receive_one(
    entry: &mut tar::Entry<'_, impl Read>,
    root: &OwnedFd,
    name: &Path,
) -> io::Result<u64> {
    let parent = make_dirs(
        root.as_fd(),
        name.parent().unwrap_or(Path::new("")),
        |_, _| Ok(()),
    )?;
    let path = path_of(&parent).join(name.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    let mode = fs::Permissions::from_mode(entry.header().mode()? & 0o7777);
    let modified = UNIX_EPOCH + Duration::from_secs(entry.header().mtime()?);
    match entry.header().entry_type() {
        tar::EntryType::Directory => {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, mode)?;
            Ok(0)
        }
        tar::EntryType::Symlink => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidInput)?;
            std::os::unix::fs::symlink(target, &path)?;
            Ok(0)
        }
        tar::EntryType::Regular => {
            let mut file = create(&path)?;
            let bytes = io::copy(entry, &mut file)?;
            file.set_permissions(mode)?;
            file.set_modified(modified)?;
            Ok(bytes)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an entry of an unknown type",
        )),
    }
}

/// Creates a file that must not exist.
fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Opens `path` inside `root`, following links inside it. Returns `None` if it does not exist.
pub fn resolve(root: &Path, path: &str) -> io::Result<Option<OwnedFd>> {
    let root = open_dir(root)?;
    let relative = path.trim_start_matches('/');
    match open_in_root(root.as_fd(), Path::new(relative), libc::O_PATH, 0) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Returns the real path of an open file.
pub fn real_path(fd: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(path_of(fd))
}

/// Hashes a file or a directory's content: names, types, modes, owners and bytes, but no times.
/// `excluded` is matched against paths below it, which begin with `below`.
pub fn digest(path: &Path, below: &str, excluded: &Matcher) -> Result<String> {
    let mut key = Key::new("files");
    digest_into(&mut key, path, below, excluded, 0).map_err(failed_at(path))?;
    Ok(key.finish())
}

/// Deepest directory that is read, against stacks that overflow.
pub const MAX_DEPTH: usize = 512;

fn too_deep() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "directories are nested too deeply",
    )
}

fn digest_into(
    key: &mut Key,
    path: &Path,
    name: &str,
    excluded: &Matcher,
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if !name.is_empty() && excluded.matches(name) && !(kind.is_dir() && excluded.has_exceptions()) {
        return Ok(());
    }
    key.add(name);
    key.add(metadata.mode().to_be_bytes());
    key.add(
        [metadata.uid(), metadata.gid()]
            .map(u32::to_be_bytes)
            .concat(),
    );
    if kind.is_dir() {
        for entry in sorted(path)? {
            let name = match name {
                "" => entry.to_string_lossy().into_owned(),
                parent => format!("{parent}/{}", entry.to_string_lossy()),
            };
            digest_into(key, &path.join(&entry), &name, excluded, depth + 1)?;
        }
    } else if kind.is_symlink() {
        key.add(fs::read_link(path)?.as_os_str().as_bytes());
    } else if kind.is_file() {
        key.add(hash_file(path)?);
    } else {
        key.add(metadata.rdev().to_be_bytes());
    }
    Ok(())
}

/// Returns the SHA-256 of a file's bytes.
pub fn hash_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut hasher = Context::new(&SHA256);
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish().as_ref().to_vec()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn sorted(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(dir)?.map(|entry| entry.map(|e| e.file_name()));
    let mut names: Vec<_> = entries.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The options of a copy.
pub struct Copying<'a> {
    /// The root that the destination is in.
    pub root: &'a Path,
    /// Owner of the copies; that of the originals if absent.
    pub owner: Option<(u32, u32)>,
    /// Mode of the copies; that of the originals if absent.
    pub mode: Option<&'a Mode>,
    /// Exclusions, by paths below the source.
    pub excluded: &'a Matcher,
}

impl Copying<'_> {
    /// Makes the directory `path` in the root, with mode 0755 and the owner of the copies.
    pub fn directory(&self, path: &str) -> Result<OwnedFd> {
        let root = open_dir(self.root).map_err(failed_at(self.root))?;
        let relative = Path::new(path.trim_start_matches('/').trim_end_matches('/'));
        let owner = self.owner;
        make_dirs(root.as_fd(), relative, |fd, _| {
            let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            match owner {
                Some((uid, gid)) => std::os::unix::fs::chown(&path, Some(uid), Some(gid)),
                None => Ok(()),
            }
        })
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ENOTDIR) => BuildError::new(format!("cannot copy to non-directory: {path}")),
            _ => BuildError::new(format!("cannot make {path}: {e}")),
        })
    }

    /// Copies a file, or the content of a directory, to `destination`. A file keeps its `name` if
    /// the destination is a directory.
    pub fn copy(&self, source: &Path, name: &OsStr, destination: &str) -> Result<()> {
        self.copy_below(source, name, destination, "")
    }

    /// Makes the directory `path` as a copy of the directory `source` without its content, unless it
    /// exists. The directory that it is in gets mode 0755 if it does not exist.
    pub fn parent(&self, source: &Path, path: &str) -> Result<()> {
        let found = resolve(self.root, path).map_err(failed_at(Path::new(path)))?;
        if found.is_some_and(|fd| path_of(&fd).is_dir()) {
            return Ok(());
        }
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = self.directory(above)?;
        let target = path_of(&above).join(name);
        let make = || -> io::Result<()> {
            fs::create_dir(&target)?;
            self.finish(source, &target, &fs::symlink_metadata(source)?)
        };
        make().map_err(|e| BuildError::new(format!("cannot make {path}: {e}")))
    }

    /// Copies as [`Self::copy`] does. Exclusions are compared with paths that begin with `below`.
    pub fn copy_below(
        &self,
        source: &Path,
        name: &OsStr,
        destination: &str,
        below: &str,
    ) -> Result<()> {
        let metadata = fs::symlink_metadata(source).map_err(failed_at(source))?;
        if metadata.is_dir() {
            let target = self.directory(destination)?;
            return self
                .content(source, &path_of(&target), below, 0)
                .map_err(|e| BuildError::new(format!("cannot copy to {destination}: {e}")));
        }
        let (dir, name) = self.target(destination, name)?;
        let target = path_of(&dir).join(&name);
        self.file(source, &target, &metadata)
            .map_err(|e| BuildError::new(format!("cannot copy to {destination}: {e}")))
    }

    /// Writes a file with mode 0644 to `destination`, as [`Self::copy`] does.
    pub fn write(&self, bytes: &[u8], name: &OsStr, destination: &str) -> Result<()> {
        let (dir, name) = self.target(destination, name)?;
        let target = path_of(&dir).join(&name);
        let write = || -> io::Result<()> {
            make_room(&target)?;
            let mut file = create(&target)?;
            file.write_all(bytes)?;
            let (uid, gid) = self.owner.unwrap_or((0, 0));
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            let mode = self.mode.map_or(0o644, |mode| mode.apply(0o644, false));
            file.set_permissions(fs::Permissions::from_mode(mode))
        };
        write().map_err(|e| BuildError::new(format!("cannot write to {destination}: {e}")))
    }

    /// Returns the directory and the name that a file gets.
    fn target(&self, destination: &str, name: &OsStr) -> Result<(OwnedFd, std::ffi::OsString)> {
        let found = resolve(self.root, destination).map_err(failed_at(Path::new(destination)))?;
        let is_dir = found.is_some_and(|fd| path_of(&fd).is_dir());
        if destination.ends_with('/') || is_dir {
            return Ok((self.directory(destination)?, name.to_owned()));
        }
        let path = Path::new(destination);
        let parent = path.parent().unwrap_or(Path::new("/")).to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok((self.directory(&parent)?, name))
    }

    /// Copies the content of a directory into an existing one.
    fn content(&self, source: &Path, target: &Path, below: &str, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        for entry in sorted(source)? {
            let from = source.join(&entry);
            let to = target.join(&entry);
            let name = match below {
                "" => entry.to_string_lossy().into_owned(),
                parent => format!("{parent}/{}", entry.to_string_lossy()),
            };
            let metadata = fs::symlink_metadata(&from)?;
            let excluded = self.excluded.matches(&name);
            if excluded && !(metadata.is_dir() && self.excluded.has_exceptions()) {
                continue;
            }
            if !metadata.is_dir() {
                self.file(&from, &to, &metadata)?;
                continue;
            }
            let existing = fs::symlink_metadata(&to).ok();
            if existing.as_ref().is_some_and(|m| !m.is_dir()) {
                return Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!("cannot copy to non-directory: {name}"),
                ));
            }
            let made = existing.is_none();
            if made {
                fs::create_dir(&to)?;
            }
            self.content(&from, &to, &name, depth + 1)?;
            if excluded && made && fs::read_dir(&to)?.next().is_none() {
                fs::remove_dir(&to)?;
            } else if made {
                self.finish(&from, &to, &metadata)?;
            }
        }
        Ok(())
    }

    /// Copies anything but a directory.
    fn file(&self, source: &Path, target: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        make_room(target)?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(source)?, target)?;
            let (uid, gid) = self.owner.unwrap_or((metadata.uid(), metadata.gid()));
            return lchown(target, Some(uid), Some(gid));
        }
        if kind.is_file() {
            let mut from = File::open(source)?;
            let mut to = create(target)?;
            io::copy(&mut from, &mut to)?;
        } else if kind.is_socket() {
            return Ok(());
        } else {
            if kind.is_char_device() && metadata.rdev() == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a device node that overlayfs takes for a whiteout",
                ));
            }
            let path = CString::new(target.as_os_str().as_bytes())?;
            // SAFETY: the string outlives the call.
            if unsafe { libc::mknod(path.as_ptr(), metadata.mode(), metadata.rdev()) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.finish(source, target, metadata)
    }

    /// Sets owner, mode, extended attributes and time of a copy that is no link.
    fn finish(&self, source: &Path, target: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        let (uid, gid) = self.owner.unwrap_or((metadata.uid(), metadata.gid()));
        lchown(target, Some(uid), Some(gid))?;
        let own = metadata.mode() & 0o7777;
        let mode = self
            .mode
            .map_or(own, |mode| mode.apply(own, metadata.is_dir()));
        fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
        rkube_runtime::build::copy_attributes(source, target)?;
        if metadata.is_file() || metadata.is_dir() {
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(target)?;
            file.set_modified(metadata.modified()?)?;
        }
        Ok(())
    }
}

/// Removes what is at `target`, unless it is a directory.
fn make_room(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(m) if m.is_dir() => Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "cannot replace a directory with a file",
        )),
        Ok(_) => fs::remove_file(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copying<'a>(root: &'a Path, none: &'a Matcher) -> Copying<'a> {
        let metadata = fs::metadata(root).unwrap();
        Copying {
            root,
            owner: Some((metadata.uid(), metadata.gid())),
            mode: None,
            excluded: none,
        }
    }

    #[test]
    fn copies_stay_inside_their_root() {
        let outside = tempfile::tempdir().unwrap();
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("f"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../../../..", root.path().join("up")).unwrap();
        let none = Matcher::default();
        let copying = copying(root.path(), &none);
        let f = source.path().join("f");
        copying.copy(&f, OsStr::new("f"), "/up/etc/f").unwrap();
        assert!(root.path().join("etc/f").is_file());
        // The link leads to a path of the root that does not exist: whether that fails or not,
        // nothing is written outside.
        let _ = copying.copy(&f, OsStr::new("f"), "/out/");
        assert!(!outside.path().join("f").exists());
        // A file replaces a link and does not follow it.
        fs::write(outside.path().join("kept"), "kept").unwrap();
        std::os::unix::fs::symlink(outside.path().join("kept"), root.path().join("link")).unwrap();
        copying.copy(&f, OsStr::new("f"), "/link").unwrap();
        assert_eq!(
            fs::read_to_string(outside.path().join("kept")).unwrap(),
            "kept"
        );
    }

    #[test]
    fn directories_merge_and_patterns_exclude() {
        let source = tempfile::tempdir().unwrap();
        for name in ["a/x.txt", "a/y.log", "b/y.log"] {
            let path = source.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("d/a")).unwrap();
        fs::write(root.path().join("d/a/old"), "").unwrap();
        let excluded = Matcher::new(["**/*.log"]).unwrap();
        copying(root.path(), &excluded)
            .copy(source.path(), OsStr::new("s"), "/d")
            .unwrap();
        assert!(root.path().join("d/a/x.txt").is_file() && root.path().join("d/a/old").is_file());
        assert!(!root.path().join("d/a/y.log").exists());
        assert!(root.path().join("d/b").is_dir());
        // A directory does not replace a link.
        std::os::unix::fs::symlink("a", root.path().join("b")).unwrap();
        let error = copying(root.path(), &excluded).copy(source.path(), OsStr::new("s"), "/");
        assert!(error.unwrap_err().message.contains("non-directory: b"));
    }

    #[test]
    fn parents_are_copies_of_the_directories() {
        let source = tempfile::tempdir().unwrap();
        let private = source.path().join("a");
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(private.join("x.txt"), "x").unwrap();
        fs::write(private.join("y.log"), "y").unwrap();
        let root = tempfile::tempdir().unwrap();
        let excluded = Matcher::new(["a/*.log"]).unwrap();
        let copying = copying(root.path(), &excluded);
        copying.parent(&private, "/d/a").unwrap();
        copying
            .copy_below(&private, OsStr::new("a"), "/d/a", "a")
            .unwrap();
        let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode("d"), mode("d/a")), (0o755, 0o700));
        assert!(root.path().join("d/a/x.txt").exists());
        assert!(!root.path().join("d/a/y.log").exists());
        // A directory that is there stays as it is.
        fs::set_permissions(root.path().join("d/a"), fs::Permissions::from_mode(0o711)).unwrap();
        copying.parent(&private, "/d/a").unwrap();
        assert_eq!(mode("d/a"), 0o711);
    }

    #[test]
    fn digests_depend_on_content_and_not_on_times() {
        let dir = tempfile::tempdir().unwrap();
        let none = Matcher::default();
        let file = dir.path().join("f");
        fs::write(&file, "1").unwrap();
        let first = digest(dir.path(), "", &none).unwrap();
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(UNIX_EPOCH)
            .unwrap();
        assert_eq!(digest(dir.path(), "", &none).unwrap(), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let second = digest(dir.path(), "", &none).unwrap();
        assert_ne!(second, first);
        fs::write(&file, "2").unwrap();
        assert_ne!(digest(dir.path(), "", &none).unwrap(), second);
        let all = Matcher::new(["f"]).unwrap();
        let without = digest(dir.path(), "", &all).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(digest(dir.path(), "", &none).unwrap(), without);
    }

    #[test]
    fn contexts_cannot_write_outside() {
        let outside = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, "l", outside.path()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, "l/f", &b"x"[..]).unwrap();
        let bytes = tar.into_inner().unwrap();
        // Whether the link is resolved inside or refused, nothing is written through it.
        let _ = receive(bytes.as_slice(), &target.path().join("context"));
        assert!(!outside.path().join("f").exists());
    }
}
