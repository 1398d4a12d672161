//! Exports an image of the engine without the layers that a node already has.
//!
//! Engines export whole images only. The export stays on the engine's host; only the remaining
//! layers are sent to the node. The archive lists its layers at its end, so it is read twice: first
//! for its contents, then to copy it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The file of the archive that lists its images.
const MANIFEST: &str = "manifest.json";
/// The maximum size of that file, in bytes.
const MANIFEST_MAX: u64 = 4 << 20;

/// Whether a text is a SHA-256 digest in the engine's notation.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Returns the chain ID of each layer (OCI image specification, "Layer ChainID").
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        let next = match chain.last() {
            None => diff.clone(),
            Some(parent) => {
                let text = format!("{parent} {diff}");
                let sum = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
                format!("sha256:{}", hex::encode(sum.as_ref()))
            }
        };
        chain.push(next);
    }
    chain
}

/// One image of [`MANIFEST`].
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    layers: Vec<String>,
}

/// The contents of an archive.
#[derive(Default)]
struct Contents {
    images: Vec<Image>,
    sizes: HashMap<PathBuf, u64>,
    /// Links to other files, which engines before version 25 use for shared layers.
    links: HashMap<PathBuf, PathBuf>,
}

/// The layers that are omitted from an archive because the node has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SkippedLayers {
    files: HashSet<PathBuf>,
    /// Sizes in bytes, by the names that the image's manifest uses.
    sizes: BTreeMap<String, u64>,
}

/// Normalizes a path of an archive: no `.`, `..` or leading `/`.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

impl SkippedLayers {
    /// Returns whether all layers are sent.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the number of layers that are not sent.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }
}

impl Contents {
    fn read(archive: impl Read) -> io::Result<Self> {
        let mut contents = Self::default();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = clean(&entry.path()?);
            let kind = entry.header().entry_type();
            if let Some(target) = entry
                .link_name()?
                .filter(|_| kind.is_symlink() || kind.is_hard_link())
            {
                let base = path.parent().filter(|_| kind.is_symlink());
                let target = clean(&base.unwrap_or(Path::new("")).join(target));
                contents.links.insert(path, target);
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            if path == Path::new(MANIFEST) {
                let mut text = Vec::new();
                entry.by_ref().take(MANIFEST_MAX).read_to_end(&mut text)?;
                contents.images = serde_json::from_slice(&text)?;
            }
            contents.sizes.insert(path, entry.size());
        }
        Ok(contents)
    }

    /// Returns the file that a layer's name refers to, after following at most eight links.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let mut path = clean(Path::new(name));
        for _ in 0..8 {
            if self.sizes.contains_key(&path) {
                return Some(path);
            }
            path.clone_from(self.links.get(&path)?);
        }
        None
    }
}

/// Returns the layers to omit from an image's archive if the node has those whose `present` is set.
/// Omits none if the archive does not have the expected form.
pub fn plan(archive: impl Read, present: &[bool]) -> io::Result<SkippedLayers> {
    let contents = Contents::read(archive)?;
    let [image] = contents.images.as_slice() else {
        return Ok(SkippedLayers::default());
    };
    if image.layers.len() != present.len() {
        return Ok(SkippedLayers::default());
    }
    // Two layers can share one file, and the node may have only one of them.
    let kept: HashSet<PathBuf> = image
        .layers
        .iter()
        .zip(present)
        .filter(|(_, there)| !**there)
        .filter_map(|(name, _)| contents.file(name))
        .collect();
    let mut skipped = SkippedLayers::default();
    for (name, _) in image
        .layers
        .iter()
        .zip(present)
        .filter(|(_, there)| **there)
    {
        if let Some(file) = contents.file(name).filter(|f| !kept.contains(f)) {
            let size = contents.sizes.get(&file).copied().unwrap_or_default();
            skipped.sizes.insert(name.clone(), size);
            skipped.files.insert(file);
        }
    }
    Ok(skipped)
}

/// Copies an archive without the layers of `skipped`. Adds the file `list` with the names and sizes
/// of the skipped layers.
pub fn copy(
    archive: impl Read,
    skipped: &SkippedLayers,
    list: &str,
    out: impl Write,
) -> io::Result<()> {
    let mut out = tar::Builder::new(out);
    let sizes = serde_json::to_vec(&skipped.sizes)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(sizes.len() as u64);
    out.append_data(&mut header, list, sizes.as_slice())?;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        if skipped.files.contains(&clean(&path)) {
            continue;
        }
        let mut header = entry.header().clone();
        match entry.link_name()? {
            Some(target) => out.append_link(&mut header, path, target)?,
            None => out.append_data(&mut header, path, entry)?,
        }
    }
    out.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)], links: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, target) in links {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, path, target).unwrap();
        }
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn names(archive: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        entries
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn chain_ids_are_those_of_oci() {
        assert!(is_digest(&format!("sha256:{}", "0a".repeat(32))));
        assert!(!is_digest("sha256:0a; reboot"));
        let diffs = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&diffs);
        assert_eq!(chain[0], "sha256:a");
        // SHA-256 of "sha256:a sha256:b".
        let sum = ring::digest::digest(&ring::digest::SHA256, b"sha256:a sha256:b");
        assert_eq!(chain[1], format!("sha256:{}", hex::encode(sum.as_ref())));
    }

    #[test]
    fn layers_that_are_there_are_left_out() {
        let manifest = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]"#;
        let whole = archive(
            &[
                ("1/layer.tar", "one"),
                ("2/layer.tar", "second"),
                ("c.json", "{}"),
                ("manifest.json", manifest),
            ],
            &[("3/layer.tar", "../1/layer.tar")],
        );
        let skipped = plan(whole.as_slice(), &[true, true, true]).unwrap();
        let mut out = Vec::new();
        copy(whole.as_slice(), &skipped, "omitted", &mut out).unwrap();
        assert_eq!(
            names(&out),
            ["omitted", "3/layer.tar", "c.json", "manifest.json"]
        );
        let mut sent = tar::Archive::new(out.as_slice());
        let list: BTreeMap<String, u64> =
            serde_json::from_reader(sent.entries().unwrap().next().unwrap().unwrap()).unwrap();
        assert_eq!(list["1/layer.tar"], 3);
        assert_eq!(list["2/layer.tar"], 6);
        assert_eq!(list["3/layer.tar"], 3);

        // The third layer shares the first one's file, and the node does not have it.
        let skipped = plan(whole.as_slice(), &[true, true, false]).unwrap();
        assert_eq!(skipped.files, HashSet::from([PathBuf::from("2/layer.tar")]));
        // The number of layers differs from the engine's description.
        let skipped = plan(whole.as_slice(), &[true]).unwrap();
        assert_eq!(skipped, SkippedLayers::default());
        assert!(plan(&whole[..700], &[true]).is_err());
    }

    #[test]
    fn long_names_survive() {
        let long = format!("blobs/sha256/{}", "a".repeat(120));
        let manifest = format!(r#"[{{"Layers":["{long}","b"]}}]"#);
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in [(long.as_str(), "x"), ("b", "y"), (MANIFEST, &manifest)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        let whole = tar.into_inner().unwrap();
        let skipped = plan(whole.as_slice(), &[false, true]).unwrap();
        let mut out = Vec::new();
        copy(whole.as_slice(), &skipped, "omitted", &mut out).unwrap();
        assert_eq!(names(&out)[1..], [long, MANIFEST.to_owned()]);
    }
}
