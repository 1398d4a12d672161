//! Bundles: OCI archives of many images. What the node has is written from its layers, the rest as the
//! registry has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::content;
use super::export::{Measured, append, append_layer, header, measure, with_layers};
use crate::Runtime;
use crate::blocking::blocking;
use crate::error::{Context, ImageError};
use crate::image::archive::{blob_name, descriptor};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, Manifest, media};
use crate::image::reference::Reference;
use crate::image::registry::{Fetched, fetch};
use crate::image::store::{BUNDLE, Store};
use crate::spec::{PullProgress, RegistryAuth};

/// The annotation of a name (OCI image specification).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of the whole name, which containerd reads and writes.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The label of images that are part of every node.
const BUILTIN: &str = "io.rkube.builtin";

/// An image that a bundle shall have.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Credentials for its registry.
    pub auth: Vec<RegistryAuth>,
}

/// An image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundled {
    /// Its name, with registry and tag or digest.
    pub name: String,
    /// Its ID in the bundle.
    pub id: String,
    /// Digest of its manifest or index in the bundle.
    pub digest: String,
    /// Size of the configuration and the layers in bytes.
    pub size: u64,
    /// Whether it is as the registry has it, and not from the node.
    pub fetched: bool,
    /// Whether it has the ID that it has on the node.
    pub same: bool,
}

/// The progress of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleProgress {
    /// An image is fetched from its registry.
    Fetching {
        /// The name of the image.
        name: String,
        /// Bytes of its layers so far.
        done: u64,
        /// Bytes of all its layers.
        total: u64,
    },
    /// A registry limits the rate of requests.
    Waiting {
        /// For how long, in words.
        text: String,
    },
    /// An image is part of every node, so that the bundle leaves it out.
    Builtin {
        /// The name of the image.
        name: String,
    },
    /// The archive is written.
    Writing,
}

type Tell = Arc<dyn Fn(BundleProgress) + Send + Sync>;

/// Where an image comes from.
enum Found {
    Node(Reference),
    Registry(Reference, Fetched),
}

impl Runtime {
    /// Writes an OCI archive of images. Those that are named by their digest, and those that this node
    /// lacks, are fetched from their registries and written as they are there; others from the layers
    /// of this node. All are fetched before the archive begins. Images that are part of every node are
    /// left out.
    ///
    /// # Errors
    /// Fails if one of the images is missing. The archive is incomplete then.
    pub async fn write_bundle(
        &self,
        wanted: &[Wanted],
        tell: impl Fn(BundleProgress) + Send + Sync + 'static,
        to: impl Write + Send + 'static,
    ) -> Result<Vec<Bundled>, ImageError> {
        let tell: Tell = Arc::new(tell);
        let store = self.inner.store.clone();
        // Neither what is read nor what is fetched may be deleted meanwhile.
        let (hold, dir) = blocking(move || {
            let hold = store.hold()?;
            let ingest = store.ingest_dir();
            let dir = tempfile::Builder::new().prefix(BUNDLE).tempdir_in(&ingest);
            let dir =
                dir.image_context(|| format!("cannot make a directory in {}", ingest.display()))?;
            Ok((hold, dir))
        })
        .await?;
        let mut found = Vec::new();
        let mut names = BTreeSet::new();
        for image in wanted {
            let reference = Reference::parse(&image.name)?;
            if Digest::parse(&image.name).is_some() {
                return Err(ImageError::InvalidReference {
                    reference: image.name.clone(),
                    reason: "a bundle has images by their names, and this is an ID: give it a name with 'rkube image tag'".into(),
                });
            }
            if !names.insert(reference.to_string()) {
                continue;
            }
            let present = self.image_status(&reference.to_string());
            if present
                .as_ref()
                .is_some_and(|own| own.labels.contains_key(BUILTIN))
            {
                tell(BundleProgress::Builtin {
                    name: image.name.clone(),
                });
                continue;
            }
            if present.is_some() && reference.digest().is_none() {
                found.push(Found::Node(reference));
                continue;
            }
            let (name, shown) = (reference.to_string(), tell.clone());
            let progress = Counter::default();
            let progress = Arc::new(move |step| progress.add(&name, step, &shown));
            let progress: Arc<dyn Fn(PullProgress) + Send + Sync> = progress;
            let config = &self.inner.config;
            let fetched = fetch(config, &image.name, &image.auth, dir.path(), &progress).await?;
            found.push(Found::Registry(reference, fetched));
        }
        if found.is_empty() {
            return Err(ImageError::Malformed(
                "there is nothing to save: all these images are part of every node".into(),
            ));
        }
        tell(BundleProgress::Writing);
        let store = self.inner.store.clone();
        blocking(move || {
            let mut bundle = Bundle::begin(&store, to)?;
            let images: Result<Vec<Bundled>, ImageError> =
                found.iter().map(|image| bundle.add(image)).collect();
            let images = images?;
            bundle.end()?;
            drop((hold, dir));
            Ok(images)
        })
        .await
    }
}

/// Shortest time between two reports of a download.
const REPORT_PERIOD: Duration = Duration::from_millis(200);

/// Counts the bytes of an image's layers.
#[derive(Default)]
struct Counter(parking_lot::Mutex<Counts>);

#[derive(Default)]
struct Counts {
    total: u64,
    /// Bytes that are there, by layer.
    layers: BTreeMap<String, u64>,
    /// When they were reported last.
    reported: Option<Instant>,
}

impl Counter {
    fn add(&self, name: &str, step: PullProgress, tell: &Tell) {
        let mut counts = self.0.lock();
        match step {
            PullProgress::Resolved { bytes, .. } => counts.total = bytes,
            PullProgress::Layer { digest, done, .. } => {
                counts.layers.insert(digest, done);
            }
            PullProgress::Waiting { text } => return tell(BundleProgress::Waiting { text }),
            PullProgress::Unpacked { .. } => return,
        }
        let (total, done) = (counts.total, counts.layers.values().sum());
        let is_soon = counts
            .reported
            .is_some_and(|last| last.elapsed() < REPORT_PERIOD);
        if is_soon && done < total {
            return;
        }
        counts.reported = Some(Instant::now());
        tell(BundleProgress::Fetching {
            name: name.to_owned(),
            done,
            total,
        });
    }
}

/// An archive that is being written.
struct Bundle<'a, W: Write> {
    store: &'a Store,
    tar: tar::Builder<io::BufWriter<W>>,
    written: BTreeSet<Digest>,
    measured: BTreeMap<String, Measured>,
    manifests: Vec<Descriptor>,
}

fn failed() -> String {
    "cannot write the archive".to_owned()
}

impl<'a, W: Write> Bundle<'a, W> {
    fn begin(store: &'a Store, to: W) -> Result<Self, ImageError> {
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, to));
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        append(&mut tar, "oci-layout", layout.as_bytes()).image_context(failed)?;
        Ok(Self {
            store,
            tar,
            written: BTreeSet::new(),
            measured: BTreeMap::new(),
            manifests: Vec::new(),
        })
    }

    fn add(&mut self, image: &Found) -> Result<Bundled, ImageError> {
        match image {
            Found::Node(reference) => self.add_own(reference),
            Found::Registry(reference, fetched) => self.add_fetched(reference, fetched),
        }
    }

    /// Writes a small blob unless the archive has it.
    fn blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        match self.written.insert(digest.clone()) {
            true => append(&mut self.tar, &blob_name(digest), bytes).image_context(failed),
            false => Ok(()),
        }
    }

    /// Writes an image of the node.
    fn add_own(&mut self, reference: &Reference) -> Result<Bundled, ImageError> {
        let (record, image) = content(self.store, &reference.to_string())?;
        let (mut layers, mut diffs) = (Vec::new(), Vec::new());
        for layer in &image.layers {
            if !self.measured.contains_key(&layer.chain) {
                let measured = measure(self.store, layer)?;
                if self.written.insert(measured.digest.clone()) {
                    let name = blob_name(&measured.digest);
                    append_layer(self.store, layer, measured.size, &name, &mut self.tar)
                        .image_context(failed)?;
                }
                self.measured.insert(layer.chain.clone(), measured);
            }
            if let Some(Measured { digest, size }) = self.measured.get(&layer.chain) {
                diffs.push(digest.to_string());
                layers.push(descriptor(media::OCI_LAYER, digest.clone(), *size));
            }
        }
        let config = with_layers(&image.config, &diffs)?;
        let id = Digest::of(&config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::OCI_MANIFEST.into(),
            config: descriptor(media::OCI_CONFIG, id.clone(), config.len() as u64),
            layers,
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|e| encoding(&e))?;
        let digest = Digest::of(&bytes);
        self.blob(&id, &config)?;
        self.blob(&digest, &bytes)?;
        let own = descriptor(media::OCI_MANIFEST, digest.clone(), bytes.len() as u64);
        self.manifests.push(named(own, reference));
        Ok(Bundled {
            name: reference.to_string(),
            same: id == record.config,
            id: id.to_string(),
            digest: digest.to_string(),
            size: manifest.size(),
            fetched: false,
        })
    }

    /// Writes an image as its registry has it.
    fn add_fetched(&mut self, name: &Reference, image: &Fetched) -> Result<Bundled, ImageError> {
        let mut size = 0;
        for (layer, path) in &image.layers {
            size += layer.size;
            if !self.written.insert(layer.digest.clone()) {
                continue;
            }
            let file =
                File::open(path).image_context(|| format!("cannot read {}", path.display()))?;
            let entry = blob_name(&layer.digest);
            self.tar
                .append_data(&mut header(layer.size), entry, file)
                .image_context(failed)?;
        }
        for (digest, bytes) in &image.documents {
            self.blob(digest, bytes)?;
        }
        let Some((digest, bytes)) = image.documents.first() else {
            return Err(ImageError::Malformed(format!("{name} has no manifest")));
        };
        size += image
            .documents
            .last()
            .map_or(0, |(_, config)| config.len() as u64);
        let top = descriptor(&media_type(bytes)?, digest.clone(), bytes.len() as u64);
        self.manifests.push(named(top, name));
        Ok(Bundled {
            name: name.to_string(),
            id: image.id.to_string(),
            digest: digest.to_string(),
            size,
            fetched: true,
            same: true,
        })
    }

    fn end(mut self) -> Result<(), ImageError> {
        let index = Index {
            schema_version: 2,
            manifests: self.manifests,
        };
        let mut index = serde_json::to_value(&index).map_err(|e| encoding(&e))?;
        index["mediaType"] = media::OCI_INDEX.into();
        append(&mut self.tar, "index.json", index.to_string().as_bytes()).image_context(failed)?;
        let mut inner = self.tar.into_inner().image_context(failed)?;
        inner.flush().image_context(failed)
    }
}

fn encoding(e: &serde_json::Error) -> ImageError {
    ImageError::Malformed(format!("cannot encode a manifest: {e}"))
}

/// Returns the media type of a manifest or an index, which older ones leave out.
fn media_type(bytes: &[u8]) -> Result<String, ImageError> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| encoding(&e))?;
    if let Some(text) = value["mediaType"].as_str() {
        return Ok(text.to_owned());
    }
    Ok(match Document::parse(bytes)? {
        Document::Index(_) => media::OCI_INDEX,
        Document::Manifest(_) => media::OCI_MANIFEST,
    }
    .to_owned())
}

/// Adds the name of an image to the descriptor of its manifest. Both annotations have the whole name,
/// because an archive may have one tag of many repositories.
fn named(mut manifest: Descriptor, name: &Reference) -> Descriptor {
    manifest.annotations = [REF_NAME, IMAGE_NAME]
        .map(|key| (key.to_owned(), name.to_string()))
        .into();
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_annotations() {
        let digest = Digest::of(b"x");
        let annotated = |name: &str| {
            let own = descriptor(media::OCI_MANIFEST, digest.clone(), 1);
            let found = named(own, &Reference::parse(name).unwrap()).annotations;
            assert_eq!(found[REF_NAME], found[IMAGE_NAME]);
            found[REF_NAME].clone()
        };
        assert_eq!(annotated("app:1"), "docker.io/library/app:1");
        let pinned = format!("r.example:5000/a:2@{digest}");
        assert_eq!(annotated(&pinned), pinned);
    }

    #[test]
    fn media_types_follow_from_the_document() {
        let of = |text: &str| media_type(text.as_bytes()).unwrap();
        assert_eq!(of(r#"{"manifests": []}"#), media::OCI_INDEX);
        let docker = format!(r#"{{"mediaType": "{}"}}"#, media::DOCKER_MANIFEST);
        assert_eq!(of(&docker), media::DOCKER_MANIFEST);
        assert!(media_type(b"{}").is_err());
    }
}
