//! The build context as a tar stream.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use tar::{Builder, EntryType, Header};

use crate::pattern::Matcher;

/// Writes the files of `dir` that are not excluded as a tar stream. Owners are not written, and
/// links are kept. Returns the number of bytes of the files.
///
/// # Errors
///
/// I/O errors, with the path that they happened at.
pub fn write(dir: &Path, excluded: &Matcher, to: impl Write) -> io::Result<u64> {
    let mut writer = Writer {
        tar: Builder::new(io::BufWriter::with_capacity(64 << 10, to)),
        excluded,
        pending: Vec::new(),
        bytes: 0,
    };
    writer.directory(dir, "")?;
    writer.tar.into_inner()?.flush()?;
    Ok(writer.bytes)
}

struct Writer<'a, W: Write> {
    tar: Builder<W>,
    excluded: &'a Matcher,
    /// Excluded directories on the way to the current one, written when a file in them is not.
    pending: Vec<(PathBuf, String)>,
    bytes: u64,
}

fn with_path<T>(result: io::Result<T>, path: &Path) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

impl<W: Write> Writer<'_, W> {
    fn directory(&mut self, dir: &Path, name: &str) -> io::Result<()> {
        let mut entries: Vec<_> = with_path(
            fs::read_dir(dir).and_then(|entries| entries.collect::<io::Result<_>>()),
            dir,
        )?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let own = entry.file_name();
            let Some(own) = own.to_str() else {
                // Patterns and archives need text.
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{}: the name is not UTF-8", path.display()),
                ));
            };
            let name = match name {
                "" => own.to_owned(),
                parent => format!("{parent}/{own}"),
            };
            self.entry(&path, name)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: String) -> io::Result<()> {
        let metadata = with_path(fs::symlink_metadata(path), path)?;
        let excluded = self.excluded.matches(&name);
        if metadata.is_dir() {
            if excluded && !self.excluded.has_exceptions() {
                return Ok(());
            }
            if excluded {
                self.pending.push((path.to_path_buf(), name.clone()));
            } else {
                self.write_pending()?;
                self.write_directory(path, &name)?;
            }
            let depth = self.pending.len();
            self.directory(path, &name)?;
            if excluded && self.pending.len() == depth {
                // Nothing in it was wanted.
                self.pending.pop();
            }
            return Ok(());
        }
        if excluded {
            return Ok(());
        }
        self.write_pending()?;
        let mut header = header(&metadata);
        if metadata.is_symlink() {
            let target = with_path(fs::read_link(path), path)?;
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            return with_path(self.tar.append_link(&mut header, &name, target), path);
        }
        if !metadata.is_file() {
            // Sockets and devices of this machine have no meaning in an image.
            return Ok(());
        }
        let file = with_path(File::open(path), path)?;
        header.set_size(metadata.len());
        self.bytes += metadata.len();
        let exact = Exact {
            file: file.take(metadata.len()),
            left: metadata.len(),
        };
        with_path(self.tar.append_data(&mut header, &name, exact), path)
    }

    /// Writes the excluded directories that turned out to hold something.
    fn write_pending(&mut self) -> io::Result<()> {
        for (path, name) in std::mem::take(&mut self.pending) {
            self.write_directory(&path, &name)?;
        }
        Ok(())
    }

    fn write_directory(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let metadata = with_path(fs::symlink_metadata(path), path)?;
        let mut header = header(&metadata);
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        with_path(
            self.tar
                .append_data(&mut header, format!("{name}/"), io::empty()),
            path,
        )
    }
}

fn header(metadata: &fs::Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode(metadata));
    header.set_uid(0);
    header.set_gid(0);
    let modified = metadata.modified().ok();
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    header.set_mtime(since.map_or(0, |d| d.as_secs()));
    header
}

#[cfg(unix)]
fn mode(metadata: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o7777
}

/// Windows has no permission bits; Docker makes everything executable there, too.
#[cfg(not(unix))]
fn mode(_: &fs::Metadata) -> u32 {
    0o755
}

/// A reader that fails if the file has become shorter.
struct Exact {
    file: io::Take<File>,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.left -= n as u64;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_bring_their_directories() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/b/keep", "a/b/drop", "a/c/drop", "src/main", "target/x/y"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let names = |ignore: &str| -> Vec<String> {
            let matcher = Matcher::of_ignore_file(ignore).unwrap();
            let mut out = Vec::new();
            write(dir.path(), &matcher, &mut out).unwrap();
            tar::Archive::new(out.as_slice())
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            names("a\n!a/b/keep\ntarget\n"),
            ["a/", "a/b/", "a/b/keep", "src/", "src/main"]
        );
        assert_eq!(names("*\n"), Vec::<String>::new());
    }
}
