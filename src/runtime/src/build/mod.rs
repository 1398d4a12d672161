//! Operations for building and exporting images: layers from directories, images from
//! layers, containers on layers that belong to no image yet, and archives of images.

mod bundle;
mod export;
mod layer;
mod workspace;

pub use crate::beneath::{make_dirs, open_dir, open_in_root, read_in_root};
pub use crate::image::compression::decompress;
pub use crate::image::reference::Reference;
pub use bundle::{BundleProgress, Bundled, Wanted};
pub use export::Exported;
pub(crate) use export::with_layers;
pub use layer::{Layer, write_layer};
pub use workspace::Workspace;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::Runtime;
use crate::blocking::blocking;
use crate::error::{Context, ImageError, Result, RuntimeError};
use crate::image::archive::descriptor;
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::{Document, Manifest, media};
use crate::image::store::{Record, Store};
use crate::image::{compression, unpack};
use crate::snapshot;
use crate::spec::{ContainerSpec, Security};

/// The content of an image.
#[derive(Clone, Debug)]
pub struct ImageContent {
    /// ID of the image.
    pub id: String,
    /// Its configuration, a JSON document.
    pub config: Vec<u8>,
    /// Its layers, bottom first.
    pub layers: Vec<Layer>,
}

/// An image that was put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// ID of the image.
    pub id: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// Length of its manifest in bytes.
    pub manifest_size: u64,
    /// Its names, with registry and tag.
    pub names: Vec<String>,
}

fn digest(text: &str) -> Result<Digest, ImageError> {
    Digest::parse(text).ok_or_else(|| ImageError::Malformed(format!("invalid digest {text:?}")))
}

fn digests(texts: &[String]) -> Result<Vec<Digest>, ImageError> {
    texts.iter().map(|text| digest(text)).collect()
}

/// Returns the size of each layer, as the manifest has it; zero if it lacks them.
fn sizes(store: &Store, record: &Record) -> Vec<u64> {
    let manifest =
        store
            .read_blob(&record.manifest)
            .and_then(|bytes| match Document::parse(&bytes) {
                Ok(Document::Manifest(manifest)) => Some(manifest),
                _ => None,
            });
    let known: Vec<u64> = manifest
        .map(|m| m.layers.iter().map(|l| l.size).collect())
        .unwrap_or_default();
    (0..record.layers.len())
        .map(|i| known.get(i).copied().unwrap_or(0))
        .collect()
}

fn content(store: &Store, name: &str) -> Result<(Record, ImageContent), ImageError> {
    let image = store.image(name)?;
    let config = store.read_blob(&image.record.config).ok_or_else(|| {
        ImageError::Malformed(format!("the configuration of image {name:?} is corrupt"))
    })?;
    let layers = image
        .record
        .layers
        .iter()
        .zip(&image.config.rootfs.diff_ids)
        .zip(sizes(store, &image.record))
        .map(|((chain, diff), size)| Layer {
            chain: chain.to_string(),
            diff: diff.to_string(),
            size,
        })
        .collect();
    let content = ImageContent {
        id: image.record.config.to_string(),
        config,
        layers,
    };
    Ok((image.record, content))
}

impl Runtime {
    /// Returns an image's configuration and layers.
    pub fn image_content(&self, image: &str) -> Result<ImageContent, ImageError> {
        content(&self.inner.store, image).map(|(_, content)| content)
    }

    /// Returns the directory of an unpacked layer, or `None` if the node lacks it.
    pub fn layer_directory(&self, chain: &str) -> Option<PathBuf> {
        let chain = Digest::parse(chain)?;
        let store = &self.inner.store;
        store.has_layer(&chain).then(|| store.layer_path(&chain))
    }

    /// Begins a build, which can keep layers until [`Self::end_build`]. Can be repeated.
    pub fn begin_build(&self, build: &str) -> Result<(), ImageError> {
        self.inner.store.begin_build(build)
    }

    /// Makes a layer of the directory `tree`, the upper directory of an overlay over the layers
    /// `below` (chain IDs, bottom first). The layer is kept until [`Self::release_layers`], and
    /// until the end of `build`; see [`Self::end_build`]. Fails if that has come, as do the other
    /// functions that keep something for a build.
    pub async fn commit_layer(
        &self,
        build: &str,
        below: &[String],
        tree: &Path,
    ) -> Result<Layer, ImageError> {
        let (store, build) = (self.inner.store.clone(), build.to_owned());
        let (below, tree) = (below.to_vec(), tree.to_path_buf());
        blocking(move || layer::commit(&store, &build, &below, &tree)).await
    }

    /// Prevents the deletion of layers (chain IDs) until [`Self::release_layers`], and until the
    /// end of `build`.
    pub fn keep_layers(&self, build: &str, chains: &[String]) -> Result<(), ImageError> {
        let chains = digests(chains)?;
        let _hold = self.inner.store.hold()?;
        self.inner.store.keep_for(build, &chains)?;
        self.inner.store.keep(&chains)
    }

    /// Prevents the deletion of layers (chain IDs) until the end of `build`.
    pub fn keep_layers_for(&self, build: &str, chains: &[String]) -> Result<(), ImageError> {
        let chains = digests(chains)?;
        let _hold = self.inner.store.hold()?;
        self.inner.store.keep_for(build, &chains)
    }

    /// Permits the deletion of what only `build` has kept, which has ended. Can be repeated.
    pub fn end_build(&self, build: &str) -> Result<(), ImageError> {
        self.inner.store.end_build(build)
    }

    /// Permits the deletion of all kept layers but `still` and those of builds that run, and deletes
    /// what nothing else uses.
    pub async fn release_layers(&self, still: Vec<String>) -> Result<(), ImageError> {
        let store = self.inner.store.clone();
        blocking(move || store.keep_only(&digests(&still)?)).await
    }

    /// Adds an image with this configuration, whose `rootfs` lists `layers`, and these names.
    pub async fn assemble_image(
        &self,
        config: Vec<u8>,
        layers: Vec<Layer>,
        names: Vec<String>,
    ) -> Result<Assembled, ImageError> {
        let store = self.inner.store.clone();
        blocking(move || assemble(&store, &config, &layers, &names)).await
    }

    /// Creates a container on `layers` (chain IDs, bottom first) instead of an image. `config` is
    /// the configuration of the image that is being built.
    pub async fn create_container_on(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
        layers: &[String],
        config: &[u8],
    ) -> Result<String> {
        let malformed = |e: serde_json::Error| {
            RuntimeError::Invalid(format!("malformed configuration of an image: {e}"))
        };
        let layers = layers
            .iter()
            .map(|c| digest(c))
            .collect::<Result<Vec<_>, _>>()?;
        let id = Digest::of(config);
        let image = crate::image::store::Image {
            record: Record {
                manifest: id.clone(),
                config: id,
                tags: BTreeSet::new(),
                digests: BTreeSet::new(),
                size: 0,
                layers,
                added: jiff::Timestamp::now(),
                given: false,
            },
            config: serde_json::from_slice(config).map_err(malformed)?,
        };
        self.create_container_of(sandbox, spec, Some(image)).await
    }

    /// Returns the mounted root and the writable layer of a container.
    pub fn container_directories(&self, id: &str) -> Result<(PathBuf, PathBuf)> {
        let container = self.container(id)?;
        Ok((
            snapshot::rootfs(&container.dir),
            snapshot::upper(&container.dir),
        ))
    }

    /// Unmounts the root of a container that has exited. Can be repeated.
    pub fn unmount_container_root(&self, id: &str) -> Result<()> {
        self.unmount_container(&self.container(id)?.dir)
    }

    /// Loads an archive from a stream as [`Self::load_image_from`] does. If `repacked`, the digests
    /// of layers in it may be those of [`Self::export_image`]: the archive must come from another
    /// node of this cluster.
    pub async fn load_repacked_from(
        &self,
        archive: impl tokio::io::AsyncRead + Send + Unpin,
        repacked: bool,
    ) -> Result<Vec<String>, ImageError> {
        self.load_spooled(archive, repacked).await
    }

    /// Writes images as a Docker archive. Layers in `omitted` (chain IDs) are only listed. With
    /// `keep_ids`, the archive is for [`Self::load_repacked_from`] only; otherwise images get new
    /// configurations if their layers cannot be written as they were distributed.
    pub fn export_image(
        &self,
        images: &[String],
        omitted: &[String],
        keep_ids: bool,
        to: impl Write,
    ) -> Result<Vec<Exported>, ImageError> {
        export::export(&self.inner.store, images, omitted, keep_ids, to)
    }

    /// Downloads a file over HTTP. Returns its digest and the time of its last modification.
    pub async fn download(
        &self,
        url: &str,
        to: &Path,
    ) -> Result<(String, Option<String>), ImageError> {
        use futures::StreamExt as _;
        let failed = |e: String| ImageError::Malformed(format!("cannot download {url}: {e}"));
        let client = crate::image::registry::client(&self.inner.config)?;
        let response = client
            .get(url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|e| failed(e.without_url().to_string()))?;
        let modified = response
            .headers()
            .get(reqwest::header::LAST_MODIFIED)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let mut file =
            fs::File::create(to).image_context(|| format!("cannot make {}", to.display()))?;
        let mut hasher = Hasher::sha256();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| failed(e.without_url().to_string()))?;
            hasher.update(&chunk);
            file.write_all(&chunk)
                .image_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok((hasher.finish().to_string(), modified))
    }
}

fn assemble(
    store: &Store,
    config: &[u8],
    layers: &[Layer],
    names: &[String],
) -> Result<Assembled, ImageError> {
    let id = Digest::of(config);
    let mut descriptors = Vec::new();
    let mut chains = Vec::new();
    for layer in layers {
        descriptors.push(descriptor(
            media::OCI_LAYER,
            digest(&layer.diff)?,
            layer.size,
        ));
        chains.push(digest(&layer.chain)?);
    }
    let mut tags = BTreeSet::new();
    for name in names {
        tags.extend(Reference::parse(name)?.tagged());
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        config: descriptor(media::OCI_CONFIG, id.clone(), config.len() as u64),
        layers: descriptors,
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| ImageError::Malformed(format!("cannot encode a manifest: {e}")))?;
    let record = Record {
        config: id.clone(),
        manifest: Digest::of(&bytes),
        tags: tags.clone(),
        digests: BTreeSet::new(),
        size: manifest.config.size + layers.iter().map(|l| l.size).sum::<u64>(),
        layers: chains,
        added: jiff::Timestamp::now(),
        given: true,
    };
    let hold = store.hold()?;
    for chain in &record.layers {
        if !store.has_layer(chain) {
            return Err(ImageError::Malformed(format!(
                "layer {chain} was removed while the image was made: try again"
            )));
        }
    }
    store.write_blob(&record.manifest, &bytes)?;
    store.write_blob(&record.config, config)?;
    let assembled = Assembled {
        id: id.to_string(),
        manifest: record.manifest.to_string(),
        manifest_size: bytes.len() as u64,
        names: tags.into_iter().collect(),
    };
    store.add(record, hold)?;
    Ok(assembled)
}

/// Resolves `user[:group]` in the root file system at `root`. Returns the numbers.
pub fn resolve_owner(root: &Path, owner: &str) -> Result<(u32, u32)> {
    let found = crate::oci::user::resolve(root, &Security::default(), owner)?;
    Ok((found.user.uid, found.user.gid))
}

/// Unpacks a tar stream, which may be compressed by gzip or zstd, into an empty directory. The
/// stream is not trusted.
pub fn unpack_archive(archive: impl Read, target: &Path) -> io::Result<()> {
    unpack::unpack(compression::decompress(archive)?, target, &[])
}

/// Unmounts everything below a directory, the deepest mounts first.
pub fn unmount_below(dir: &Path) -> Result<()> {
    snapshot::unmount_below(dir)
}

/// Copies the extended attributes of a file that no link leads to: file capabilities and those of
/// users. Others belong to the node.
pub fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    for (name, value) in layer::attributes(from)? {
        let copied = name == "security.capability"
            || (name.starts_with("user.") && !name.starts_with("user.overlay."));
        if copied {
            layer::set_attribute(to, &name, &value)?;
        }
    }
    Ok(())
}

/// Checks the name or number of a signal.
pub fn check_signal(text: &str) -> Result<()> {
    crate::container::signal_number(text).map(drop)
}

/// Returns the architecture of this machine's images, such as `amd64`.
pub fn architecture() -> String {
    crate::image::manifest::Platform::host().architecture
}
