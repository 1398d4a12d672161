//! Downloads of layers.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use reqwest::StatusCode;
use tokio::io::AsyncWriteExt;

use super::connection::{Registry, Tries};
use super::endpoints::{Hub, Use};
use super::http::{MAX_ATTEMPTS, backoff, describe};
use crate::blocking::blocking;
use crate::error::{Context, ImageError};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::store::Store;
use crate::spec::PullProgress;

/// A callback for the progress of a pull.
pub(super) type Progress = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// Returns the path that a layer is downloaded to.
pub(super) fn blob_file(store: &Store, digest: &Digest) -> PathBuf {
    store.ingest_dir().join(format!("blob-{}", digest.hex()))
}

impl Hub {
    /// Downloads a layer to the ingest directory, or resumes an earlier download. Returns `None` if
    /// another process has unpacked the layer meanwhile.
    ///
    /// Only one process at a time writes the file. The lock is held only for the download. Since
    /// the open file is returned, its name may be removed afterwards.
    pub(super) async fn download(
        &self,
        store: &Arc<Store>,
        layer: &Descriptor,
        chain: &Digest,
        progress: &Progress,
    ) -> Result<Option<std::fs::File>, ImageError> {
        let (locker, digest) = (store.clone(), layer.digest.clone());
        let _lock = blocking(move || locker.lock_download(&digest)).await?;
        if store.has_layer(chain) {
            return Ok(None);
        }
        let path = blob_file(store, &layer.digest);
        let path = &path;
        self.ask(Use::Pull, |registry| async move {
            registry.fetch(layer, path, progress).await
        })
        .await
        .map(Some)
    }
}

impl Registry {
    /// Downloads a layer to a file, or resumes an earlier download.
    pub(super) async fn fetch(
        &self,
        layer: &Descriptor,
        path: &PathBuf,
        progress: &Progress,
    ) -> Result<std::fs::File, ImageError> {
        let mut last = None;
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt)).await;
            }
            match self.download_once(layer, path, progress).await {
                Ok(file) => return Ok(file),
                Err(e @ (ImageError::Registry { .. } | ImageError::DigestMismatch { .. })) => {
                    tracing::debug!(layer = %layer.digest, "download: {e}");
                    last = Some(e);
                }
                Err(e) => return Err(e),
            }
            // Another endpoint may do better.
            if self.tries == Tries::Few && attempt > 0 || self.lost.get().is_some() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| self.failed("the download failed")))
    }

    /// Makes one attempt at a download.
    async fn download_once(
        &self,
        layer: &Descriptor,
        path: &PathBuf,
        progress: &Progress,
    ) -> Result<std::fs::File, ImageError> {
        let context = || format!("cannot write {}", path.display());
        let report = |done: u64| {
            progress(PullProgress::Layer {
                digest: layer.digest.to_string(),
                done,
                total: layer.size,
            });
        };
        // Hash the part that an earlier attempt has stored.
        let earlier = path.clone();
        let mut hasher = layer.digest.hasher();
        let (mut file, mut done, mut hasher) = blocking(move || {
            let context = || format!("cannot write {}", earlier.display());
            let mut file = std::fs::File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&earlier)
                .image_context(context)?;
            let mut buffer = vec![0; 128 * 1024];
            let mut length = 0;
            loop {
                let n = file.read(&mut buffer).image_context(context)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
            Ok((file, length, hasher))
        })
        .await?;
        if done > layer.size {
            file.set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .image_context(context)?;
            (done, hasher) = (0, layer.digest.hasher());
        }
        let mut file = tokio::fs::File::from_std(file);
        if done < layer.size {
            let url = self.url(&format!("blobs/{}", layer.digest));
            let response = self.get(&url, None, done).await?;
            if done > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                // The registry ignored the range and sends the whole blob.
                file.set_len(0).await.image_context(context)?;
                tokio::io::AsyncSeekExt::seek(&mut file, SeekFrom::Start(0))
                    .await
                    .image_context(context)?;
                (done, hasher) = (0, layer.digest.hasher());
            }
            let mut stream = response.bytes_stream();
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(|e| self.failed(describe(&e)))?;
                done += piece.len() as u64;
                if done > layer.size {
                    break;
                }
                hasher.update(&piece);
                file.write_all(&piece).await.image_context(context)?;
                report(done);
            }
            file.flush().await.image_context(context)?;
        } else {
            report(done);
        }
        if done < layer.size {
            return Err(self.failed(format!("the download of {} ended early", layer.digest)));
        }
        let actual = hasher.finish();
        if done > layer.size || actual != layer.digest {
            // The next attempt must not resume this file.
            let _ = tokio::fs::remove_file(path).await;
            return Err(ImageError::DigestMismatch {
                expected: layer.digest.to_string(),
                actual: actual.to_string(),
            });
        }
        let mut file = file.into_std().await;
        file.seek(SeekFrom::Start(0)).image_context(context)?;
        Ok(file)
    }
}
