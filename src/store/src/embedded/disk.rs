//! The file system below the store, as far as the store uses it. Tests replace it by a
//! simulated one that fails, crashes and forgets what was not synced.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

/// A directory of files.
pub(super) trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Creates a file, or empties an existing one, private to its owner.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file; one of the new name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns the names of all files, in any order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Returns a random number that distinguishes a segment's frames from those of other
    /// segments.
    fn salt(&self) -> u32;
    /// Returns the path of a file, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file of a [`Disk`].
pub(super) trait DiskFile: Send + 'static {
    /// Writes all of `bytes` at an offset. A failed write may have written a part.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Reads at an offset and returns the number of bytes, 0 at the end.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Makes content and length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content, length and attributes durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts the file off, or extends it with zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;
}

/// Returns whether an error means that there is no room left.
pub(super) fn is_full(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .map(Errno::from_raw)
        .is_some_and(|errno| matches!(errno, Errno::ENOSPC | Errno::EDQUOT))
}

/// A directory of the operating system.
#[derive(Clone)]
pub(super) struct RealDisk {
    dir: PathBuf,
    /// Kept open, so that [`Disk::sync_names`] needs no descriptor.
    handle: Arc<File>,
}

impl RealDisk {
    pub(super) fn open(dir: &Path) -> io::Result<RealDisk> {
        Ok(RealDisk {
            dir: dir.to_owned(),
            handle: Arc::new(File::open(dir)?),
        })
    }
}

impl Disk for RealDisk {
    type File = File;

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.dir)?
            .map(|entry| Ok(entry?.file_name().into_string().ok()))
            .collect::<io::Result<Vec<_>>>()?;
        // The store's own names are ASCII.
        Ok(names.into_iter().flatten().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn salt(&self) -> u32 {
        // The standard library seeds it from the system's random numbers.
        RandomState::new().hash_one(0) as u32
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
