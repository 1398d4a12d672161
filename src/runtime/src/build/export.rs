//! Docker archives of images in the store.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use rkube_config::OMITTED_LAYERS;
use serde_json::{Value, json};

use super::layer::{Counting, Layer, write_layer};
use super::{content, digest};
use crate::error::{Context, ImageError};
use crate::image::archive::{DIGEST_NAMES, REPACKED_LAYERS};
use crate::image::digest::{Digest, Hasher};
use crate::image::store::Store;

/// An image in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The image's ID in the archive.
    pub id: String,
    /// Whether that is the ID of the image in the store.
    pub same: bool,
}

/// A layer whose tar stream was measured.
pub(super) struct Measured {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

pub(super) fn export(
    store: &Store,
    images: &[String],
    omitted: &[String],
    keep_ids: bool,
    to: impl Write,
) -> Result<Vec<Exported>, ImageError> {
    // Nothing that is being read may be deleted.
    let _hold = store.hold()?;
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, to));
    let mut measured: HashMap<String, Measured> = HashMap::new();
    let (mut manifest, mut exported) = (Vec::new(), Vec::new());
    let mut omitted_sizes = BTreeMap::new();
    let mut repacked = BTreeMap::new();
    let mut digest_names = BTreeMap::new();
    let failed = || "cannot write the archive".to_owned();
    for name in images {
        let (record, image) = content(store, name)?;
        let mut names = Vec::new();
        let mut diffs = Vec::new();
        for layer in &image.layers {
            if omitted.contains(&layer.chain) {
                let file = format!("{}.tar", layer.chain.replace(':', "-"));
                omitted_sizes.insert(file.clone(), layer.size);
                names.push(file);
                diffs.push(layer.diff.clone());
                continue;
            }
            let new = !measured.contains_key(&layer.chain);
            if new {
                measured.insert(layer.chain.clone(), measure(store, layer)?);
            }
            let Some(found) = measured.get(&layer.chain) else {
                continue;
            };
            let file = format!("{}.tar", found.digest.hex());
            if new {
                append_layer(store, layer, found.size, &file, &mut tar).image_context(failed)?;
            }
            if keep_ids {
                repacked.insert(file.clone(), found.digest.to_string());
                diffs.push(layer.diff.clone());
            } else {
                diffs.push(found.digest.to_string());
            }
            names.push(file);
        }
        let config = with_layers(&image.config, &diffs)?;
        let id = Digest::of(&config);
        let file = format!("{}.json", id.hex());
        append(&mut tar, &file, &config).image_context(failed)?;
        let asked_by_id = Digest::parse(name).is_some();
        let tags: Vec<&String> = record.tags.iter().collect();
        let tags = match (keep_ids || asked_by_id, full_name(name)) {
            (false, Some(full)) if record.tags.contains(&full) => vec![full],
            _ => tags.into_iter().cloned().collect(),
        };
        if keep_ids && !record.digests.is_empty() {
            digest_names.insert(file.clone(), record.digests.clone());
        }
        manifest.push(json!({"Config": file, "RepoTags": tags, "Layers": names}));
        exported.push(Exported {
            same: id == record.config,
            id: id.to_string(),
        });
    }
    let documents = [
        (
            OMITTED_LAYERS,
            json!(omitted_sizes),
            !omitted_sizes.is_empty(),
        ),
        (REPACKED_LAYERS, json!(repacked), !repacked.is_empty()),
        (DIGEST_NAMES, json!(digest_names), !digest_names.is_empty()),
        ("manifest.json", Value::Array(manifest), true),
    ];
    for (name, document, wanted) in documents {
        if wanted {
            append(&mut tar, name, document.to_string().as_bytes()).image_context(failed)?;
        }
    }
    let mut inner = tar.into_inner().image_context(failed)?;
    inner.flush().image_context(failed)?;
    Ok(exported)
}

fn full_name(name: &str) -> Option<String> {
    super::Reference::parse(name).ok()?.tagged()
}

/// Learns the digest and the size of a layer as it is written.
pub(super) fn measure(store: &Store, layer: &Layer) -> Result<Measured, ImageError> {
    let path = store.layer_path(&digest(&layer.chain)?);
    let mut counted = Counting {
        hasher: Hasher::sha256(),
        size: 0,
    };
    write_layer(&path, &mut counted).image_context(|| format!("cannot read {}", path.display()))?;
    Ok(Measured {
        digest: counted.hasher.finish(),
        size: counted.size,
    })
}

/// Returns a configuration with other digests of its layers. Without a change, the bytes stay.
pub(crate) fn with_layers(config: &[u8], diffs: &[String]) -> Result<Vec<u8>, ImageError> {
    let malformed = |e| ImageError::Malformed(format!("malformed configuration: {e}"));
    let mut document: Value = serde_json::from_slice(config).map_err(malformed)?;
    if document["rootfs"]["diff_ids"] == json!(diffs) {
        return Ok(config.to_vec());
    }
    document["rootfs"]["diff_ids"] = json!(diffs);
    serde_json::to_vec(&document).map_err(malformed)
}

pub(super) fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    header
}

pub(super) fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes)
}

/// Writes the layer, which was measured as having `size` bytes, to an archive.
pub(super) fn append_layer(
    store: &Store,
    layer: &Layer,
    size: u64,
    name: &str,
    tar: &mut tar::Builder<impl Write>,
) -> io::Result<()> {
    let path = Digest::parse(&layer.chain).map(|chain| store.layer_path(&chain));
    let path = path.ok_or(io::ErrorKind::InvalidData)?;
    let (reader, writer) = io::pipe()?;
    let sender = std::thread::spawn(move || write_layer(&path, writer));
    tar.append_data(&mut header(size), name, reader)?;
    sender
        .join()
        .map_err(|_| io::Error::other("the thread that reads a layer has panicked"))?
}
