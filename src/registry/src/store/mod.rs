//! The directory of a registry.
//!
//! | path | content |
//! | --- | --- |
//! | `blobs/ALGORITHM/XX/DIGITS` | blobs and manifests, each once |
//! | `repositories/NAME/_blobs/ALGORITHM/DIGITS` | empty: the repository has the blob |
//! | `repositories/NAME/_manifests/ALGORITHM/DIGITS` | the manifest's media type |
//! | `repositories/NAME/_tags/TAG` | the manifest's digest |
//! | `repositories/NAME/_referrers/ALGORITHM/DIGITS/ALGORITHM-DIGITS` | the descriptor of a referrer |
//! | `repositories/NAME/_uploads/ID` | bytes of an upload |
//! | `temporary` | files before they get their name |
//!
//! Files get their names when their content is on disk. What refers to something is written after it,
//! and removed before it. All functions block.

mod collect;
mod upload;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::RwLock;

pub use collect::{Collected, Usage};
pub use upload::{Upload, Written};

use crate::manifest::{Descriptor, Manifest};
use crate::name::{Algorithm, Digest, Reference, Repository, is_tag};

/// Blobs, manifests and tags in a directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Held shared by what adds names, and alone by what removes them.
    gate: RwLock<()>,
}

/// A manifest as it was stored.
#[derive(Debug)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its file.
    pub file: File,
    /// Its length.
    pub size: u64,
}

impl Store {
    /// Opens the store in a directory, and creates it if it does not exist. Only one process may
    /// change a store.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let store = Self::read_only(root);
        let temporary = store.root.join("temporary");
        rkube_fsutil::remove_tree(&temporary)?;
        for directory in [temporary, store.blobs(), store.repositories_dir()] {
            fs::create_dir_all(directory)?;
        }
        Ok(store)
    }

    /// Returns the store in a directory for reading, beside a process that changes it.
    pub fn read_only(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            gate: RwLock::new(()),
        }
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn repositories_dir(&self) -> PathBuf {
        self.root.join("repositories")
    }

    fn repository(&self, name: &Repository) -> PathBuf {
        self.repositories_dir().join(name.as_str())
    }

    fn content(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = (digest.algorithm.name(), digest.hex());
        self.blobs().join(algorithm).join(&hex[..2]).join(hex)
    }

    fn blob_link(&self, name: &Repository, digest: &Digest) -> PathBuf {
        below(&self.repository(name).join("_blobs"), digest)
    }

    fn manifest_link(&self, name: &Repository, digest: &Digest) -> PathBuf {
        below(&self.repository(name).join("_manifests"), digest)
    }

    fn tag(&self, name: &Repository, tag: &str) -> PathBuf {
        self.repository(name).join("_tags").join(tag)
    }

    fn referrers_dir(&self, name: &Repository, subject: &Digest) -> PathBuf {
        below(&self.repository(name).join("_referrers"), subject)
    }

    /// Returns a new path for a file that has no name yet.
    fn temporary(&self) -> PathBuf {
        let name = uuid::Uuid::new_v4().to_string();
        self.root.join("temporary").join(name)
    }

    /// Whether content is there with the size that it must have.
    fn has_content(&self, digest: &Digest, expected: u64) -> io::Result<bool> {
        match fs::metadata(self.content(digest)) {
            Err(e) if is_missing(&e) => Ok(false),
            found => Ok(found?.len() == expected),
        }
    }

    /// Gives a file its content and name at once, when that is on disk.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let written = File::create_new(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()?;
            self.place(&temporary, path)
        });
        if written.is_err() {
            // It has no name; the next start removes what stays.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Moves a file whose content is on disk to its name.
    fn place(&self, from: &Path, to: &Path) -> io::Result<()> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(from, to)?;
        sync_parent(to)
    }

    /// Opens a blob of a repository; `None` if the repository does not have it.
    pub fn blob(&self, name: &Repository, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        if !self.blob_link(name, digest).exists() {
            return Ok(None);
        }
        open(&self.content(digest))
    }

    /// Returns the size of a blob of a repository; `None` if the repository does not have it.
    /// Postpones its collection: a client that saw it relies on it.
    pub fn see_blob(&self, name: &Repository, digest: &Digest) -> io::Result<Option<u64>> {
        let _gate = self.gate.read();
        let found = self.blob(name, digest)?;
        if found.is_some() {
            self.touch(name, digest)?;
        }
        Ok(found.map(|(_, size)| size))
    }

    fn touch(&self, name: &Repository, digest: &Digest) -> io::Result<()> {
        let file = File::options()
            .write(true)
            .open(self.blob_link(name, digest))?;
        file.set_modified(SystemTime::now())
    }

    fn link(&self, name: &Repository, digest: &Digest) -> io::Result<()> {
        let path = self.blob_link(name, digest);
        match path.exists() {
            true => self.touch(name, digest),
            false => self.write(&path, b""),
        }
    }

    /// Adds a blob of another repository. Returns whether that has it.
    pub fn mount(&self, name: &Repository, from: &Repository, digest: &Digest) -> io::Result<bool> {
        let _gate = self.gate.read();
        if self.blob(from, digest)?.is_none() {
            return Ok(false);
        }
        self.link(name, digest)?;
        Ok(true)
    }

    /// Takes a blob from a repository. Returns whether it had it.
    pub fn remove_blob(&self, name: &Repository, digest: &Digest) -> io::Result<bool> {
        let _gate = self.gate.write();
        remove(&self.blob_link(name, digest))
    }

    /// Returns a manifest; `None` if the repository does not have it.
    pub fn manifest(&self, name: &Repository, key: &Reference) -> io::Result<Option<Stored>> {
        let digest = match key {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match self.tagged(name, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let Some(media_type) = read(&self.manifest_link(name, &digest))? else {
            return Ok(None);
        };
        let Some((file, size)) = open(&self.content(&digest))? else {
            return Ok(None);
        };
        Ok(Some(Stored {
            digest,
            media_type,
            file,
            size,
        }))
    }

    /// Returns the digest of the manifest with a tag.
    fn tagged(&self, name: &Repository, tag: &str) -> io::Result<Option<Digest>> {
        let text = read(&self.tag(name, tag))?;
        Ok(text.as_deref().and_then(Digest::parse))
    }

    /// Stores a manifest whose digest was checked. Returns what the repository lacks of what the
    /// manifest refers to, in which case nothing is stored.
    pub fn put_manifest(
        &self,
        name: &Repository,
        digest: &Digest,
        tag: Option<&str>,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> io::Result<Vec<Digest>> {
        let _gate = self.gate.read();
        let lacks_blob = |d: &&Digest| !self.blob_link(name, d).exists();
        // The indexes of build caches list blobs.
        let lacks_manifest = |d: &&Digest| !self.manifest_link(name, d).exists() && lacks_blob(d);
        let blobs = manifest.blobs.iter().filter(lacks_blob);
        let manifests = manifest.manifests.iter().filter(lacks_manifest);
        let missing: Vec<Digest> = blobs.chain(manifests).cloned().collect();
        if !missing.is_empty() {
            return Ok(missing);
        }
        let content = self.content(digest);
        if !self.has_content(digest, bytes.len() as u64)? {
            self.write(&content, bytes)?;
        }
        if let Some(subject) = &manifest.subject {
            let descriptor = manifest.descriptor(digest, bytes.len() as u64);
            let path = self.referrers_dir(name, subject).join(file_name(digest));
            self.write(&path, serde_json::to_string(&descriptor)?.as_bytes())?;
        }
        self.write(
            &self.manifest_link(name, digest),
            manifest.media_type.as_bytes(),
        )?;
        if let Some(tag) = tag {
            self.write(&self.tag(name, tag), digest.to_string().as_bytes())?;
        }
        Ok(missing)
    }

    /// Removes a tag. Returns whether it existed.
    pub fn remove_tag(&self, name: &Repository, tag: &str) -> io::Result<bool> {
        let _gate = self.gate.write();
        remove(&self.tag(name, tag))
    }

    /// Removes a manifest and its tags. Returns whether it existed.
    pub fn remove_manifest(&self, name: &Repository, digest: &Digest) -> io::Result<bool> {
        let _gate = self.gate.write();
        self.take_manifest(name, digest)
    }

    /// Removes a manifest and its tags while the gate is held alone.
    fn take_manifest(&self, name: &Repository, digest: &Digest) -> io::Result<bool> {
        for tag in self.tags(name)?.unwrap_or_default() {
            if self.tagged(name, &tag)?.as_ref() == Some(digest) {
                remove(&self.tag(name, &tag))?;
            }
        }
        let parsed = self.parsed(name, digest)?.and_then(Result::ok);
        let subject = parsed.and_then(|manifest| manifest.subject);
        let removed = remove(&self.manifest_link(name, digest))?;
        if let Some(subject) = subject {
            remove(&self.referrers_dir(name, &subject).join(file_name(digest)))?;
        }
        Ok(removed)
    }

    /// Reads a manifest as the media type says with which it was stored. `None` if its content is
    /// lost; the inner result says why it cannot be read.
    fn parsed(
        &self,
        name: &Repository,
        digest: &Digest,
    ) -> io::Result<Option<Result<Manifest, String>>> {
        let media_type = read(&self.manifest_link(name, digest))?;
        match fs::read(self.content(digest)) {
            Err(e) if is_missing(&e) => Ok(None),
            bytes => Ok(Some(Manifest::parse(media_type.as_deref(), &bytes?))),
        }
    }

    /// Returns the tags of a repository, sorted; `None` if there is no such repository.
    pub fn tags(&self, name: &Repository) -> io::Result<Option<Vec<String>>> {
        if !self.exists(name) {
            return Ok(None);
        }
        let mut tags = names(&self.repository(name).join("_tags"))?;
        tags.retain(|tag| is_tag(tag));
        tags.sort();
        Ok(Some(tags))
    }

    /// Whether something was pushed to a repository.
    fn exists(&self, name: &Repository) -> bool {
        let directory = self.repository(name);
        ["_manifests", "_blobs"]
            .iter()
            .any(|part| directory.join(part).is_dir())
    }

    /// Returns the manifests about a subject.
    pub fn referrers(&self, name: &Repository, subject: &Digest) -> io::Result<Vec<Descriptor>> {
        let directory = self.referrers_dir(name, subject);
        let mut files = names(&directory)?;
        files.sort();
        let mut found = Vec::new();
        for file in files {
            let known = from_file_name(&file)
                .is_some_and(|digest| self.manifest_link(name, &digest).exists());
            if let Some(text) = read(&directory.join(&file))?.filter(|_| known) {
                found.push(serde_json::from_str(&text)?);
            }
        }
        Ok(found)
    }

    /// Returns the names of the repositories that have manifests, sorted.
    pub fn repositories(&self) -> io::Result<Vec<Repository>> {
        let mut all = self.all_repositories()?;
        all.retain(|name| !self.manifests(name).unwrap_or_default().is_empty());
        Ok(all)
    }

    fn all_repositories(&self) -> io::Result<Vec<Repository>> {
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(prefix) = open.pop() {
            let directory = self.repositories_dir().join(&prefix);
            let mut is_repository = false;
            for name in names(&directory)? {
                if name.starts_with('_') {
                    is_repository = true;
                } else {
                    open.push(match prefix.is_empty() {
                        true => name,
                        false => format!("{prefix}/{name}"),
                    });
                }
            }
            if is_repository {
                found.extend(Repository::parse(&prefix));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Returns the digests of all manifests of a repository.
    fn manifests(&self, name: &Repository) -> io::Result<Vec<Digest>> {
        digests(&self.repository(name).join("_manifests"))
    }
}

/// Returns the path of a digest's file below a directory.
fn below(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join(digest.algorithm.name()).join(digest.hex())
}

/// Returns a digest as the name of one file.
fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm.name(), digest.hex())
}

fn from_file_name(name: &str) -> Option<Digest> {
    Digest::parse(&name.replacen('-', ":", 1))
}

/// Returns the digests with a file below a directory.
fn digests(directory: &Path) -> io::Result<Vec<Digest>> {
    let mut found = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let files = names(&directory.join(algorithm.name()))?;
        found.extend(
            files
                .iter()
                .filter_map(|hex| Digest::from_hex(algorithm, hex)),
        );
    }
    Ok(found)
}

/// Returns the names in a directory, which need not exist.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if is_missing(&e) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry?.file_name().into_string());
    }
    Ok(found)
}

/// Whether a path does not exist. A file in the place of a directory means that, too.
fn is_missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(e) if is_missing(&e) => Ok(None),
        text => text.map(Some),
    }
}

fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    match File::open(path) {
        Err(e) if is_missing(&e) => Ok(None),
        file => {
            let file = file?;
            let size = file.metadata()?.len();
            Ok(Some((file, size)))
        }
    }
}

/// Removes a file. Returns whether it existed.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(e) if is_missing(&e) => Ok(false),
        removed => {
            removed?;
            sync_parent(path)?;
            Ok(true)
        }
    }
}

/// Waits until the names in the directory of a path are on disk.
fn sync_parent(path: &Path) -> io::Result<()> {
    // Windows cannot open directories as files; its file systems log renames.
    if cfg!(unix)
        && let Some(parent) = path.parent()
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
