//! Pushes of images: layers, configuration and manifest.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, TryStreamExt};

use super::connection::Registry;
use super::endpoints::push_target;
use super::upload::{Blob, Mount, Source};
use crate::blocking::blocking;
use crate::build::{with_layers, write_layer};
use crate::error::{Context, ImageError};
use crate::image::archive::descriptor;
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::{Descriptor, Document, Manifest, media};
use crate::image::reference::Reference;
use crate::image::store::{Image, Store};
use crate::spec::{PushProgress, Pushed, RegistryAuth, RuntimeConfig};

/// Maximum number of layers that are packed or sent at the same time.
const MAX_CONCURRENT_LAYERS: usize = 3;

/// A callback for the progress of a push.
pub(super) type Progress = Arc<dyn Fn(PushProgress) + Send + Sync>;

/// A distributed layer, and where the registry has it.
struct LayerSource {
    descriptor: Descriptor,
    /// Repositories of the registry that have it.
    repositories: BTreeSet<String>,
}

/// A layer as the registry has it.
struct Stored {
    descriptor: Descriptor,
    /// Digest of the uncompressed layer.
    diff: Digest,
}

/// Pushes an image of the store under the name `target`, else under its own name.
pub async fn push(
    store: &Arc<Store>,
    config: &RuntimeConfig,
    (name, target): (&str, Option<&str>),
    auth: &[RegistryAuth],
    progress: Progress,
) -> Result<Pushed, ImageError> {
    let image = store.image(name)?;
    let (reference, tag) = destination(name, target)?;
    let locker = store.clone();
    // Layers stay until they are sent.
    let hold = blocking(move || locker.hold()).await?;
    let (finder, host) = (store.clone(), reference.registry().to_owned());
    let known = blocking(move || Ok(find_layer_sources(&finder, &host))).await?;
    let mut registry = push_target(config, &reference, auth).await?;
    registry.scopes = scopes(&registry.repository, &image, &known);
    let registry = Arc::new(registry);
    progress(PushProgress::Begun {
        layers: image.record.layers.len(),
    });

    let layers = image
        .record
        .layers
        .iter()
        .zip(&image.config.rootfs.diff_ids);
    let layers: Vec<Stored> = futures::stream::iter(layers.map(|(chain, diff)| {
        let known = known.get(chain).map_or(&[][..], Vec::as_slice);
        push_layer(store, &registry, (chain, diff), known, &progress)
    }))
    .buffered(MAX_CONCURRENT_LAYERS)
    .try_collect()
    .await?;

    let (bytes, media_type, id) = push_config(store, &registry, &image, &layers).await?;
    registry.put_manifest(&tag, &media_type, &bytes).await?;
    let digest = Digest::of(&bytes);
    let same = id == image.record.config;
    if same {
        let (store, name) = (store.clone(), reference.with_digest(&digest));
        let id = id.clone();
        blocking(move || store.name_digest(&id, name)).await?;
    }
    drop(hold);
    Ok(Pushed {
        name: reference.to_string(),
        digest: digest.to_string(),
        size: bytes.len() as u64,
        id: id.to_string(),
        same,
    })
}

/// Returns the name and the tag to push to.
fn destination(name: &str, target: Option<&str>) -> Result<(Reference, String), ImageError> {
    let text = target.unwrap_or(name);
    let bad = |reason: &str| ImageError::InvalidReference {
        reference: text.to_owned(),
        reason: reason.to_owned(),
    };
    if target.is_none() && Digest::parse(text).is_some() {
        return Err(bad("an ID is no name to push under"));
    }
    let reference = Reference::parse(text)?;
    if reference.digest().is_some() {
        return Err(bad("an image is pushed under a tag, not under a digest"));
    }
    let tag = reference.manifest_key();
    Ok((reference, tag))
}

/// Returns the sources of layers by the chain IDs of the layers.
fn find_layer_sources(store: &Store, registry: &str) -> HashMap<Digest, Vec<LayerSource>> {
    let mut all: HashMap<Digest, Vec<LayerSource>> = HashMap::new();
    for record in store.list() {
        let document = store
            .read_blob(&record.manifest)
            .and_then(|bytes| Document::parse(&bytes).ok());
        let Some(Document::Manifest(manifest)) = document else {
            continue;
        };
        if manifest.layers.len() != record.layers.len() {
            continue;
        }
        let repositories: BTreeSet<String> = record
            .digests
            .iter()
            .filter_map(|name| Reference::parse(name).ok())
            .filter(|name| name.registry() == registry)
            .map(|name| name.repository().to_owned())
            .collect();
        for (chain, layer) in record.layers.iter().zip(manifest.layers) {
            let known = all.entry(chain.clone()).or_default();
            match known
                .iter_mut()
                .find(|k| k.descriptor.digest == layer.digest)
            {
                Some(known) => known.repositories.extend(repositories.clone()),
                None => known.push(LayerSource {
                    descriptor: layer,
                    repositories: repositories.clone(),
                }),
            }
        }
    }
    all
}

/// Returns the scopes of the tokens that a push needs: also those to read the repositories that
/// layers may be taken from.
fn scopes(
    repository: &str,
    image: &Image,
    known: &HashMap<Digest, Vec<LayerSource>>,
) -> Vec<String> {
    let layers = image.record.layers.iter();
    let sources: BTreeSet<&String> = layers
        .filter_map(|chain| known.get(chain))
        .flatten()
        .flat_map(|layer| &layer.repositories)
        .filter(|source| *source != repository)
        .collect();
    std::iter::once(format!("repository:{repository}:pull,push"))
        .chain(sources.iter().map(|from| format!("repository:{from}:pull")))
        .collect()
}

/// Sees to it that the registry has a layer.
async fn push_layer(
    store: &Arc<Store>,
    registry: &Registry,
    (chain, diff): (&Digest, &Digest),
    known: &[LayerSource],
    progress: &Progress,
) -> Result<Stored, ImageError> {
    // A layer that is known uncompressed was built here, and is sent compressed.
    for layer in known.iter().filter(|k| k.descriptor.digest != *diff) {
        let mut found = layer.descriptor.clone();
        if found.media_type == media::DOCKER_LAYER_GZIP {
            found.media_type = media::OCI_LAYER_GZIP.into();
        }
        let digest = found.digest.to_string();
        let stored = Stored {
            descriptor: found,
            diff: diff.clone(),
        };
        if registry.has_blob(&layer.descriptor.digest).await? {
            progress(PushProgress::Present { digest });
            return Ok(stored);
        }
        for from in &layer.repositories {
            if *from == registry.repository {
                continue;
            }
            if let Mount::Done = registry.mount(&layer.descriptor.digest, from).await? {
                let from = from.clone();
                progress(PushProgress::Mounted { digest, from });
                return Ok(stored);
            }
        }
    }
    let (packer, chain) = (store.clone(), chain.clone());
    let packed = blocking(move || pack(&packer, &chain)).await?;
    let digest = packed.blob.digest.to_string();
    let total = packed.blob.size;
    let report = |done| {
        progress(PushProgress::Layer {
            digest: digest.clone(),
            done,
            total,
        });
    };
    let sent = registry.upload(&packed.blob, report).await?;
    progress(match sent {
        true => PushProgress::Stored {
            digest: digest.clone(),
            size: total,
        },
        false => PushProgress::Present {
            digest: digest.clone(),
        },
    });
    Ok(Stored {
        descriptor: descriptor(media::OCI_LAYER_GZIP, packed.blob.digest.clone(), total),
        diff: packed.diff,
    })
}

/// A layer in a file without a name, compressed.
struct Packed {
    blob: Blob,
    /// Digest of the uncompressed layer.
    diff: Digest,
}

/// Packs a layer into a file, which vanishes when it is closed.
fn pack(store: &Store, chain: &Digest) -> Result<Packed, ImageError> {
    let dir = store.ingest_dir();
    let failed = || format!("cannot pack a layer in {}", dir.display());
    let file = tempfile::tempfile_in(&dir).image_context(failed)?;
    let compressed = Hashing::new(io::BufWriter::with_capacity(64 << 10, file));
    let mut plain = Hashing::new(GzEncoder::new(compressed, Compression::fast()));
    write_layer(&store.layer_path(chain), &mut plain).image_context(failed)?;
    let diff = plain.hasher.finish();
    let compressed = plain.inner.finish().image_context(failed)?;
    let (digest, size) = (compressed.hasher.finish(), compressed.size);
    let file: File = compressed
        .inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .image_context(failed)?;
    Ok(Packed {
        blob: Blob {
            digest,
            size,
            source: Source::File(Arc::new(file)),
        },
        diff,
    })
}

/// A writer that hashes and counts what it passes on.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::sha256(),
            size: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Uploads the configuration. Returns the bytes of the manifest, its media type, and the ID of the
/// image in the registry.
async fn push_config(
    store: &Arc<Store>,
    registry: &Registry,
    image: &Image,
    layers: &[Stored],
) -> Result<(Vec<u8>, String, Digest), ImageError> {
    let (reader, record) = (store.clone(), image.record.clone());
    let (config, manifest) = blocking(move || {
        let config = reader.read_blob(&record.config);
        Ok((config, reader.read_blob(&record.manifest)))
    })
    .await?;
    let config = config.ok_or_else(|| {
        let id = &image.record.config;
        ImageError::Malformed(format!("the configuration of image {id} is corrupt"))
    })?;
    let diffs: Vec<String> = layers.iter().map(|l| l.diff.to_string()).collect();
    let config = with_layers(&config, &diffs)?;
    let id = Digest::of(&config);
    let size = config.len() as u64;
    let blob = Blob {
        digest: id.clone(),
        size,
        source: Source::Bytes(config.into()),
    };
    registry.upload(&blob, |_| {}).await?;
    // The manifest that the image came with is as good as a new one, and keeps its digest.
    if let Some(bytes) = manifest
        && let Ok(Document::Manifest(old)) = Document::parse(&bytes)
        && old.config.digest == id
        && old.layers.len() == layers.len()
        && old
            .layers
            .iter()
            .zip(layers)
            .all(|(old, new)| old.digest == new.descriptor.digest)
        && !old.media_type.is_empty()
    {
        return Ok((bytes, old.media_type, id));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        config: descriptor(media::OCI_CONFIG, id.clone(), size),
        layers: layers.iter().map(|l| l.descriptor.clone()).collect(),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| ImageError::Malformed(format!("cannot encode a manifest: {e}")))?;
    Ok((bytes, manifest.media_type, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_push_under() {
        let name = |name, target| destination(name, target).map(|(r, tag)| (r.to_string(), tag));
        assert_eq!(
            name("app", None).unwrap(),
            ("docker.io/library/app:latest".into(), "latest".into())
        );
        assert_eq!(
            name("app", Some("r.example:5000/a/b:2")).unwrap(),
            ("r.example:5000/a/b:2".into(), "2".into())
        );
        let id = format!("sha256:{}", "0".repeat(64));
        let by_digest = format!("r.example/app@{id}");
        for (image, target) in [
            (id.as_str(), None),
            ("app", Some(by_digest.as_str())),
            ("app", Some("r.example/UPPER")),
        ] {
            let error = name(image, target).unwrap_err();
            assert!(
                matches!(error, ImageError::InvalidReference { .. }),
                "{error}"
            );
        }
        assert!(name(&id, Some("r.example/app")).is_ok());
    }
}
