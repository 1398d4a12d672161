//! Uploads of blobs and manifests (OCI distribution specification 1.1, "Pushing").

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Body, Client, RequestBuilder, Response, StatusCode, Url};

use super::connection::{Refusal, Registry, Waits};
use super::http::{MAX_ATTEMPTS, STALL_TIMEOUT, backoff};
use crate::error::ImageError;
use crate::image::digest::Digest;

/// Length of the pieces that a file is read in, in bytes.
const PIECE: u64 = 256 << 10;
/// Maximum time that a registry takes to store a blob that it has received in full.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// The content of a blob.
#[derive(Clone)]
pub(super) enum Source {
    Bytes(Arc<[u8]>),
    File(Arc<File>),
}

/// A blob to upload.
#[derive(Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) source: Source,
}

impl Blob {
    /// Returns the content as the body of a request. `sent` counts the bytes.
    fn body(&self, sent: Arc<AtomicU64>) -> Body {
        match &self.source {
            Source::Bytes(bytes) => {
                sent.store(self.size, Ordering::Relaxed);
                bytes.to_vec().into()
            }
            Source::File(file) => Body::wrap_stream(pieces(file.clone(), self.size, sent)),
        }
    }
}

/// Returns the first `size` bytes of a file in pieces.
fn pieces(
    file: Arc<File>,
    size: u64,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = std::io::Result<Vec<u8>>> {
    futures::stream::try_unfold(0, move |offset| {
        let (file, sent) = (file.clone(), sent.clone());
        async move {
            sent.store(offset, Ordering::Relaxed);
            if offset >= size {
                return Ok(None);
            }
            let length = PIECE.min(size - offset);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length as usize];
                file.read_exact_at(&mut piece, offset).map(|()| piece)
            });
            let piece = read.await.map_err(std::io::Error::other)??;
            Ok(Some((piece, offset + length)))
        }
    })
}

/// The result of the request to mount a blob of another repository.
pub(super) enum Mount {
    /// The registry has done it.
    Done,
    /// The registry lacks the blob there, or does not show it.
    Refused,
}

impl Registry {
    fn no_repository(&self, reason: String) -> ImageError {
        ImageError::NoRepository {
            registry: self.name.clone(),
            repository: self.repository.clone(),
            reason,
        }
    }

    /// Adds the credentials to a request, if it goes to the registry itself.
    fn authorized(&self, request: RequestBuilder, to: &Url) -> RequestBuilder {
        match self.header.lock().as_ref() {
            Some(header) if self.is_own(to) => request.header(AUTHORIZATION, header),
            _ => request,
        }
    }

    /// Returns where an upload goes on. Fails if that is no longer encrypted.
    fn location(&self, base: &Url, headers: &HeaderMap) -> Result<Url, ImageError> {
        let text = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let text = text.ok_or_else(|| self.failed("it does not say where to upload"))?;
        let url = base
            .join(text)
            .map_err(|e| self.failed(format!("it wants uploads at {text:?}: {e}")))?;
        if base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.failed(format!(
                "it wants uploads over plain HTTP, at {url}: it does not know its own address"
            )));
        }
        Ok(url)
    }

    /// Returns whether the repository has a blob.
    pub(super) async fn has_blob(&self, digest: &Digest) -> Result<bool, ImageError> {
        let url = self.url(&format!("blobs/{digest}"));
        let head = |client: &Client| client.head(&url);
        match self
            .send(head, |_| ImageError::NotFound(self.image.clone()))
            .await
        {
            Ok(_) => Ok(true),
            Err(ImageError::NotFound(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Asks for a blob of another repository of the same registry. A registry that cannot do that
    /// begins an upload, which is canceled.
    pub(super) async fn mount(&self, digest: &Digest, from: &str) -> Result<Mount, ImageError> {
        let query = [("mount", digest.as_str()), ("from", from)];
        let url = Url::parse_with_params(&self.url("blobs/uploads/"), query)
            .map_err(|e| self.failed(e))?;
        let post = |client: &Client| client.post(url.clone()).header(CONTENT_LENGTH, 0);
        match self.send(post, |r| self.no_repository(r)).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(Mount::Done),
            Ok(response) => {
                if let Ok(location) = self.location(&url, response.headers()) {
                    // Registries forget unfinished uploads.
                    let delete = self.client.delete(location.clone());
                    let _ = self.authorized(delete, &location).send().await;
                }
                Ok(Mount::Refused)
            }
            // The credentials may not be good for the other repository.
            Err(ImageError::Denied { .. } | ImageError::NoRepository { .. }) => Ok(Mount::Refused),
            Err(e) => Err(e),
        }
    }

    /// Uploads a blob, unless the repository has it. `report` gets the number of bytes sent.
    /// Returns whether it was sent. An attempt that fails is repeated from the start.
    pub(super) async fn upload(
        &self,
        blob: &Blob,
        report: impl Fn(u64),
    ) -> Result<bool, ImageError> {
        let mut last = None;
        let mut waits = Waits::default();
        let mut attempt = 0;
        let mut sent = false;
        while attempt < MAX_ATTEMPTS {
            // An attempt whose answer was lost may have succeeded.
            if self.has_blob(&blob.digest).await? {
                return Ok(sent);
            }
            sent = true;
            let refusal = match self.upload_once(blob, &report).await {
                Ok(()) => return Ok(true),
                Err(refusal) if !refusal.transient => return Err(refusal.error),
                Err(refusal) => refusal,
            };
            tracing::debug!(blob = %blob.digest, "upload: {}", refusal.error);
            if let (true, Some(wait)) = (refusal.limited, refusal.wait) {
                // Asked for, so it is no attempt.
                self.wait_as_asked(wait, refusal.error, &mut waits).await?;
                continue;
            }
            last = Some(refusal.error);
            attempt += 1;
            let wait = refusal.wait.unwrap_or_else(|| backoff(attempt));
            tokio::time::sleep(wait).await;
        }
        Err(last.unwrap_or_else(|| self.failed("the upload failed")))
    }

    /// Makes one attempt at an upload: opens a session, and sends all in one request.
    async fn upload_once(&self, blob: &Blob, report: &impl Fn(u64)) -> Result<(), Refusal> {
        let permanent = |error| Refusal::new(error, false);
        let url = self.url("blobs/uploads/");
        let post = |client: &Client| client.post(&url).header(CONTENT_LENGTH, 0);
        // It is retried there.
        let session = self
            .send(post, |r| self.no_repository(r))
            .await
            .map_err(permanent)?;
        let base = Url::parse(&url).map_err(|e| permanent(self.failed(e)))?;
        let mut location = self.location(&base, session.headers()).map_err(permanent)?;
        location
            .query_pairs_mut()
            .append_pair("digest", blob.digest.as_str());
        let sent = Arc::new(AtomicU64::new(0));
        let request = self
            .uploads
            .put(location.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(blob.body(sent.clone()));
        let response = self.send_body(request, &location, blob.size, &sent, report);
        let response = response.await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::UNAUTHORIZED && self.is_own(response.url()) {
            // The token was good when the session began, so it has expired.
            let used = self.header.lock().clone();
            self.authenticate(response.headers(), used.as_deref())
                .await
                .map_err(permanent)?;
            return Err(Refusal::new(
                self.denied("the token expired during the upload"),
                true,
            ));
        }
        // A session may be unknown after a restart of the registry.
        let gone = status == StatusCode::NOT_FOUND;
        let mut refusal = self.refusal(response, |r| self.failed(r)).await;
        refusal.transient |= gone;
        Err(refusal)
    }

    /// Stores a manifest under a tag.
    pub(super) async fn put_manifest(
        &self,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let url = self.url(&format!("manifests/{tag}"));
        let put = |client: &Client| {
            client
                .put(&url)
                .header(CONTENT_TYPE, media_type)
                .body(bytes.to_vec())
        };
        let response = self.send(put, |r| self.no_repository(r)).await?;
        let digest = Digest::of(bytes);
        let stored = response.headers().get("docker-content-digest");
        match stored.and_then(|value| value.to_str().ok()) {
            Some(stored) if stored != digest.as_str() => Err(ImageError::DigestMismatch {
                expected: digest.to_string(),
                actual: stored.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Sends a request with a long body. Fails if it makes no progress.
    async fn send_body(
        &self,
        request: RequestBuilder,
        to: &Url,
        size: u64,
        sent: &AtomicU64,
        report: &impl Fn(u64),
    ) -> Result<Response, Refusal> {
        let answer = self.authorized(request, to).send();
        tokio::pin!(answer);
        let mut last = 0;
        let mut since = tokio::time::Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                answer = &mut answer => {
                    return answer.map_err(|e| self.no_answer(&e));
                }
                _ = tick.tick() => {}
            }
            let now = sent.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, tokio::time::Instant::now());
                report(now);
            }
            let patience = if now >= size {
                COMMIT_TIMEOUT
            } else {
                STALL_TIMEOUT
            };
            if since.elapsed() > patience {
                return Err(Refusal::new(
                    self.failed("the upload makes no progress"),
                    true,
                ));
            }
        }
    }
}
