//! Pulls of images: manifest, configuration and layers.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;

use super::download::{Progress, blob_file};
use super::endpoints::Hub;
use crate::blocking::blocking;
use crate::error::ImageError;
use crate::image::digest::Digest;
use crate::image::manifest::{Config, Document, Manifest, Platform, total};
use crate::image::reference::Reference;
use crate::image::store::{Record, Store};
use crate::spec::{PullProgress, RegistryAuth, RuntimeConfig};

/// Maximum number of concurrent layer downloads.
const MAX_CONCURRENT_DOWNLOADS: usize = 3;
/// Maximum depth of nested indexes.
const MAX_NESTED_INDEXES: usize = 4;

/// Pulls an image for this machine's platform. Returns its ID.
pub async fn pull(
    store: &Arc<Store>,
    config: &RuntimeConfig,
    image: &str,
    auth: &[RegistryAuth],
    progress: Progress,
) -> Result<Digest, ImageError> {
    let reference = Reference::parse(image)?;
    let waits = progress.clone();
    let tell: Arc<dyn Fn(String) + Send + Sync> =
        Arc::new(move |text| waits(PullProgress::Waiting { text }));
    let hub = Arc::new(Hub::new(config, &reference, auth, &tell)?);
    let lock_store = store.clone();
    let hold = blocking(move || lock_store.hold()).await?;
    let host = Platform::host();

    let (mut documents, manifest) = resolve(&hub, &reference, &host, image).await?;
    let top_digest = documents[0].0.clone();
    let Some((digest, bytes)) = documents.pop() else {
        return Err(ImageError::Malformed(format!("{image} has no manifest")));
    };
    let config_bytes = match store.read_blob(&manifest.config.digest) {
        Some(bytes) => bytes,
        None => hub.small_blob(&manifest.config).await?,
    };
    let image_config = Config::parse(&config_bytes, &host, image)?;
    let chain = image_config.chain_ids();
    if chain.len() != manifest.layers.len() {
        return Err(ImageError::Malformed(format!(
            "image {image:?} lists {} layers but its configuration {}",
            manifest.layers.len(),
            chain.len()
        )));
    }
    let missing: Vec<usize> = (0..chain.len())
        .filter(|i| !store.has_layer(&chain[*i]))
        .collect();
    progress(PullProgress::Resolved {
        digest: digest.to_string(),
        layers: manifest.layers.len(),
        bytes: total(missing.iter().map(|i| &manifest.layers[*i])),
    });

    download_layers(
        &hub,
        store,
        &manifest,
        &image_config,
        &chain,
        missing,
        &progress,
    )
    .await?;
    let record = Record {
        config: manifest.config.digest.clone(),
        manifest: digest,
        // With a digest, the registry was not asked about the tag.
        tags: if reference.digest().is_some() {
            BTreeSet::new()
        } else {
            reference.tagged().into_iter().collect()
        },
        digests: BTreeSet::from([reference.with_digest(&top_digest)]),
        size: manifest.size(),
        layers: chain,
        added: jiff::Timestamp::now(),
        given: false,
    };
    let id = record.config.clone();
    let store = store.clone();
    blocking(move || {
        store.write_blob(&record.config, &config_bytes)?;
        store.write_blob(&record.manifest, &bytes)?;
        store.add(record, hold)
    })
    .await?;
    Ok(id)
}

/// Fetches the manifest for the platform. Returns the document that the reference means and those that
/// lead from there to the manifest, which is the last one: at least one, with their digests.
pub(super) async fn resolve(
    hub: &Hub,
    reference: &Reference,
    host: &Platform,
    image: &str,
) -> Result<(Vec<(Digest, Vec<u8>)>, Manifest), ImageError> {
    let (digest, mut bytes) = hub
        .manifest(&reference.manifest_key(), reference.digest())
        .await?;
    let mut documents = vec![(digest, bytes.clone())];
    for _ in 0..MAX_NESTED_INDEXES {
        let Document::Index(index) = Document::parse(&bytes)? else {
            break;
        };
        let chosen = index.select(host, image)?.digest.clone();
        let digest;
        (digest, bytes) = hub.manifest(chosen.as_str(), Some(&chosen)).await?;
        documents.push((digest, bytes.clone()));
    }
    match Document::parse(&bytes)? {
        Document::Manifest(manifest) => Ok((documents, manifest)),
        Document::Index(_) => Err(ImageError::Malformed("indexes nested too deeply".into())),
    }
}

/// Downloads and unpacks the layers with the indexes `missing`.
async fn download_layers(
    hub: &Arc<Hub>,
    store: &Arc<Store>,
    manifest: &Manifest,
    image_config: &Config,
    chain: &[Digest],
    missing: Vec<usize>,
    progress: &Progress,
) -> Result<(), ImageError> {
    // Downloads run ahead of unpacking, which needs the layers below.
    let mut downloads = futures::stream::iter(missing.into_iter().map(|i| {
        let (hub, store, progress) = (hub.clone(), store.clone(), progress.clone());
        let (layer, chain) = (manifest.layers[i].clone(), chain[i].clone());
        async move {
            let file = hub.download(&store, &layer, &chain, &progress).await?;
            Ok::<_, ImageError>((i, file))
        }
    }))
    .buffered(MAX_CONCURRENT_DOWNLOADS);
    while let Some(downloaded) = downloads.next().await {
        let (i, file) = downloaded?;
        if let Some(file) = file {
            let (store, chain) = (store.clone(), chain.to_vec());
            let diff = image_config.rootfs.diff_ids[i].clone();
            let layer = manifest.layers[i].digest.clone();
            blocking(move || {
                store.unpack_layer(&chain[i], &diff, &chain[..i], file)?;
                let _ = std::fs::remove_file(blob_file(&store, &layer));
                Ok(())
            })
            .await?;
        }
        progress(PullProgress::Unpacked {
            digest: manifest.layers[i].digest.to_string(),
        });
    }
    Ok(())
}
