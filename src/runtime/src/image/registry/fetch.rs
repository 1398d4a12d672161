//! Fetches images as registries have them, without unpacking them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::download::Progress;
use super::endpoints::{Hub, Use};
use super::pull::resolve;
use crate::error::ImageError;
use crate::image::digest::Digest;
use crate::image::manifest::{Config, Descriptor, Platform, total};
use crate::image::reference::Reference;
use crate::spec::{PullProgress, RegistryAuth, RuntimeConfig};

/// An image as a registry has it, for this machine's platform.
pub struct Fetched {
    /// ID of the image.
    pub id: Digest,
    /// What its name means first, perhaps an index; then what leads from there to the configuration,
    /// which is last.
    pub documents: Vec<(Digest, Vec<u8>)>,
    /// The layers, and the files with them.
    pub layers: Vec<(Descriptor, PathBuf)>,
}

/// Fetches an image into the directory `dir`. Files that are there already are not fetched again.
pub async fn fetch(
    config: &RuntimeConfig,
    image: &str,
    auth: &[RegistryAuth],
    dir: &Path,
    progress: &Progress,
) -> Result<Fetched, ImageError> {
    let reference = Reference::parse(image)?;
    let waits = progress.clone();
    let tell: Arc<dyn Fn(String) + Send + Sync> =
        Arc::new(move |text| waits(PullProgress::Waiting { text }));
    let hub = Hub::new(config, &reference, auth, &tell)?;
    let host = Platform::host();
    let (mut documents, manifest) = resolve(&hub, &reference, &host, image).await?;
    let bytes = hub.small_blob(&manifest.config).await?;
    Config::parse(&bytes, &host, image)?;
    let id = manifest.config.digest.clone();
    documents.push((id.clone(), bytes));
    progress(PullProgress::Resolved {
        digest: documents[0].0.to_string(),
        layers: manifest.layers.len(),
        bytes: total(&manifest.layers),
    });
    let mut layers = Vec::new();
    for layer in manifest.layers {
        let path = dir.join(layer.digest.hex());
        let (to, descriptor) = (&path, &layer);
        hub.ask(Use::Pull, |registry| async move {
            registry.fetch(descriptor, to, progress).await
        })
        .await?;
        layers.push((layer, path));
    }
    Ok(Fetched {
        id,
        documents,
        layers,
    })
}
