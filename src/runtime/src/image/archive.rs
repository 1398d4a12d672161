//! Loading of images from tar files: Docker archives (`docker save`) and OCI layouts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rkube_config::OMITTED_LAYERS;
use serde::Deserialize;

use super::compression::decompress;
use super::digest::Digest;
use super::limits::{Counted, Limits, Metered};
use super::lock::FileLock;
use super::manifest::{Config, Descriptor, Document, Index, Manifest, Platform, media};
use super::reference::Reference;
use super::store::{Record, Store, verify};
use crate::beneath::clean;
use crate::error::{Context, ImageError};

/// Maximum length of a manifest or configuration, in bytes.
pub const MAX_DOCUMENT: u64 = 16 << 20;

/// File in archives between nodes of a cluster: the digests of layers that are not written as they
/// were distributed, by the names of their files.
pub const REPACKED_LAYERS: &str = "rkube-repacked-layers.json";

/// File in archives between nodes of a cluster: the names with digests of images, by their
/// configuration files.
pub const DIGEST_NAMES: &str = "rkube-digest-names.json";

/// An image in `manifest.json` of a Docker archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The position of a file's content in the uncompressed tar, in bytes.
#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    size: u64,
}

/// An uncompressed tar file with an index of its content.
struct Archive {
    file: File,
    /// Whether [`REPACKED_LAYERS`] counts.
    repacked: bool,
    files: HashMap<PathBuf, Span>,
    links: HashMap<PathBuf, PathBuf>,
}

/// Loads all images of the tar file at `path` into the store. Returns their names, or the IDs of
/// images without a name.
///
/// With `repacked`, the digests in [`REPACKED_LAYERS`] replace those of the configuration. Only
/// archives of this cluster's nodes may do that: the layers are shared with other images.
pub fn load(store: &Store, path: &Path, repacked: bool) -> Result<Vec<String>, ImageError> {
    let mut archive = Archive::open(path, &store.ingest_dir())?;
    archive.repacked = repacked;
    let name = path.display().to_string();
    let mut loaded = Vec::new();
    let tags = archive.docker_tags()?;
    if archive.has("index.json") {
        let index: Index = archive.json("index.json")?;
        if index.manifests.is_empty() {
            return Err(ImageError::Malformed(format!("{name} holds no image")));
        }
        for descriptor in &index.manifests {
            loaded.extend(archive.load_oci(store, descriptor, &tags, &name)?);
        }
    } else if archive.has("manifest.json") {
        let images: Vec<DockerImage> = archive.json("manifest.json")?;
        if images.is_empty() {
            return Err(ImageError::Malformed(format!("{name} holds no image")));
        }
        for image in &images {
            loaded.extend(archive.load_docker(store, image, &name)?);
        }
    } else {
        return Err(ImageError::Malformed(format!(
            "{name} is no image archive: it holds neither manifest.json nor index.json"
        )));
    }
    Ok(loaded)
}

impl Archive {
    /// Opens an archive and indexes it. A compressed file is first decompressed into `spool`.
    fn open(path: &Path, spool: &Path) -> Result<Self, ImageError> {
        let context = || format!("cannot read {}", path.display());
        let mut file = File::open(path).image_context(context)?;
        let mut head = [0; 4];
        let mut filled = 0;
        while filled < 4 {
            match file.read(&mut head[filled..]).image_context(context)? {
                0 => break,
                n => filled += n,
            }
        }
        file.rewind().image_context(context)?;
        let limits = Limits::of(spool);
        let compressed = matches!(
            head,
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [_, 0x2a, 0x4d, 0x18]
        );
        if compressed {
            let mut plain = tempfile::tempfile_in(spool)
                .image_context(|| format!("cannot make a file in {}", spool.display()))?;
            let reader = decompress(file).image_context(context)?;
            let mut reader = Counted::new(reader, &limits);
            io::copy(&mut reader, &mut plain).map_err(|e| broken(path, &e))?;
            plain.rewind().image_context(context)?;
            file = plain;
        }
        Self::index(file, path, &limits)
    }

    /// Indexes an uncompressed archive.
    fn index(file: File, path: &Path, limits: &Limits) -> Result<Self, ImageError> {
        let length = file
            .metadata()
            .image_context(|| format!("cannot read {}", path.display()))?
            .len();
        let mut archive = tar::Archive::new(Metered::new(file, limits));
        let mut files = HashMap::new();
        let mut links = HashMap::new();
        let mut entries = archive.entries_with_seek().map_err(|e| broken(path, &e))?;
        loop {
            limits.begin_entry().map_err(|e| broken(path, &e))?;
            let Some(entry) = entries.next() else {
                break;
            };
            let entry = entry.map_err(|e| broken(path, &e))?;
            let raw = PathBuf::from(std::ffi::OsString::from_vec(
                entry.path_bytes().into_owned(),
            ));
            let Some(name) = clean(&raw) else { continue };
            limits.remember(&name).map_err(|e| broken(path, &e))?;
            let kind = entry.header().entry_type();
            if kind.is_file() || kind.is_contiguous() {
                let span = Span {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                };
                if span.offset.saturating_add(span.size) > length {
                    return Err(ImageError::Malformed(format!(
                        "{} is truncated: {} is not there in full",
                        path.display(),
                        name.display()
                    )));
                }
                files.insert(name, span);
            } else if (kind.is_symlink() || kind.is_hard_link())
                && let Some(target) = entry.link_name_bytes()
            {
                let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_owned()));
                // Old Docker archives share layers by relative symbolic links.
                let base = if kind.is_symlink() {
                    name.parent().map(Path::to_path_buf)
                } else {
                    None
                };
                if let Some(target) = clean(&base.unwrap_or_default().join(target)) {
                    links.insert(name, target);
                }
            }
        }
        if files.is_empty() {
            return Err(ImageError::Malformed(format!(
                "{} is no tar archive, or an empty one",
                path.display()
            )));
        }
        Ok(Self {
            file: archive.into_inner().into_inner(),
            repacked: false,
            files,
            links,
        })
    }

    /// Finds a file, following at most seven links.
    fn find(&self, name: &str) -> Option<Span> {
        let mut path = clean(Path::new(name))?;
        for _ in 0..8 {
            if let Some(span) = self.files.get(&path) {
                return Some(*span);
            }
            path.clone_from(self.links.get(&path)?);
        }
        None
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Returns a reader of a file's content.
    fn reader(&self, name: &str) -> Result<io::Take<File>, ImageError> {
        let span = self
            .find(name)
            .ok_or_else(|| ImageError::Malformed(format!("the archive lacks {name}")))?;
        let mut file = self
            .file
            .try_clone()
            .image_context(|| "cannot read the archive".into())?;
        file.seek(SeekFrom::Start(span.offset))
            .image_context(|| "cannot read the archive".into())?;
        Ok(file.take(span.size))
    }

    /// Reads a file of at most [`MAX_DOCUMENT`] bytes; a longer one is truncated.
    fn bytes(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.reader(name)?
            .take(MAX_DOCUMENT)
            .read_to_end(&mut bytes)
            .image_context(|| format!("cannot read {name} of the archive"))?;
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.bytes(name)?)
            .map_err(|e| ImageError::Malformed(format!("malformed {name} in the archive: {e}")))
    }

    /// Reads a blob of an OCI layout and verifies its digest.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.bytes(&blob_name(digest))?;
        verify(digest, &bytes)?;
        Ok(bytes)
    }

    /// Returns the names by configuration file, for OCI layouts whose index contains none.
    fn docker_tags(&self) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
        if !self.has("manifest.json") {
            return Ok(BTreeMap::new());
        }
        let images: Vec<DockerImage> = self.json("manifest.json")?;
        Ok(images
            .into_iter()
            .map(|i| (i.config, i.repo_tags.unwrap_or_default()))
            .collect())
    }

    /// Loads an image of an OCI layout, selecting this machine's platform.
    fn load_oci(
        &self,
        store: &Store,
        descriptor: &Descriptor,
        tags: &BTreeMap<String, Vec<String>>,
        name: &str,
    ) -> Result<Vec<String>, ImageError> {
        let host = Platform::host();
        let top = descriptor.digest.clone();
        let mut manifest_digest = top.clone();
        let mut bytes = self.blob(&manifest_digest)?;
        for _ in 0..4 {
            if let Document::Index(index) = Document::parse(&bytes)? {
                manifest_digest = index.select(&host, name)?.digest.clone();
                bytes = self.blob(&manifest_digest)?;
            } else {
                break;
            }
        }
        let Document::Manifest(manifest) = Document::parse(&bytes)? else {
            return Err(ImageError::Malformed("indexes nested too deeply".into()));
        };
        let config_bytes = self.blob(&manifest.config.digest)?;
        let config = Config::parse(&config_bytes, &host, name)?;
        let mut names: Vec<Reference> = Vec::new();
        let annotated = [
            "io.containerd.image.name",
            "org.opencontainers.image.ref.name",
        ]
        .iter()
        .find_map(|key| descriptor.annotations.get(*key));
        if let Some(text) = annotated {
            // A tag without a repository is not a name.
            if text.contains(['/', ':'])
                && let Ok(reference) = Reference::parse(text)
            {
                names.push(reference);
            }
        }
        if let Some(more) = tags.get(&blob_name(&manifest.config.digest)) {
            for text in more {
                names.push(Reference::parse(text)?);
            }
        }
        let hold = store.hold()?;
        self.layers(
            store,
            &config,
            manifest.layers.iter().map(|l| blob_name(&l.digest)),
        )?;
        let record = Record {
            config: manifest.config.digest.clone(),
            manifest: manifest_digest.clone(),
            tags: names.iter().filter_map(Reference::tagged).collect(),
            digests: names.iter().map(|n| n.with_digest(&top)).collect(),
            size: manifest.size(),
            layers: config.chain_ids(),
            added: jiff::Timestamp::now(),
            given: true,
        };
        finish(store, record, &bytes, &config_bytes, hold)
    }

    /// Loads an image of a Docker archive.
    fn load_docker(
        &self,
        store: &Store,
        image: &DockerImage,
        name: &str,
    ) -> Result<Vec<String>, ImageError> {
        let config_bytes = self.bytes(&image.config)?;
        let config = Config::parse(&config_bytes, &Platform::host(), name)?;
        let mut tags = BTreeSet::new();
        for text in image.repo_tags.iter().flatten() {
            tags.extend(Reference::parse(text)?.tagged());
        }
        let mut digests = BTreeSet::new();
        // What nothing here can prove is believed of other nodes only.
        if self.repacked && self.has(DIGEST_NAMES) {
            let mut all: HashMap<String, BTreeSet<String>> = self.json(DIGEST_NAMES)?;
            digests.extend(all.remove(&image.config).unwrap_or_default());
        }
        let hold = store.hold()?;
        let layers = self.layers(store, &config, image.layers.iter().cloned())?;
        // The archive has no manifest, so one is generated to give the image a digest.
        let config_digest = Digest::of(&config_bytes);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::OCI_MANIFEST.into(),
            config: descriptor(
                media::OCI_CONFIG,
                config_digest.clone(),
                config_bytes.len() as u64,
            ),
            layers: config
                .rootfs
                .diff_ids
                .iter()
                .zip(layers)
                .map(|(diff, size)| descriptor(media::OCI_LAYER, diff.clone(), size))
                .collect(),
        };
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|e| ImageError::Malformed(format!("cannot encode a manifest: {e}")))?;
        let record = Record {
            config: config_digest,
            manifest: Digest::of(&bytes),
            tags,
            digests,
            size: manifest.size(),
            layers: config.chain_ids(),
            added: jiff::Timestamp::now(),
            given: true,
        };
        finish(store, record, &bytes, &config_bytes, hold)
    }

    /// Unpacks the layers in order. Returns their sizes in the archive. Layers that the archive
    /// omits must already be in the store.
    fn layers(
        &self,
        store: &Store,
        config: &Config,
        names: impl ExactSizeIterator<Item = String>,
    ) -> Result<Vec<u64>, ImageError> {
        let diffs = &config.rootfs.diff_ids;
        if names.len() != diffs.len() {
            return Err(ImageError::Malformed(format!(
                "the image lists {} layers but its configuration {}",
                names.len(),
                diffs.len()
            )));
        }
        let chain = config.chain_ids();
        let omitted: HashMap<String, u64> = if self.has(OMITTED_LAYERS) {
            self.json(OMITTED_LAYERS)?
        } else {
            HashMap::new()
        };
        let repacked: HashMap<String, Digest> = if self.repacked && self.has(REPACKED_LAYERS) {
            self.json(REPACKED_LAYERS)?
        } else {
            HashMap::new()
        };
        let mut sizes = Vec::new();
        for (i, name) in names.enumerate() {
            if let Some(size) = omitted.get(&name).filter(|_| store.has_layer(&chain[i])) {
                sizes.push(*size);
                continue;
            }
            let reader = self.reader(&name)?;
            sizes.push(reader.limit());
            let diff = repacked.get(&name).unwrap_or(&diffs[i]);
            store.unpack_layer(&chain[i], diff, &chain[..i], reader)?;
        }
        Ok(sizes)
    }
}

/// Stores an image's blobs and adds it to the index. Returns its names, or its ID.
fn finish(
    store: &Store,
    record: Record,
    manifest: &[u8],
    config: &[u8],
    hold: FileLock,
) -> Result<Vec<String>, ImageError> {
    store.write_blob(&record.manifest, manifest)?;
    store.write_blob(&record.config, config)?;
    let names = if record.tags.is_empty() {
        vec![record.config.to_string()]
    } else {
        record.tags.iter().cloned().collect()
    };
    store.add(record, hold)?;
    Ok(names)
}

/// Returns the descriptor of content that is generated here.
pub fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

/// Returns the path of a blob in an OCI layout.
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn broken(path: &Path, error: &io::Error) -> ImageError {
    ImageError::Malformed(format!(
        "{} is truncated or no image archive: {error}",
        path.display()
    ))
}
