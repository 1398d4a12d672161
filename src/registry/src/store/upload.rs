//! Uploads: bytes that are not a blob yet.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ring::digest::Context;

use super::{Store, is_missing, names};
use crate::name::{Algorithm, Digest, Repository};

/// The bytes after which the disk begins to write, so that little is left at the end.
const SYNC_AFTER: u64 = 32 << 20;
/// The size of the pieces in which files are read again.
const PIECE: usize = 256 << 10;

/// An upload of a repository.
#[derive(Debug)]
pub struct Upload {
    path: PathBuf,
    file: File,
    size: u64,
    /// The hash of all bytes; not known for an upload that another process began.
    hash: Option<Hash>,
    unsynced: u64,
    syncing: Arc<AtomicBool>,
    sync_failed: Arc<AtomicBool>,
}

struct Hash(Context);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash")
    }
}

/// What became of an upload's end.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// The repository has the blob.
    Stored,
    /// The bytes have another digest.
    Mismatch(Digest),
}

impl Upload {
    /// Returns the number of bytes that have arrived.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes. After an error, the upload has as many bytes as before.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(e) = self.file.write_all(bytes) {
            // Frees what was written, if it can; the size decides in any case.
            let _ = self.file.set_len(self.size);
            self.file.seek(SeekFrom::Start(self.size))?;
            return Err(e);
        }
        self.size += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.0.update(bytes);
        }
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_AFTER && !self.syncing.swap(true, Ordering::AcqRel) {
            self.unsynced = 0;
            self.sync_behind();
        }
        Ok(())
    }

    /// Whether the file still has its name. The end of an upload takes the name away, and what is
    /// written afterwards would change a blob.
    pub fn is_current(&self) -> io::Result<bool> {
        let named = match fs::metadata(&self.path) {
            Err(e) if is_missing(&e) => return Ok(false),
            named => named?,
        };
        same_file(&self.file.metadata()?, &named)
    }

    /// Waits until all bytes are on disk.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        match self.sync_failed.load(Ordering::Acquire) {
            true => Err(io::Error::other("the disk could not write the upload")),
            false => Ok(()),
        }
    }

    /// Lets the disk write while further bytes arrive.
    fn sync_behind(&self) {
        let (syncing, failed) = (self.syncing.clone(), self.sync_failed.clone());
        let file = self.file.try_clone();
        let work = move || {
            // The system reports an error once, so the end must know of it.
            if file.and_then(|file| file.sync_data()).is_err() {
                failed.store(true, Ordering::Release);
            }
            syncing.store(false, Ordering::Release);
        };
        if let Err(e) = std::thread::Builder::new().spawn(work) {
            tracing::debug!("the disk writes an upload at its end only: {e}");
            self.syncing.store(false, Ordering::Release);
        }
    }

    /// Returns the digest of all bytes.
    fn digest(&mut self, algorithm: Algorithm) -> io::Result<Digest> {
        if let (Algorithm::Sha256, Some(hash)) = (algorithm, &self.hash) {
            return Ok(Digest::finish(algorithm, hash.0.clone()));
        }
        let mut file = File::open(&self.path)?;
        let mut context = algorithm.begin();
        let mut piece = vec![0; PIECE];
        loop {
            let size = file.read(&mut piece)?;
            if size == 0 {
                return Ok(Digest::finish(algorithm, context));
            }
            context.update(&piece[..size]);
        }
    }
}

impl Store {
    fn uploads_dir(&self, name: &Repository) -> PathBuf {
        self.repository(name).join("_uploads")
    }

    /// Begins an upload. Returns its ID, too.
    pub fn begin_upload(&self, name: &Repository) -> io::Result<(String, Upload)> {
        let _gate = self.gate.read();
        let id = uuid::Uuid::new_v4().to_string();
        let directory = self.uploads_dir(name);
        fs::create_dir_all(&directory)?;
        let path = directory.join(&id);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let hash = Some(Hash(Algorithm::Sha256.begin()));
        Ok((id, upload(path, file, 0, hash)))
    }

    /// Finds an upload that an earlier process began.
    pub fn find_upload(&self, name: &Repository, id: &str) -> io::Result<Option<Upload>> {
        // Only names that this store gives are looked for.
        if uuid::Uuid::parse_str(id).map_or(true, |uuid| uuid.to_string() != id) {
            return Ok(None);
        }
        let path = self.uploads_dir(name).join(id);
        let mut file = match File::options().read(true).write(true).open(&path) {
            Err(e) if is_missing(&e) => return Ok(None),
            file => file?,
        };
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Some(upload(path, file, size, None)))
    }

    /// Makes an upload a blob of a repository, if it has that digest. Otherwise its bytes are removed.
    pub fn finish_upload(
        &self,
        name: &Repository,
        mut upload: Upload,
        digest: &Digest,
    ) -> io::Result<Written> {
        // Nobody finds the file by its old name from here on, so nobody writes what is checked.
        let private = self.temporary();
        fs::rename(&upload.path, &private)?;
        upload.path = private;
        let written = self.finish_private(name, &mut upload, digest);
        if !matches!(written, Ok(Written::Stored)) {
            self.cancel_upload(&upload)?;
        }
        written
    }

    fn finish_private(
        &self,
        name: &Repository,
        upload: &mut Upload,
        digest: &Digest,
    ) -> io::Result<Written> {
        // What a failed write left is not part of the upload.
        upload.file.set_len(upload.size)?;
        let found = upload.digest(digest.algorithm)?;
        if found != *digest {
            return Ok(Written::Mismatch(found));
        }
        // Outside of the gate, since it takes long. A blob that is there is not written again.
        let synced = !self.has_content(digest, upload.size)?;
        if synced {
            upload.sync()?;
        }
        let _gate = self.gate.read();
        if self.has_content(digest, upload.size)? {
            self.cancel_upload(upload)?;
        } else {
            if !synced {
                upload.sync()?;
            }
            self.place(&upload.path, &self.content(digest))?;
        }
        self.link(name, digest)?;
        Ok(Written::Stored)
    }

    /// Removes an upload.
    pub fn cancel_upload(&self, upload: &Upload) -> io::Result<()> {
        match fs::remove_file(&upload.path) {
            Err(e) if !is_missing(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Returns the IDs of the uploads of a repository.
    pub(super) fn upload_ids(&self, name: &Repository) -> io::Result<Vec<String>> {
        names(&self.uploads_dir(name))
    }

    /// Returns the file of an upload.
    pub(super) fn upload_path(&self, name: &Repository, id: &str) -> PathBuf {
        self.uploads_dir(name).join(id)
    }
}

#[cfg(unix)]
fn same_file(open: &fs::Metadata, named: &fs::Metadata) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// IDs are not used twice, so a file with the name is the one.
#[cfg(not(unix))]
fn same_file(_: &fs::Metadata, _: &fs::Metadata) -> io::Result<bool> {
    Ok(true)
}

fn upload(path: PathBuf, file: File, size: u64, hash: Option<Hash>) -> Upload {
    Upload {
        path,
        file,
        size,
        hash,
        unsynced: 0,
        syncing: Arc::default(),
        sync_failed: Arc::default(),
    }
}
