//! Entry points of fuzz targets (`tests/fuzz`) to the private readers of images and profiles.

use std::io::{self, Read};
use std::path::Path;

use crate::image::manifest::{Config, Document, Platform};
use crate::image::reference::Reference;
use crate::image::store::Store;
use crate::image::{archive, compression, registry, unpack};
use crate::seccomp::Profile;

/// Decompresses a stream. Returns the first `limit` bytes.
pub fn decompress(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    compression::decompress(bytes)?
        .take(limit)
        .read_to_end(&mut plain)?;
    Ok(plain)
}

/// Unpacks a layer into the directory `target`, on top of the layer `below`.
pub fn layer(bytes: &[u8], target: &Path, below: &Path) -> io::Result<()> {
    unpack::unpack(bytes, target, &[below.to_path_buf()])
}

/// Loads an archive of images into a new store below `root`. Returns the names of its images.
pub fn images(file: &Path, root: &Path) -> Option<Vec<String>> {
    let store = Store::open(&root.join("shared"), root).expect("a store");
    archive::load(&store, file, false).ok()
}

/// Reads a manifest, an index or a configuration of an image. What can be read can be written and
/// read again.
pub fn document(bytes: &[u8]) {
    let host = Platform::host();
    match Document::parse(bytes) {
        Ok(Document::Index(index)) => {
            // Either way is right: there is one for this platform, or there is none.
            let _ = index.select(&host, "image");
            let text = serde_json::to_vec(&index).expect("an index can be written");
            assert!(matches!(Document::parse(&text), Ok(Document::Index(_))));
        }
        Ok(Document::Manifest(manifest)) => {
            let text = serde_json::to_vec(&manifest).expect("a manifest can be written");
            assert!(matches!(Document::parse(&text), Ok(Document::Manifest(_))));
        }
        Err(_) => {}
    }
    if let Ok(config) = Config::parse(bytes, &host, "image") {
        assert_eq!(config.chain_ids().len(), config.rootfs.diff_ids.len());
        let text = serde_json::to_vec(&config).expect("a configuration can be written");
        Config::parse(&text, &host, "image").expect("what was written can be read");
    }
}

/// Reads texts of registries and users: challenges, and references, which stay what they are.
pub fn texts(text: &str) {
    if let Some((scheme, _)) = registry::challenge(text) {
        assert!(!scheme.is_empty());
    }
    if let Ok(reference) = Reference::parse(text) {
        let written = reference.to_string();
        let again = Reference::parse(&written).expect("what was written can be read");
        assert_eq!(again.to_string(), written);
    }
}

/// Reads and compiles a seccomp profile.
pub fn seccomp(bytes: &[u8]) {
    if let Ok(profile) = Profile::parse(bytes, &["CAP_SYS_ADMIN".to_owned()]) {
        // A profile may be too long for the kernel.
        let _ = profile.compile();
    }
}
