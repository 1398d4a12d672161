//! Limits of what unpacking a layer may take, which its compressed size says nothing about.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{Statvfs, statvfs};

/// Maximum length of one entry's headers with long names and PAX records, in bytes. The reader of
/// tar files keeps them in memory.
const MAX_METADATA: u64 = 1 << 20;
/// Maximum sum of the lengths of the paths that are kept in memory, in bytes.
const MAX_PATHS: usize = 64 << 20;
/// Interval of the checks of the free space, in bytes written.
const SPACE_INTERVAL: u64 = 64 << 20;
/// Interval of the checks of the free inodes, in entries.
const INODE_INTERVAL: u64 = 8192;
/// Part of a file system that a layer must leave free.
const RESERVE_DIVISOR: u64 = 20;
/// Maximum space that a layer must leave free, in bytes.
const MAX_RESERVE: u64 = 512 << 20;

/// The limits of one layer, and what it has used.
pub struct Limits {
    target: PathBuf,
    /// Bytes left for the metadata of the next entry; `None` while its content is read.
    metadata: Cell<Option<u64>>,
    written: Cell<u64>,
    entries: Cell<u64>,
    paths: Cell<usize>,
}

impl Limits {
    /// Returns the limits of a layer that is unpacked to the directory `target`.
    pub fn of(target: &Path) -> Self {
        Self {
            target: target.to_path_buf(),
            metadata: Cell::new(None),
            written: Cell::new(0),
            entries: Cell::new(0),
            paths: Cell::new(0),
        }
    }

    /// Begins the metadata of an entry. Fails if the file system has too few inodes for more.
    pub fn begin_entry(&self) -> io::Result<()> {
        self.metadata.set(Some(MAX_METADATA));
        self.entries.set(self.entries.get() + 1);
        if self.entries.get().is_multiple_of(INODE_INTERVAL) {
            self.check_disk()?;
        }
        Ok(())
    }

    /// Counts a path that is kept in memory. Fails if there are too many.
    pub fn remember(&self, path: &Path) -> io::Result<()> {
        let bytes = path.as_os_str().len() + size_of::<PathBuf>();
        self.paths.set(self.paths.get() + bytes);
        if self.paths.get() > MAX_PATHS {
            return Err(refused("too many directories or files to remember"));
        }
        Ok(())
    }

    /// Counts content. Fails if the file system has too little space for more.
    fn write(&self, bytes: u64) -> io::Result<()> {
        let before = self.written.get();
        self.written.set(before + bytes);
        if before / SPACE_INTERVAL != self.written.get() / SPACE_INTERVAL {
            self.check_disk()?;
        }
        Ok(())
    }

    fn check_disk(&self) -> io::Result<()> {
        check_reserve(&statvfs(&self.target)?)
    }
}

/// Checks that a file system has space and inodes left, apart from the reserve.
fn check_reserve(fs: &Statvfs) -> io::Result<()> {
    let unit = fs.fragment_size();
    let space = Usage {
        total: fs.blocks().saturating_mul(unit),
        free: fs.blocks_available().saturating_mul(unit),
    };
    // File systems without a fixed number of inodes report zero.
    let inodes = Usage {
        total: fs.files(),
        free: fs.files_available(),
    };
    if space.is_short(MAX_RESERVE) {
        return Err(refused("the content needs more than the free disk space"));
    }
    if inodes.is_short(u64::MAX) {
        return Err(refused("the content needs more than the free inodes"));
    }
    Ok(())
}

/// A resource of a file system.
#[derive(Clone, Copy)]
struct Usage {
    total: u64,
    free: u64,
}

impl Usage {
    /// Returns whether less than the reserve is free, which is at most `limit`.
    fn is_short(self, limit: u64) -> bool {
        self.free < (self.total / RESERVE_DIVISOR).min(limit)
    }
}

fn refused(reason: &str) -> io::Error {
    io::Error::other(reason.to_string())
}

/// The stream of a tar file, whose reader must not take more than [`MAX_METADATA`] at once.
pub struct Metered<'a, R> {
    inner: R,
    limits: &'a Limits,
}

impl<'a, R> Metered<'a, R> {
    /// Meters a stream.
    pub fn new(inner: R, limits: &'a Limits) -> Self {
        Self { inner, limits }
    }
}

impl<R> Metered<'_, R> {
    /// Returns the stream.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.limits.metadata.get() else {
            return self.inner.read(buffer);
        };
        let n = self.inner.read(buffer)?;
        let left = left.checked_sub(n as u64).ok_or_else(|| {
            refused("an entry has more than one mebibyte of names and attributes")
        })?;
        self.limits.metadata.set(Some(left));
        Ok(n)
    }
}

/// The content of an entry, or other content that is written to disk.
pub struct Counted<'a, E> {
    inner: E,
    limits: &'a Limits,
}

impl<'a, E> Counted<'a, E> {
    /// Begins the content of an entry, after its metadata.
    pub fn new(inner: E, limits: &'a Limits) -> Self {
        limits.metadata.set(None);
        Self { inner, limits }
    }

    /// Returns the entry.
    pub fn inner(&mut self) -> &mut E {
        &mut self.inner
    }

    /// Returns the limits that the content counts towards.
    pub fn limits(&self) -> &'a Limits {
        self.limits
    }
}

impl<E: Read> Read for Counted<'_, E> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.limits.write(n as u64)?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_left() {
        let short = |total, free, limit| Usage { total, free }.is_short(limit);
        assert!(!short(1000, 50, MAX_RESERVE));
        assert!(short(1000, 49, MAX_RESERVE));
        let large = 1 << 40;
        assert!(!short(large, MAX_RESERVE, MAX_RESERVE));
        assert!(short(large, MAX_RESERVE - 1, MAX_RESERVE));
        assert!(!short(0, 0, u64::MAX));
    }

    #[test]
    fn metadata_and_paths_are_limited_and_content_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits::of(dir.path());
        let zeros = || io::repeat(0).take(2 * MAX_METADATA);
        limits.begin_entry().unwrap();
        let mut metered = Metered::new(zeros(), &limits);
        let read = io::copy(&mut metered, &mut io::sink());
        assert!(read.unwrap_err().to_string().contains("one mebibyte"));
        let mut content = Counted::new(Metered::new(zeros(), &limits), &limits);
        io::copy(&mut content, &mut io::sink()).unwrap();
        assert_eq!(limits.written.get(), 2 * MAX_METADATA);
        let long = PathBuf::from("x".repeat(MAX_PATHS / 4));
        let results = [(); 4].map(|()| limits.remember(&long).is_ok());
        assert_eq!(results, [true, true, true, false]);
    }
}
