//! Garbage: what nothing refers to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Store, digests, names, remove};
use crate::name::{Algorithm, Digest, Repository};

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Manifests without a tag.
    pub manifests: u64,
    /// Blobs and manifests that no repository has.
    pub blobs: u64,
    /// Uploads that nobody finished.
    pub uploads: u64,
    /// The bytes that were freed.
    pub bytes: u64,
}

/// The content of a registry in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Repositories with manifests.
    pub repositories: u64,
    /// Bytes of all blobs and manifests.
    pub bytes: u64,
}

impl Store {
    /// Returns how much the registry has.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage {
            repositories: self.repositories()?.len() as u64,
            bytes: 0,
        };
        for digest in self.contents()? {
            usage.bytes += size(&self.content(&digest))?;
        }
        Ok(usage)
    }

    /// Removes what nothing refers to and what was not touched for the time `grace`: uploads, blobs of
    /// repositories that none of their manifests has, and content that no repository has. With
    /// `untagged`, manifests without a tag are removed, too, unless one with a tag refers to them or
    /// is their subject. A repository with a manifest that cannot be read keeps everything.
    pub fn collect(&self, grace: Duration, untagged: bool) -> io::Result<Collected> {
        let _gate = self.gate.write();
        let mut collected = Collected::default();
        let old = |path: &Path| is_older(path, grace);
        let mut kept = BTreeSet::new();
        for name in self.all_repositories()? {
            for id in self.upload_ids(&name)? {
                let path = self.upload_path(&name, &id);
                if old(&path)? {
                    collected.bytes += size(&path)?;
                    collected.uploads += u64::from(remove(&path)?);
                }
            }
            if untagged {
                collected.manifests += self.collect_untagged(&name, &old)?;
            }
            kept.extend(self.collect_blobs(&name, &old)?);
            self.tidy(&name);
        }
        for digest in self.contents()? {
            let path = self.content(&digest);
            if !kept.contains(&digest) && old(&path)? {
                collected.bytes += size(&path)?;
                collected.blobs += u64::from(remove(&path)?);
            }
        }
        Ok(collected)
    }

    /// Removes manifests without a tag, and returns how many.
    fn collect_untagged(
        &self,
        name: &Repository,
        old: &dyn Fn(&Path) -> io::Result<bool>,
    ) -> io::Result<u64> {
        let all: BTreeSet<Digest> = self.manifests(name)?.into_iter().collect();
        let mut open = Vec::new();
        for tag in self.tags(name)?.unwrap_or_default() {
            open.extend(self.tagged(name, &tag)?);
        }
        for digest in &all {
            if !old(&self.manifest_link(name, digest))? {
                open.push(digest.clone());
            }
        }
        let mut kept = BTreeSet::new();
        while let Some(digest) = open.pop() {
            if !kept.insert(digest.clone()) {
                continue;
            }
            // The entries of an index may be blobs.
            let parsed = match all.contains(&digest) {
                true => self.parsed(name, &digest)?,
                false => None,
            };
            match parsed {
                Some(Ok(manifest)) => open.extend(manifest.manifests),
                // What it refers to is not known. The collection of blobs reports it.
                Some(Err(_)) => return Ok(0),
                None => {}
            }
            let about = digests_of_files(&self.referrers_dir(name, &digest))?;
            open.extend(about.into_iter().filter(|digest| all.contains(digest)));
        }
        let mut count = 0;
        for digest in all.difference(&kept) {
            count += u64::from(self.take_manifest(name, digest)?);
        }
        Ok(count)
    }

    /// Takes blobs from a repository that none of its manifests has. Returns everything that stays.
    fn collect_blobs(
        &self,
        name: &Repository,
        old: &dyn Fn(&Path) -> io::Result<bool>,
    ) -> io::Result<BTreeSet<Digest>> {
        let (mut kept, mut entries) = (BTreeSet::new(), BTreeSet::new());
        let mut unreadable = false;
        for digest in self.manifests(name)? {
            match self.parsed(name, &digest)? {
                Some(Ok(manifest)) => {
                    kept.extend(manifest.blobs);
                    kept.extend(manifest.foreign);
                    entries.extend(manifest.manifests);
                }
                Some(Err(why)) => {
                    unreadable = true;
                    tracing::warn!("all blobs of {name} are kept: its manifest {digest}: {why}");
                }
                None => {}
            }
            kept.insert(digest);
        }
        for digest in digests(&self.repository(name).join("_blobs"))? {
            let path = self.blob_link(name, &digest);
            if !kept.contains(&digest) {
                // The entries of an index may be blobs.
                match !unreadable && !entries.contains(&digest) && old(&path)? {
                    true => drop(remove(&path)?),
                    false => drop(kept.insert(digest)),
                }
            }
        }
        Ok(kept)
    }

    /// Removes the directories of a repository that are empty, and the repository with the last one.
    fn tidy(&self, name: &Repository) {
        let directory = self.repository(name);
        // Directories that are not empty stay, as intended.
        for part in ["_blobs", "_manifests", "_referrers"] {
            for algorithm in ["sha256", "sha512"] {
                let path = directory.join(part).join(algorithm);
                for subject in names(&path).unwrap_or_default() {
                    let _ = fs::remove_dir(path.join(subject));
                }
                let _ = fs::remove_dir(path);
            }
        }
        for part in ["_blobs", "_manifests", "_referrers", "_tags", "_uploads"] {
            let _ = fs::remove_dir(directory.join(part));
        }
        let root = self.repositories_dir();
        for path in directory.ancestors().take_while(|path| **path != root) {
            if fs::remove_dir(path).is_err() {
                return;
            }
        }
    }

    /// Returns the digests of all contents.
    fn contents(&self) -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = self.blobs().join(algorithm.name());
            for prefix in names(&directory)? {
                let files = names(&directory.join(prefix))?;
                found.extend(
                    files
                        .iter()
                        .filter_map(|hex| Digest::from_hex(algorithm, hex)),
                );
            }
        }
        Ok(found)
    }
}

fn digests_of_files(directory: &Path) -> io::Result<Vec<Digest>> {
    let files = names(directory)?;
    Ok(files
        .iter()
        .filter_map(|name| super::from_file_name(name))
        .collect())
}

/// Whether nothing touched a file for the time `grace`. A file of the future is new.
fn is_older(path: &Path, grace: Duration) -> io::Result<bool> {
    let modified = match fs::metadata(path) {
        Err(e) if super::is_missing(&e) => return Ok(false),
        metadata => metadata?.modified()?,
    };
    let age = SystemTime::now().duration_since(modified);
    Ok(age.is_ok_and(|age| age >= grace))
}

fn size(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Err(e) if super::is_missing(&e) => Ok(0),
        metadata => Ok(metadata?.len()),
    }
}
