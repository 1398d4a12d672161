//! A cache of what registries serve, for all clusters of a user.
//!
//! Content is stored by its digest. A tag is looked up in its registry each time; if that cannot be
//! reached, what it meant last is used. What was fetched with credentials is then only given to those
//! who have the same ones.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use rkube_fsutil::write_atomic_private;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;

use super::endpoints::{Hub, Use};
use crate::blocking::blocking;
use crate::error::{Context, ImageError};
use crate::image::archive::descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::media;
use crate::image::reference::Reference;
use crate::image::store::verify;
use crate::spec::{PullProgress, RegistryAuth, RuntimeConfig};

/// Length of the pieces that content is read in, in bytes.
const PIECE: usize = 256 << 10;
/// The time after which an unfinished file is not written any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The state of a download.
#[derive(Clone, Debug)]
enum State {
    /// This many bytes are in the file.
    Running(u64),
    Done,
    Failed(String, bool),
}

/// A manifest that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedManifest {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// The document.
    pub bytes: Vec<u8>,
    /// Whether the registry could not be asked.
    pub stale: bool,
}

/// A name that was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    name: String,
    digest: Digest,
    /// A digest of the credentials, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    who: Option<String>,
}

/// A name in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedName {
    /// The image's name.
    pub name: String,
    /// The digest of its manifest.
    pub digest: String,
}

/// The content of a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheUsage {
    /// Tags, sorted.
    pub names: Vec<CachedName>,
    /// Number of manifests, configurations and layers.
    pub blobs: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// A cache in a directory, which only one process uses at a time.
pub struct Cache {
    dir: PathBuf,
    /// Size to which it grows, in bytes.
    limit: AtomicU64,
    running: Mutex<HashMap<Digest, watch::Receiver<State>>>,
}

impl Cache {
    /// Opens a cache of at most `limit` bytes, or a little more for a moment.
    pub fn open(dir: &Path, limit: u64) -> Result<Arc<Self>, ImageError> {
        for part in ["blobs", "names", "ingest"] {
            let path = dir.join(part);
            fs::create_dir_all(&path)
                .image_context(|| format!("cannot make {}", path.display()))?;
        }
        let cache = Self {
            dir: dir.to_path_buf(),
            limit: AtomicU64::new(limit),
            running: Mutex::default(),
        };
        cache.unfinished()?;
        Ok(Arc::new(cache))
    }

    /// Changes the size to which the cache grows, and makes it smaller if it has to be.
    pub fn set_limit(&self, limit: u64) -> Result<(), ImageError> {
        match self.limit.swap(limit, Ordering::Relaxed) > limit {
            true => self.shrink(limit).map(drop),
            false => Ok(()),
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm(), digest.hex());
        self.dir.join("blobs").join(name)
    }

    fn name_path(&self, name: &str) -> PathBuf {
        let name = Digest::of(name.as_bytes());
        self.dir.join("names").join(name.hex())
    }

    /// Returns a stored document, if it is whole. Marks it as used.
    fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).ok()?;
        if verify(digest, &bytes).is_err() {
            tracing::warn!(%digest, "cached content is damaged, it is fetched again");
            return None;
        }
        touch(&path);
        Some(bytes)
    }

    fn record(&self, name: &str) -> Option<Record> {
        let bytes = fs::read(self.name_path(name)).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        (record.name == name).then_some(record)
    }

    fn remember(&self, record: &Record) -> Result<(), ImageError> {
        let path = self.name_path(&record.name);
        let bytes = serde_json::to_vec(record)
            .map_err(|e| ImageError::Malformed(format!("cannot encode a name: {e}")))?;
        write_atomic_private(&path, &bytes)
            .image_context(|| format!("cannot write {}", path.display()))
    }

    /// Looks a name up, in its registry unless it is a digest that is known.
    pub async fn manifest(
        self: &Arc<Self>,
        config: &RuntimeConfig,
        image: &str,
        auth: &[RegistryAuth],
    ) -> Result<CachedManifest, ImageError> {
        let reference = Reference::parse(image)?;
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.to_string(),
        };
        let who = identity(config, &reference, auth);
        let known = self
            .record(&name)
            .filter(|record| record.who.is_none() || record.who == who)
            .and_then(|record| Some((self.document(&record.digest)?, record.digest)));
        if let (Some(_), Some((bytes, digest))) = (reference.digest(), &known) {
            return Ok(found(digest, bytes.clone(), false));
        }
        let fetched = self.look_up(config, &reference, auth).await;
        match (fetched, known) {
            (Ok((digest, bytes)), _) => {
                let record = Record {
                    name,
                    digest: digest.clone(),
                    who,
                };
                let by_digest = Record {
                    name: reference.with_digest(&digest),
                    ..record.clone()
                };
                let (cache, stored) = (self.clone(), bytes.clone());
                blocking(move || {
                    let path = cache.blob_path(&by_digest.digest);
                    write_atomic_private(&path, &stored)
                        .image_context(|| format!("cannot write {}", path.display()))?;
                    cache.remember(&record)?;
                    cache.remember(&by_digest)
                })
                .await?;
                Ok(found(&digest, bytes, false))
            }
            (Err(ImageError::Registry { registry, reason }), Some((bytes, digest))) => {
                tracing::info!(image, "registry {registry}: {reason}; using what it was");
                Ok(found(&digest, bytes, true))
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Asks the registry. The document is not fetched again if the cache has it.
    async fn look_up(
        &self,
        config: &RuntimeConfig,
        reference: &Reference,
        auth: &[RegistryAuth],
    ) -> Result<(Digest, Vec<u8>), ImageError> {
        let tell: Arc<dyn Fn(String) + Send + Sync> = Arc::new(|_| {});
        // Who asks may go to the registry itself, and wait there.
        let hub = Hub::impatient(config, reference, auth, &tell)?;
        let key = &reference.manifest_key();
        if reference.digest().is_none() {
            let head = hub
                .ask(Use::Resolve, |registry| async move {
                    registry.manifest_digest(key).await
                })
                .await;
            match head {
                Ok(Some(digest)) => {
                    if let Some(bytes) = self.document(&digest) {
                        return Ok((digest, bytes));
                    }
                }
                // Not all registries answer such requests as they should.
                Ok(None) | Err(ImageError::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        hub.manifest(key, reference.digest()).await
    }

    /// Returns the content of a blob from the byte `from` on, and its size if it is known. What the
    /// cache lacks is fetched meanwhile, once for all who ask.
    pub async fn blob(
        self: &Arc<Self>,
        config: &RuntimeConfig,
        image: &str,
        digest: &str,
        auth: &[RegistryAuth],
        from: u64,
    ) -> Result<
        (
            Option<u64>,
            impl Stream<Item = io::Result<Bytes>> + Send + use<>,
        ),
        ImageError,
    > {
        let digest = Digest::parse(digest)
            .ok_or_else(|| ImageError::Malformed(format!("invalid digest {digest:?}")))?;
        let path = self.blob_path(&digest);
        if let Ok(file) = File::open(&path) {
            touch(&path);
            let size = file
                .metadata()
                .image_context(|| format!("cannot read {}", path.display()))?
                .len();
            let (_, done) = watch::channel(State::Done);
            return Ok((Some(size), pieces(file, from, done).await?));
        }
        let reference = Reference::parse(image)?;
        let mut state = self.begin(config, &reference, &digest, auth)?;
        let ingest = self.ingest_path(&digest);
        let given_up = |_| ImageError::Malformed("the download was given up".into());
        let file = loop {
            // Until there is something to send, or an error to report.
            let now = state
                .wait_for(|state| !matches!(state, State::Running(0)))
                .await
                .map_err(given_up)?
                .clone();
            if let State::Failed(reason, absent) = now {
                return Err(match absent {
                    true => ImageError::NotFound(format!("{image}: {digest}")),
                    false => ImageError::Registry {
                        registry: reference.registry().to_owned(),
                        reason,
                    },
                });
            }
            // Its name changes when it is complete.
            match File::open(&ingest).or_else(|_| File::open(&path)) {
                Ok(file) => break file,
                Err(e) if matches!(now, State::Done) => {
                    return Err(e).image_context(|| format!("cannot read {}", path.display()));
                }
                // An attempt has failed, and another one begins.
                Err(_) => state.changed().await.map_err(given_up)?,
            }
        };
        Ok((None, pieces(file, from, state).await?))
    }

    fn ingest_path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm(), digest.hex());
        self.dir.join("ingest").join(name)
    }

    /// Begins a download, unless one is running.
    fn begin(
        self: &Arc<Self>,
        config: &RuntimeConfig,
        reference: &Reference,
        digest: &Digest,
        auth: &[RegistryAuth],
    ) -> Result<watch::Receiver<State>, ImageError> {
        let mut running = self.running.lock();
        if let Some(state) = running.get(digest) {
            return Ok(state.clone());
        }
        let tell: Arc<dyn Fn(String) + Send + Sync> = Arc::new(|_| {});
        let hub = Hub::impatient(config, reference, auth, &tell)?;
        let (sender, receiver) = watch::channel(State::Running(0));
        running.insert(digest.clone(), receiver.clone());
        drop(running);
        let (cache, digest) = (self.clone(), digest.clone());
        let running = Running {
            cache: self.clone(),
            digest: digest.clone(),
        };
        // It goes on if who asked first goes away.
        tokio::spawn(async move {
            let done = cache.download(&hub, &digest, &sender).await;
            let state = match done {
                Ok(()) => State::Done,
                Err(e) => State::Failed(e.to_string(), matches!(e, ImageError::NotFound(_))),
            };
            drop(running);
            sender.send_replace(state);
            let pruned = blocking(move || cache.shrink(cache.limit.load(Ordering::Relaxed))).await;
            if let Err(e) = pruned {
                tracing::warn!("the image cache cannot be made smaller: {e}");
            }
        });
        Ok(receiver)
    }

    async fn download(
        &self,
        hub: &Hub,
        digest: &Digest,
        state: &watch::Sender<State>,
    ) -> Result<(), ImageError> {
        let path = self.ingest_path(digest);
        let sender = state.clone();
        let progress: super::download::Progress = Arc::new(move |step| {
            if let PullProgress::Layer { done, .. } = step {
                sender.send_if_modified(|state| match state {
                    State::Running(now) if done > *now => {
                        *now = done;
                        true
                    }
                    _ => false,
                });
            }
        });
        let (to, progress) = (&path, &progress);
        hub.ask(Use::Pull, |registry| async move {
            let size = registry.blob_size(digest).await?;
            let layer = descriptor(media::OCI_LAYER_GZIP, digest.clone(), size);
            registry.fetch(&layer, to, progress).await.map(drop)
        })
        .await?;
        let target = self.blob_path(digest);
        fs::rename(&path, &target).image_context(|| format!("cannot write {}", target.display()))
    }

    /// Removes what was not used for longest, until at most `limit` bytes are left. Returns how many
    /// bytes that freed.
    pub fn shrink(&self, limit: u64) -> Result<u64, ImageError> {
        let mut blobs = self.blobs()?;
        blobs.sort();
        // Downloads that run count, so that the disk has no surprise.
        let mut size = blobs.iter().map(|(_, size, _)| size).sum::<u64>() + self.unfinished()?;
        let mut freed = 0;
        for (_, length, path) in blobs {
            if size <= limit {
                break;
            }
            remove(&path)?;
            size -= length;
            freed += length;
        }
        if freed > 0 {
            self.forget_names()?;
        }
        Ok(freed)
    }

    /// Removes names whose manifest is gone.
    fn forget_names(&self) -> Result<(), ImageError> {
        for path in entries(&self.dir.join("names"))? {
            let record = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            if record.is_none_or(|record| !self.blob_path(&record.digest).exists()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Returns the size of downloads that are not complete. Removes those that were given up.
    fn unfinished(&self) -> Result<u64, ImageError> {
        let mut size = 0;
        let mut all = entries(&self.dir.join("ingest"))?;
        for part in ["blobs", "names"] {
            let temporary = entries(&self.dir.join(part))?;
            all.extend(temporary.into_iter().filter(|path| is_temporary(path)));
        }
        for path in all {
            let Some(metadata) = metadata(&path)? else {
                continue;
            };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match modified.elapsed() {
                Ok(age) if age > ABANDONED => remove(&path)?,
                _ => size += metadata.len(),
            }
        }
        Ok(size)
    }

    /// Returns the time of the last use, the size and the path of everything.
    fn blobs(&self) -> Result<Vec<(SystemTime, u64, PathBuf)>, ImageError> {
        let mut all = Vec::new();
        for path in entries(&self.dir.join("blobs"))? {
            if is_temporary(&path) {
                continue;
            }
            let Some(metadata) = metadata(&path)? else {
                continue;
            };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            all.push((used, metadata.len(), path));
        }
        Ok(all)
    }

    /// Returns what the cache has.
    pub fn usage(&self) -> Result<CacheUsage, ImageError> {
        let blobs = self.blobs()?;
        let mut names = Vec::new();
        for path in entries(&self.dir.join("names"))? {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    return Err(e).image_context(|| format!("cannot read {}", path.display()));
                }
            };
            let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
                continue;
            };
            if !record.name.contains('@') {
                names.push(CachedName {
                    name: record.name,
                    digest: record.digest.to_string(),
                });
            }
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(CacheUsage {
            names,
            blobs: blobs.len(),
            bytes: blobs.iter().map(|(_, size, _)| size).sum(),
        })
    }
}

/// Returns the paths in a directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .image_context(|| format!("cannot read {}", dir.display()))
}

/// A download that runs, until this is dropped.
struct Running {
    cache: Arc<Cache>,
    digest: Digest,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cache.running.lock().remove(&self.digest);
    }
}

/// Returns whether a file is one that is still written, under another name than its own.
fn is_temporary(path: &Path) -> bool {
    let extension = path.extension().and_then(|text| text.to_str());
    extension.is_some_and(|text| text.starts_with("tmp-"))
}

/// Returns what is known about a file that another process may remove.
fn metadata(path: &Path) -> Result<Option<fs::Metadata>, ImageError> {
    match path.metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).image_context(|| format!("cannot read {}", path.display())),
    }
}

/// Removes a file that another process may have removed.
fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).image_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Marks a file as used now.
fn touch(path: &Path) {
    // If it fails, the file counts as used earlier.
    let _ = File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_modified(SystemTime::now()));
}

/// Returns a digest of all that a cluster shows for a repository: the credentials that are given, and
/// the credentials, headers and certificates of its settings. There is none if it shows nothing.
fn identity(
    config: &RuntimeConfig,
    reference: &Reference,
    auth: &[RegistryAuth],
) -> Option<String> {
    let given = auth.first().map(|a| {
        [
            &a.username,
            &a.password,
            &a.identity_token,
            &a.registry_token,
        ]
        .map(String::as_str)
        .join("\n")
    });
    let mut texts: Vec<String> = given.into_iter().collect();
    if let Some(registry) = config.registries.of(reference.registry()) {
        for endpoint in registry.mirrors.iter().chain(&registry.server) {
            if let Some(l) = &endpoint.login {
                texts.push(format!(
                    "login {}\n{}\n{}",
                    l.username, l.password, l.identity_token
                ));
            }
            for (name, value) in &endpoint.headers {
                texts.push(format!("header {name}: {value}"));
            }
            if let Some((certificate, _)) = &endpoint.identity {
                texts.push(format!("identity {certificate}"));
            }
        }
    }
    (!texts.is_empty()).then(|| Digest::of(texts.join("\n").as_bytes()).hex().to_owned())
}

fn found(digest: &Digest, bytes: Vec<u8>, stale: bool) -> CachedManifest {
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let media_type = match value["mediaType"].as_str() {
        Some(text) if !text.is_empty() => text,
        _ if value["manifests"].is_array() => media::OCI_INDEX,
        _ => media::OCI_MANIFEST,
    };
    CachedManifest {
        digest: digest.to_string(),
        media_type: media_type.to_owned(),
        bytes,
        stale,
    }
}

/// Returns a file from the byte `from` on, as it grows.
async fn pieces(
    file: File,
    from: u64,
    state: watch::Receiver<State>,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, ImageError> {
    let mut file = tokio::fs::File::from_std(file);
    file.seek(io::SeekFrom::Start(from))
        .await
        .image_context(|| "cannot read cached content".into())?;
    Ok(futures::stream::try_unfold(
        (file, state),
        |(mut file, mut state)| async move {
            loop {
                // Looked at before reading: what is there when it ends is all.
                let now = state.borrow_and_update().clone();
                let mut piece = vec![0; PIECE];
                let read = file.read(&mut piece).await?;
                if read > 0 {
                    piece.truncate(read);
                    return Ok(Some((Bytes::from(piece), (file, state))));
                }
                match now {
                    State::Done => return Ok(None),
                    State::Failed(reason, _) => return Err(io::Error::other(reason)),
                    State::Running(_) => {
                        // An error means that the task has ended without a result.
                        state
                            .changed()
                            .await
                            .map_err(|_| io::Error::other("the download was given up"))?;
                    }
                }
            }
        },
    ))
}
