//! The image store: blobs and unpacked layers, which several nodes may share, and this node's index
//! of images.
//!
//! Shared content is immutable and published by a rename. A process that creates a layer holds the
//! layer's lock. Each node keeps a list of references in the shared directory, so that other nodes
//! do not delete content in use.
//!
//! # Order of the locks
//!
//! Locks are taken in this order, and no lock is waited for while a later one is held:
//!
//! 1. `locks/collect`, shared while content is added and exclusive while unused content is deleted,
//! 2. the lock of a download, then that of a layer,
//! 3. the lock file of this node's index,
//! 4. the mutex of the index in memory.
//!
//! In particular, the index is unlocked before unused content is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};
use rkube_fsutil::{remove_tree, write_atomic, write_durable};
use serde::{Deserialize, Serialize};

use super::compression::decompress;
use super::digest::{Digest, Hasher, HashingReader};
use super::lock::FileLock;
use super::manifest::Config;
use super::reference::Reference;
use super::unpack::unpack;
use crate::error::{Context, ImageError};
use crate::status::ImageStatus;

/// An image in the index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Digest of the configuration, which is the image's ID.
    pub config: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Names with a tag, `registry/repository:tag`.
    pub tags: BTreeSet<String>,
    /// Names with a digest, `registry/repository@digest`.
    pub digests: BTreeSet<String>,
    /// Size of the configuration and layers as distributed, in bytes.
    pub size: u64,
    /// Chain IDs of the layers, bottom first.
    pub layers: Vec<Digest>,
    /// Time when the image was added to this node.
    pub added: jiff::Timestamp,
    /// Whether a command gave the node this image, and not a pod or a build that needed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given: bool,
}

/// An image and its configuration.
#[derive(Clone, Debug)]
pub struct Image {
    /// The entry in the index.
    pub record: Record,
    /// The configuration.
    pub config: Config,
}

/// The image store of one node.
pub struct Store {
    shared: PathBuf,
    index_path: PathBuf,
    node: String,
    index: Mutex<Index>,
}

/// The version of a file that is replaced by renames: inode and modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, i64, i64);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self(
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    }
}

/// The images of this node, as read from the file's version `stamp`.
#[derive(Default)]
struct Index {
    stamp: Option<Stamp>,
    records: BTreeMap<Digest, Record>,
}

impl Store {
    /// Opens the store. `shared` is the directory of the content, `root` that of this node's index.
    pub fn open(shared: &Path, root: &Path) -> Result<Self, ImageError> {
        for dir in [
            "blobs/sha256",
            "blobs/sha512",
            "layers/sha256",
            "layers/sha512",
            "ingest",
            "locks",
            "nodes",
        ] {
            let path = shared.join(dir);
            fs::create_dir_all(&path)
                .image_context(|| format!("cannot make {}", path.display()))?;
        }
        let node_path = root.join("node-id");
        let node = match fs::read_to_string(&node_path) {
            Ok(id) if !id.trim().is_empty() => id.trim().to_string(),
            _ => {
                let id = uuid::Uuid::new_v4().to_string();
                write_durable(&node_path, id.as_bytes())
                    .image_context(|| format!("cannot write {}", node_path.display()))?;
                id
            }
        };
        let index_path = root.join("images.json");
        let mut index = read_index(&index_path)?;
        let store = Self {
            shared: shared.to_path_buf(),
            index_path,
            node,
            index: Mutex::default(),
        };
        // Content may have been deleted from the shared directory meanwhile.
        index.retain(|_, record| {
            let whole = store.blob_path(&record.config).is_file()
                && record
                    .layers
                    .iter()
                    .all(|chain| store.layer_dir(chain).is_dir());
            if !whole {
                tracing::warn!(image = %record.config, "forgetting an image whose content is gone");
            }
            whole
        });
        *store.index.lock() = Index {
            stamp: Stamp::of(&store.index_path),
            records: index,
        };
        Ok(store)
    }

    /// Returns the index, read again if another process of this node (such as `rkube ctl`) replaced
    /// it.
    fn index(&self) -> MutexGuard<'_, Index> {
        let mut index = self.index.lock();
        let stamp = Stamp::of(&self.index_path);
        if index.stamp != stamp
            && let Ok(bytes) = fs::read(&self.index_path)
        {
            match serde_json::from_slice(&bytes) {
                Ok(records) => *index = Index { stamp, records },
                // The file is written atomically, so the disk is damaged. Keep the index in memory.
                Err(e) => tracing::warn!("the image index is corrupt: {e}"),
            }
        }
        index
    }

    /// Locks the index against changes by other processes of this node.
    fn lock_index(&self) -> Result<FileLock, ImageError> {
        let path = self.index_path.with_extension("lock");
        FileLock::exclusive(&path).image_context(|| format!("cannot lock {}", path.display()))
    }

    /// Returns the directory of the shared content.
    pub fn path(&self) -> &Path {
        &self.shared
    }

    /// Takes a shared lock that prevents the deletion of unused content. It must be held from the
    /// first check for content until the index refers to it.
    pub fn hold(&self) -> Result<FileLock, ImageError> {
        FileLock::shared(&self.collect_lock())
            .image_context(|| "cannot lock the image store".into())
    }

    /// Locks one piece of content while it is created.
    pub fn lock_content(&self, digest: &Digest) -> Result<FileLock, ImageError> {
        FileLock::exclusive(&self.shared.join("locks").join(digest.hex()))
            .image_context(|| format!("cannot lock {digest}"))
    }

    /// Locks one blob while it is downloaded.
    pub fn lock_download(&self, digest: &Digest) -> Result<FileLock, ImageError> {
        let name = format!("blob-{}", digest.hex());
        FileLock::exclusive(&self.shared.join("locks").join(name))
            .image_context(|| format!("cannot lock {digest}"))
    }

    /// Returns the directory of partial and temporary content.
    pub fn ingest_dir(&self) -> PathBuf {
        self.shared.join("ingest")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.shared
            .join("blobs")
            .join(digest.algorithm())
            .join(digest.hex())
    }

    fn layer_dir(&self, chain: &Digest) -> PathBuf {
        self.shared
            .join("layers")
            .join(chain.algorithm())
            .join(chain.hex())
    }

    /// Returns the root directory of an unpacked layer.
    pub fn layer_path(&self, chain: &Digest) -> PathBuf {
        self.layer_dir(chain).join("fs")
    }

    /// Returns whether the layer is unpacked.
    pub fn has_layer(&self, chain: &Digest) -> bool {
        self.layer_dir(chain).is_dir()
    }

    /// Returns a small blob (manifest or configuration). Returns `None` if it is missing or does
    /// not match its digest.
    pub fn read_blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest)).ok()?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        (hasher.finish() == *digest).then_some(bytes)
    }

    /// Stores a small blob. Fails if the bytes do not match the digest.
    pub fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        verify(digest, bytes)?;
        let path = self.blob_path(digest);
        if path.is_file() && self.read_blob(digest).is_some() {
            return Ok(());
        }
        write_atomic(&path, bytes).image_context(|| format!("cannot write {}", path.display()))
    }

    /// Unpacks a layer, compressed or not, on top of the layers `below` (chain IDs, bottom first),
    /// unless it exists. The layer is published only if the digest of its content equals `diff`.
    pub fn unpack_layer(
        &self,
        chain: &Digest,
        diff: &Digest,
        below: &[Digest],
        reader: impl Read,
    ) -> Result<(), ImageError> {
        let failed = |e: io::Error| ImageError::Unpack {
            layer: diff.to_string(),
            reason: if e.kind() == io::ErrorKind::UnexpectedEof {
                format!("the data ends early ({e})")
            } else {
                e.to_string()
            },
        };
        self.make_layer(chain, |fs_dir| {
            let plain = decompress(reader).map_err(failed)?;
            let mut hashing = HashingReader::new(plain, diff.hasher());
            let parents: Vec<PathBuf> = below.iter().rev().map(|c| self.layer_path(c)).collect();
            unpack(&mut hashing, fs_dir, &parents).map_err(failed)?;
            let actual = hashing.finish().map_err(failed)?;
            if actual != *diff {
                return Err(ImageError::DigestMismatch {
                    expected: diff.to_string(),
                    actual: actual.to_string(),
                });
            }
            Ok(())
        })
    }

    /// Creates a layer unless it exists. `fill` receives an empty directory; the layer is published
    /// if it succeeds.
    pub fn make_layer(
        &self,
        chain: &Digest,
        fill: impl FnOnce(&Path) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        if self.has_layer(chain) {
            return Ok(());
        }
        let _lock = self.lock_content(chain)?;
        if self.has_layer(chain) {
            return Ok(());
        }
        let temporary = self.ingest_dir().join(format!("layer-{}", chain.hex()));
        // Left by a process that was killed: the lock ensures that none is working on it.
        remove(&temporary)?;
        let fs_dir = temporary.join("fs");
        fs::create_dir_all(&fs_dir)
            .image_context(|| format!("cannot make {}", fs_dir.display()))?;
        let result = fill(&fs_dir).and_then(|()| {
            let target = self.layer_dir(chain);
            fs::rename(&temporary, &target)
                .image_context(|| format!("cannot move a layer to {}", target.display()))
        });
        if result.is_err() {
            let _ = remove_tree(&temporary);
        }
        result
    }

    /// Adds an image to the index, or its names to an existing image. `_hold` is the lock from
    /// [`Self::hold`], released after the index refers to the content.
    pub fn add(&self, record: Record, _hold: FileLock) -> Result<(), ImageError> {
        let _lock = self.lock_index()?;
        let mut records = self.index().records.clone();
        // A name refers to one image only, the one added last.
        for other in records.values_mut() {
            if other.config != record.config {
                let named = !other.tags.is_empty();
                other.tags.retain(|tag| !record.tags.contains(tag));
                // What it was given for is another image now.
                if named && other.tags.is_empty() {
                    other.given = false;
                }
            }
        }
        let entry = records
            .entry(record.config.clone())
            .or_insert_with(|| Record {
                tags: BTreeSet::new(),
                digests: BTreeSet::new(),
                ..record.clone()
            });
        entry.tags.extend(record.tags);
        entry.digests.extend(record.digests);
        entry.given |= record.given;
        self.save(records)
    }

    /// Notes that a command gave the node an image, unless it was removed meanwhile.
    pub fn give(&self, id: &Digest) -> Result<(), ImageError> {
        let _lock = self.lock_index()?;
        let mut records = self.index().records.clone();
        match records.get_mut(id) {
            Some(record) if !record.given => {
                record.given = true;
                self.save(records)
            }
            _ => Ok(()),
        }
    }

    /// Writes this node's list of references, then the index, then changes what is read in memory.
    /// The caller holds the lock of the index file; readers are not kept waiting for the disk.
    fn save(&self, records: BTreeMap<Digest, Record>) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(&records)
            .map_err(|e| ImageError::Malformed(format!("cannot encode the image index: {e}")))?;
        let references = self.shared.join("nodes").join(&self.node);
        let used: Vec<&str> = records
            .values()
            .flat_map(|r| content(r).map(Digest::as_str))
            .collect();
        write_durable(&references, used.join("\n").as_bytes())
            .image_context(|| format!("cannot write {}", references.display()))?;
        write_durable(&self.index_path, &bytes)
            .image_context(|| format!("cannot write {}", self.index_path.display()))?;
        *self.index.lock() = Index {
            stamp: Stamp::of(&self.index_path),
            records,
        };
        Ok(())
    }

    /// Finds an image by name, `name@digest`, ID or unique ID prefix.
    pub fn find(&self, text: &str) -> Option<Record> {
        let index = self.index();
        find_in(&index.records, text).and_then(|id| index.records.get(&id).cloned())
    }

    /// Finds an image and reads its configuration.
    pub fn image(&self, text: &str) -> Result<Image, ImageError> {
        let record = self
            .find(text)
            .ok_or_else(|| ImageError::NotPresent(text.to_string()))?;
        let bytes = self.read_blob(&record.config).ok_or_else(|| {
            ImageError::Malformed(format!("the configuration of image {text:?} is corrupt"))
        })?;
        let config = serde_json::from_slice(&bytes).map_err(|e| {
            ImageError::Malformed(format!("malformed configuration of image {text:?}: {e}"))
        })?;
        Ok(Image { record, config })
    }

    /// Returns all images.
    pub fn list(&self) -> Vec<Record> {
        self.index().records.values().cloned().collect()
    }

    /// Adds a name to an image. The name is taken from any other image.
    pub fn tag(&self, image: &str, name: &str) -> Result<(), ImageError> {
        let hold = self.hold()?;
        let mut record = self
            .find(image)
            .ok_or_else(|| ImageError::NotPresent(image.to_string()))?;
        let reference = Reference::parse(name)?;
        let tag = reference
            .tagged()
            .ok_or_else(|| ImageError::InvalidReference {
                reference: name.to_string(),
                reason: "a new name needs a tag, not a digest".into(),
            })?;
        record.tags = BTreeSet::from([tag]);
        record.digests = BTreeSet::new();
        record.given = true;
        self.add(record, hold)
    }

    /// Adds a name with a digest to an image, unless it was removed meanwhile.
    pub fn name_digest(&self, id: &Digest, name: String) -> Result<(), ImageError> {
        let _lock = self.lock_index()?;
        let mut records = self.index().records.clone();
        match records
            .get_mut(id)
            .map(|record| record.digests.insert(name))
        {
            Some(true) => self.save(records),
            _ => Ok(()),
        }
    }

    /// Removes a name, and the image with its last name. Then deletes unused content.
    pub fn untag(&self, name: &str) -> Result<(), ImageError> {
        let reference = Reference::parse(name)?;
        let lock = self.lock_index()?;
        let mut records = self.index().records.clone();
        let Some(id) = find_in(&records, name) else {
            return Ok(());
        };
        if let Some(record) = records.get_mut(&id) {
            if let Some(tag) = reference.tagged() {
                record.tags.remove(&tag);
            }
            if let Some(digest) = reference.digest() {
                record.digests.remove(&reference.with_digest(digest));
            }
            if record.tags.is_empty() && record.digests.is_empty() {
                records.remove(&id);
            }
        }
        self.save(records)?;
        drop(lock);
        self.collect()
    }

    /// Removes an image and deletes unused content. Returns whether the image existed. Waits until
    /// no pull or load is in progress, see [`Self::remove_unless_busy`].
    pub fn remove(&self, image: &str) -> Result<bool, ImageError> {
        let existed = self.forget(image)?;
        if existed {
            self.collect()?;
        }
        Ok(existed)
    }

    /// Removes an image from the index. Returns whether it was there.
    fn forget(&self, image: &str) -> Result<bool, ImageError> {
        let _lock = self.lock_index()?;
        let mut records = self.index().records.clone();
        let Some(id) = find_in(&records, image) else {
            return Ok(false);
        };
        records.remove(&id);
        self.save(records)?;
        Ok(true)
    }
}

/// Returns the paths of the entries of a directory.
fn paths_in(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .image_context(|| format!("cannot read {}", dir.display()))
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Reads the index of a node; empty if there is none. One that is damaged, as by a power cut of a
/// disk that lies about what it has written, is set aside: a node without images pulls them again,
/// but a node that does not start does not.
fn read_index(path: &Path) -> Result<BTreeMap<Digest, Record>, ImageError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e).image_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_slice(&bytes).or_else(|e| {
        let aside = path.with_extension("json.damaged");
        tracing::error!(
            "the image index is damaged: {e}; it is kept as {}, and images are pulled again",
            aside.display()
        );
        fs::rename(path, &aside)
            .image_context(|| format!("cannot rename {} to {}", path.display(), aside.display()))?;
        Ok(BTreeMap::new())
    })
}

/// Returns the digests of the content that an image needs.
fn content(record: &Record) -> impl Iterator<Item = &Digest> {
    [&record.config, &record.manifest]
        .into_iter()
        .chain(&record.layers)
}

/// Checks bytes against their digest.
pub fn verify(digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    let mut hasher: Hasher = digest.hasher();
    hasher.update(bytes);
    let actual = hasher.finish();
    if actual == *digest {
        Ok(())
    } else {
        Err(ImageError::DigestMismatch {
            expected: digest.to_string(),
            actual: actual.to_string(),
        })
    }
}

/// Removes a directory recursively. Succeeds if it does not exist.
fn remove(path: &Path) -> Result<(), ImageError> {
    remove_tree(path).image_context(|| format!("cannot remove {}", path.display()))
}

/// Returns the ID of the image that `text` refers to. Names take precedence over ID prefixes.
fn find_in(index: &BTreeMap<Digest, Record>, text: &str) -> Option<Digest> {
    if let Some(digest) = Digest::parse(text) {
        return index.contains_key(&digest).then_some(digest);
    }
    if let Ok(reference) = Reference::parse(text) {
        let found = match reference.digest() {
            Some(digest) => {
                let name = reference.with_digest(digest);
                index.values().find(|r| r.digests.contains(&name))
            }
            None => reference
                .tagged()
                .and_then(|tag| index.values().find(|r| r.tags.contains(&tag))),
        };
        if let Some(record) = found {
            return Some(record.config.clone());
        }
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() < 12 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut found = index.keys().filter(|id| id.hex().starts_with(hex));
    match (found.next(), found.next()) {
        (Some(id), None) => Some(id.clone()),
        _ => None,
    }
}

/// Converts an image to its status.
pub fn status(image: &Image) -> ImageStatus {
    let config = &image.config.config;
    let name = config.user.split(':').next().unwrap_or("");
    let uid = name.parse::<u32>().ok();
    ImageStatus {
        id: image.record.config.to_string(),
        repo_tags: image.record.tags.iter().cloned().collect(),
        repo_digests: image.record.digests.iter().cloned().collect(),
        size: image.record.size,
        user: config.user.clone(),
        uid: if name.is_empty() { Some(0) } else { uid },
        username: (!name.is_empty() && uid.is_none()).then(|| name.to_string()),
        labels: config.labels.clone(),
        exposed_ports: config.exposed_ports.keys().cloned().collect(),
        volumes: config.volumes.keys().cloned().collect(),
        created: image
            .config
            .created
            .as_deref()
            .and_then(|text| text.parse().ok()),
    }
}

mod collect;
mod kept;

pub use collect::BUNDLE;
#[cfg(test)]
mod tests;
