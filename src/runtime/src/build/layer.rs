//! Tar streams of layers, from their directories.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

use super::digest;
use crate::beneath::c_path;
use crate::error::{Context, ImageError};
use crate::image::digest::{Digest, Hasher};
use crate::image::store::Store;

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its chain ID, which names it together with the layers below.
    pub chain: String,
    /// Digest of its uncompressed tar stream.
    pub diff: String,
    /// Its size as distributed, in bytes.
    pub size: u64,
}

/// Makes a layer of a directory, and keeps it for the cache and for `build`.
pub(super) fn commit(
    store: &Store,
    build: &str,
    below: &[String],
    tree: &Path,
) -> Result<Layer, ImageError> {
    let below = below
        .iter()
        .map(|c| digest(c))
        .collect::<Result<Vec<_>, _>>()?;
    let mut counted = Counting {
        hasher: Hasher::sha256(),
        size: 0,
    };
    let failed = || format!("cannot read the layer in {}", tree.display());
    write_layer(tree, &mut counted).image_context(failed)?;
    let (diff, size) = (counted.hasher.finish(), counted.size);
    let chain = match below.last() {
        None => diff.clone(),
        Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
    };
    let _hold = store.hold()?;
    // The work of a build that has ended is no longer awaited.
    store.keep_for(build, &[])?;
    if !store.has_layer(&chain) {
        let (reader, writer) = io::pipe().image_context(failed)?;
        let source = tree.to_path_buf();
        let sender = std::thread::spawn(move || write_layer(&source, writer));
        let unpacked = store.unpack_layer(&chain, &diff, &below, reader);
        let sent = sender.join().map_err(|_| {
            ImageError::Malformed("the thread that reads a layer has panicked".into())
        })?;
        // If unpacking failed, the sender failed only because the reader had stopped.
        unpacked?;
        sent.image_context(failed)?;
    }
    store.keep_for(build, std::slice::from_ref(&chain))?;
    store.keep(std::slice::from_ref(&chain))?;
    Ok(Layer {
        chain: chain.to_string(),
        diff: diff.to_string(),
        size,
    })
}

/// A writer that hashes and counts.
pub(super) struct Counting {
    pub(super) hasher: Hasher,
    pub(super) size: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the upper directory of an overlay, or a layer's directory, as the tar stream of a layer.
/// The same directory always gives the same bytes.
///
/// # Errors
///
/// I/O errors, and an error for directories that the kernel has renamed by reference, which a layer
/// cannot express.
pub fn write_layer(tree: &Path, to: impl Write) -> io::Result<()> {
    let mut writer = Writer {
        tar: Builder::new(io::BufWriter::with_capacity(64 << 10, to)),
        links: HashMap::new(),
    };
    writer.tar.follow_symlinks(false);
    writer.directory(tree, Path::new(""))?;
    writer.tar.into_inner()?.flush()
}

/// Deepest directory of a layer, against stacks that overflow.
const MAX_DEPTH: usize = 512;

struct Writer<W: Write> {
    tar: Builder<W>,
    /// Names of files with several links, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Writer<W> {
    /// Writes the content of a directory, sorted by name.
    fn directory(&mut self, dir: &Path, name: &Path) -> io::Result<()> {
        if name.components().count() > MAX_DEPTH {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "directories are nested too deeply",
            ));
        }
        let mut entries: Vec<OsString> = fs::read_dir(dir)?
            .map(|entry| entry.map(|e| e.file_name()))
            .collect::<io::Result<_>>()?;
        entries.sort();
        for entry in entries {
            self.entry(&dir.join(&entry), &name.join(&entry))
                .map_err(|e| {
                    io::Error::new(e.kind(), format!("{}: {e}", name.join(&entry).display()))
                })?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = metadata.file_type();
        if kind.is_char_device() && metadata.rdev() == 0 {
            let mut hidden = OsString::from(".wh.");
            hidden.push(name.file_name().unwrap_or_default());
            return self.empty_file(&name.with_file_name(hidden));
        }
        if kind.is_socket() {
            return Ok(());
        }
        let attributes = attributes(path)?;
        let mut header = Header::new_ustar();
        header.set_uid(u64::from(metadata.uid()));
        header.set_gid(u64::from(metadata.gid()));
        header.set_mode(metadata.mode() & 0o7777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        let mut records = attribute_records(&attributes)?;
        let name_bytes = name.as_os_str().as_bytes();
        let target = kind.is_symlink().then(|| fs::read_link(path)).transpose()?;
        // Long names and numbers go to extended records, in the form that every reader knows.
        let mut stored = name_bytes.to_vec();
        if kind.is_dir() {
            stored.push(b'/');
        }
        let linked = (metadata.nlink() > 1 && kind.is_file())
            .then(|| self.links.get(&(metadata.dev(), metadata.ino())).cloned())
            .flatten();
        let target = linked.clone().or(target);
        if stored.len() > 100 || !stored.is_ascii() {
            records.push(("path".into(), stored.clone()));
        }
        if let Some(target) = &target {
            let bytes = target.as_os_str().as_bytes();
            if bytes.len() > 100 || !bytes.is_ascii() {
                records.push(("linkpath".into(), bytes.to_vec()));
            }
        }
        if kind.is_file() && metadata.len() >= 1 << 33 {
            records.push(("size".into(), metadata.len().to_string().into_bytes()));
        }
        records.sort();
        if !records.is_empty() {
            let records = records.iter().map(|(k, v)| (k.as_str(), v.as_slice()));
            self.tar.append_pax_extensions(records)?;
        }
        set_field(&mut header.as_old_mut().name, &stored);
        if let Some(target) = &target {
            set_field(
                &mut header.as_old_mut().linkname,
                target.as_os_str().as_bytes(),
            );
        }
        if linked.is_some() {
            return self.finish(header, EntryType::Link, io::empty());
        }
        if kind.is_file() {
            if metadata.nlink() > 1 {
                self.links
                    .insert((metadata.dev(), metadata.ino()), name.to_path_buf());
            }
            header.set_size(metadata.len());
            let file = File::open(path)?;
            let exact = Exact(file.take(metadata.len()), metadata.len());
            return self.finish(header, EntryType::Regular, exact);
        }
        if kind.is_dir() {
            self.finish(header, EntryType::Directory, io::empty())?;
            let opaque = attributes
                .iter()
                .any(|(name, value)| name == "trusted.overlay.opaque" && value == b"y");
            if opaque {
                self.empty_file(&name.join(".wh..wh..opq"))?;
            }
            return self.directory(path, name);
        }
        let kind = if kind.is_symlink() {
            EntryType::Symlink
        } else if kind.is_fifo() {
            EntryType::Fifo
        } else {
            header.set_device_major(libc::major(metadata.rdev()))?;
            header.set_device_minor(libc::minor(metadata.rdev()))?;
            if kind.is_block_device() {
                EntryType::Block
            } else {
                EntryType::Char
            }
        };
        self.finish(header, kind, io::empty())
    }

    fn finish(&mut self, mut header: Header, kind: EntryType, data: impl Read) -> io::Result<()> {
        header.set_entry_type(kind);
        header.set_cksum();
        self.tar.append(&header, data)
    }

    /// Writes a marker of a layer.
    fn empty_file(&mut self, name: &Path) -> io::Result<()> {
        let bytes = name.as_os_str().as_bytes();
        if bytes.len() > 100 || !bytes.is_ascii() {
            self.tar.append_pax_extensions([("path", bytes)])?;
        }
        let mut header = Header::new_ustar();
        header.set_mode(0);
        header.set_size(0);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        set_field(&mut header.as_old_mut().name, bytes);
        self.finish(header, EntryType::Regular, io::empty())
    }
}

/// Returns the extended records of a file's attributes, without those of overlays.
fn attribute_records(attributes: &[(String, Vec<u8>)]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut records = Vec::new();
    for (attribute, value) in attributes {
        if attribute == "trusted.overlay.redirect" || attribute == "trusted.overlay.metacopy" {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel has recorded a rename or a change of metadata by reference (redirect_dir, metacopy)",
            ));
        }
        if !attribute.starts_with("trusted.overlay.") && !attribute.starts_with("user.overlay.") {
            records.push((format!("SCHILY.xattr.{attribute}"), value.clone()));
        }
    }
    Ok(records)
}

/// Fills a field of a header, as far as the bytes fit.
fn set_field(field: &mut [u8; 100], bytes: &[u8]) {
    let length = bytes.len().min(100);
    field[..length].copy_from_slice(&bytes[..length]);
}

/// A reader that fails if fewer bytes come than were announced.
struct Exact<R>(R, u64);

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1 -= n as u64;
        if n == 0 && self.1 > 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        Ok(n)
    }
}

/// Returns the extended attributes of a file, without following links, sorted by name.
pub(super) fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let text = c_path(path)?;
    let names = fill(|buffer| {
        // SAFETY: the string outlives the call and the length is the buffer's.
        unsafe { libc::llistxattr(text.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })?;
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let c_name = c_path(OsStr::from_bytes(name))?;
        let value = fill(|buffer| {
            // SAFETY: as above.
            unsafe {
                libc::lgetxattr(
                    text.as_ptr(),
                    c_name.as_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            }
        })?;
        let name = OsString::from_vec(name.to_vec());
        found.push((name.to_string_lossy().into_owned(), value));
    }
    found.sort();
    Ok(found)
}

/// Sets an extended attribute of a file, without following links. File systems without them do
/// not count.
pub(super) fn set_attribute(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path)?, c_path(OsStr::new(name))?);
    // SAFETY: the strings outlive the call and the length is the value's.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    match crate::beneath::check(result) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => Ok(()),
        other => other.map(drop),
    }
}

/// Calls a function that fills a buffer and tells the length. File systems without extended
/// attributes have none.
fn fill(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    // The longest value and list that Linux permits.
    let mut buffer = vec![0; 64 << 10];
    let length = call(&mut buffer);
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOTSUP | libc::ENODATA) => Ok(Vec::new()),
            _ => Err(error),
        };
    };
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_always_gives_the_same_stream() {
        let dir = tempfile::tempdir().unwrap();
        let long = "long-name-".repeat(15);
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), "content").unwrap();
        fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).unwrap();
        fs::write(dir.path().join(&long), "x").unwrap();
        std::os::unix::fs::symlink("d/a", dir.path().join("link")).unwrap();
        let write = || {
            let mut out = Vec::new();
            write_layer(dir.path(), &mut out).unwrap();
            out
        };
        let stream = write();
        assert_eq!(stream, write());
        let mut archive = tar::Archive::new(stream.as_slice());
        let entries: Vec<(String, EntryType, Option<String>)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (
                    text(&entry.path_bytes()),
                    entry.header().entry_type(),
                    entry.link_name_bytes().map(|l| text(&l)),
                )
            })
            .collect();
        assert_eq!(
            entries,
            [
                ("b".to_owned(), EntryType::Regular, None),
                ("d/".to_owned(), EntryType::Directory, None),
                ("d/a".to_owned(), EntryType::Link, Some("b".to_owned())),
                (
                    "link".to_owned(),
                    EntryType::Symlink,
                    Some("d/a".to_owned())
                ),
                (long, EntryType::Regular, None),
            ]
        );
    }

    #[test]
    fn an_empty_tree_is_the_empty_layer_of_other_builders() {
        let dir = tempfile::tempdir().unwrap();
        let mut counted = Counting {
            hasher: Hasher::sha256(),
            size: 0,
        };
        write_layer(dir.path(), &mut counted).unwrap();
        assert_eq!(counted.size, 1024);
        assert_eq!(
            counted.hasher.finish().as_str(),
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        );
    }
}
