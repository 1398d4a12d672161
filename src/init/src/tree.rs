//! Archives of a directory tree that other processes change meanwhile.
//!
//! Pods own the content of their volumes and may replace any name by a link at any time. Therefore
//! every name is opened once, without following links, and everything else is done with that
//! descriptor.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, major, minor};

/// Maximum length of a path below the root, in bytes. Longer ones could not be unpacked below
/// another directory, as `PATH_MAX` is 4096.
const MAX_PATH: usize = 3840;

/// Appends a directory and its content, with names relative to it. Sockets are left out, and so
/// is what disappears meanwhile.
///
/// # Errors
///
/// Fails if a path below `root` is longer than 3840 bytes.
pub fn append<W: Write>(archive: &mut tar::Builder<W>, root: &Path) -> io::Result<()> {
    let root = File::open(root)?;
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let Some(dir) = unless_changed(open_directory(&root, &relative))? else {
            continue;
        };
        let mut header = header_of(&dir.metadata()?);
        archive.append_data(&mut header, archive_name(&relative), io::empty())?;
        for name in names(&dir)? {
            let path = relative.join(&name);
            if path.as_os_str().len() > MAX_PATH {
                return Err(io::Error::other(format!(
                    "a path is longer than {MAX_PATH} bytes: {}…",
                    path.display()
                        .to_string()
                        .chars()
                        .take(80)
                        .collect::<String>()
                )));
            }
            let Some(file) = unless_changed(open_name(&dir, &name))? else {
                continue;
            };
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                pending.push(path);
            } else {
                append_file(archive, &file, &metadata, &archive_name(&path))?;
            }
        }
    }
    Ok(())
}

/// Returns the name of a path in the archive.
fn archive_name(relative: &Path) -> PathBuf {
    if relative.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        Path::new(".").join(relative)
    }
}

/// Returns the names in a directory; none if it was removed.
fn names(dir: &File) -> io::Result<Vec<OsString>> {
    let read = || -> io::Result<Vec<OsString>> {
        fs::read_dir(by_descriptor(dir))?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// Opens a directory below `root`; no component may be a link.
fn open_directory(root: &File, relative: &Path) -> io::Result<File> {
    let path = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let fd = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Opens a name in a directory, whatever it is, for its metadata and [`by_descriptor`].
fn open_name(dir: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(Some(dir.as_raw_fd()), name, flags, Mode::empty())?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Returns a path that refers to an open file, wherever that is by now.
fn by_descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Returns `None` if a name was removed, or a directory replaced, after it was listed.
fn unless_changed(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) => match Errno::from_raw(e.raw_os_error().unwrap_or_default()) {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Ok(None),
            _ => Err(e),
        },
    }
}

fn header_of(metadata: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    header
}

/// Appends anything but a directory.
fn append_file<W: Write>(
    archive: &mut tar::Builder<W>,
    file: &File,
    metadata: &Metadata,
    name: &Path,
) -> io::Result<()> {
    let mut header = header_of(metadata);
    let kind = metadata.file_type();
    if kind.is_file() {
        // The descriptor refers to a regular file, so this opens nothing else.
        let content = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(by_descriptor(file))?;
        // If the file changes its size meanwhile, the content is truncated or padded with zeros
        // to the length in the header.
        let content = content.chain(io::repeat(0)).take(metadata.len());
        return archive.append_data(&mut header, name, content);
    }
    header.set_size(0);
    if kind.is_symlink() {
        let target: OsString = readlinkat(Some(file.as_raw_fd()), "")?;
        return archive.append_link(&mut header, name, Path::new(&target));
    }
    if kind.is_socket() {
        return Ok(());
    }
    if kind.is_char_device() || kind.is_block_device() {
        let number = |part: u64| u32::try_from(part).map_err(io::Error::other);
        header.set_device_major(number(major(metadata.rdev()))?)?;
        header.set_device_minor(number(minor(metadata.rdev()))?)?;
    }
    archive.append_data(&mut header, name, io::empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::unistd::mkfifo;

    use super::*;

    /// Returns the kinds and contents of an archive's entries by name.
    fn entries(root: &Path) -> BTreeMap<String, (tar::EntryType, String)> {
        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, root).unwrap();
        let bytes = archive.into_inner().unwrap();
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(name, (entry.header().entry_type(), text));
        }
        found
    }

    #[test]
    fn every_kind_of_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "text").unwrap();
        symlink("/nowhere", dir.path().join("a/link")).unwrap();
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        let found = entries(dir.path());
        assert_eq!(found.len(), 6, "{found:?}");
        assert_eq!(found["a/b/file"], (tar::EntryType::Regular, "text".into()));
        assert_eq!(found["a/link"].0, tar::EntryType::Symlink);
        assert_eq!(found["fifo"].0, tar::EntryType::Fifo);
    }

    #[test]
    fn names_that_are_swapped_for_links_lead_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("f"), "secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("plain")).unwrap();
        fs::write(root.join("plain/f"), "public").unwrap();
        fs::write(root.join("text"), "public").unwrap();
        symlink(outside.path(), root.join("to-folder")).unwrap();
        symlink(outside.path().join("f"), root.join("to-file")).unwrap();
        mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
        fs::hard_link(root.join("text"), root.join("f")).unwrap();
        let stop = AtomicBool::new(false);
        let exchange = |a: &str, b: &str| {
            let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            nix::fcntl::renameat2(None, &root.join(a), None, &root.join(b), flags).unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    exchange("plain", "to-folder");
                    exchange("f", "to-file");
                    exchange("text", "fifo");
                }
            });
            for _ in 0..300 {
                for (name, (_, text)) in entries(root) {
                    assert_ne!(text, "secret", "{name}");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_path_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_path_buf();
        for _ in 0..16 {
            path.push("d".repeat(240));
        }
        fs::create_dir_all(&path).unwrap();
        let error = append(&mut tar::Builder::new(io::sink()), dir.path()).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}
