//! Uploads of blobs: at once, in chunks, and by mounting those of other repositories.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use hyper::{HeaderMap, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::request::Query;
use super::{Body, CONTENT_DIGEST, Registry, bare, blocking, frame};
use crate::error::{Code, Refusal};
use crate::name::{Digest, Repository};
use crate::store::{Upload, Written};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Pieces that wait for the disk.
const MAX_WAITING: usize = 8;
/// Uploads that are kept open. Others are opened again when they go on.
const MAX_OPEN: usize = 128;

type Slot = Arc<tokio::sync::Mutex<Option<Upload>>>;

/// The open uploads, by repository and ID.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<HashMap<(Repository, String), Slot>>);

impl Uploads {
    /// Closes the uploads that nobody uses. They can be found again.
    pub fn forget_idle(&self) {
        self.0.lock().retain(|_, slot| Arc::strong_count(slot) > 1);
    }

    fn insert(&self, name: Repository, id: String, upload: Upload) -> Slot {
        let mut open = self.0.lock();
        if open.len() >= MAX_OPEN {
            open.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let slot = || Arc::new(tokio::sync::Mutex::new(Some(upload)));
        open.entry((name, id)).or_insert_with(slot).clone()
    }

    fn get(&self, name: &Repository, id: &str) -> Option<Slot> {
        self.0.lock().get(&(name.clone(), id.to_owned())).cloned()
    }

    fn remove(&self, name: &Repository, id: &str) {
        self.0.lock().remove(&(name.clone(), id.to_owned()));
    }
}

impl Registry {
    /// Begins an upload, or does without: mounts the blob, or takes all of it from this request.
    pub(super) async fn begin_upload(
        self: &Arc<Self>,
        name: Repository,
        query: &Query,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(digest) = query.get("mount") {
            let digest = parse(digest)?;
            if let Some(from) = query.get("from").and_then(Repository::parse) {
                let (store, to, wanted) = (self.store.clone(), name.clone(), digest.clone());
                if blocking(move || store.mount(&to, &from, &wanted)).await? {
                    return Ok(created(&name, &digest));
                }
            }
        }
        let digest = query.get("digest").map(parse).transpose()?;
        let (store, wanted) = (self.store.clone(), name.clone());
        let (id, upload) = blocking(move || store.begin_upload(&wanted)).await?;
        self.uploads.insert(name.clone(), id.clone(), upload);
        match digest {
            None => Ok(accepted(&name, &id, 0)),
            Some(digest) => {
                let finished = self.finish(name.clone(), &id, &digest, headers, body).await;
                if finished.is_err() {
                    // The client does not know it. The reason of the first failure is the answer.
                    drop(self.cancel_upload(name, &id).await);
                }
                finished
            }
        }
    }

    /// Answers how much of an upload has arrived.
    pub(super) async fn upload_status(
        self: &Arc<Self>,
        name: Repository,
        id: &str,
    ) -> Result<Response<Body>, Refusal> {
        let guard = self.find(&name, id).await?;
        let size = guard.as_ref().ok_or_else(unknown)?.size();
        Ok(bare(StatusCode::NO_CONTENT, &progress(&name, id, size)))
    }

    /// Adds a chunk.
    pub(super) async fn patch_upload(
        self: &Arc<Self>,
        name: Repository,
        id: &str,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let guard = self.find(&name, id).await?;
        let size = guard.as_ref().ok_or_else(unknown)?.size();
        check_range(&name, id, size, headers)?;
        let guard = self.receive(guard, body).await?;
        let size = guard.as_ref().ok_or_else(unknown)?.size();
        Ok(accepted(&name, id, size))
    }

    /// Adds the last chunk, if there is one, and makes the upload a blob.
    pub(super) async fn put_upload(
        self: &Arc<Self>,
        name: Repository,
        id: &str,
        digest: Option<&str>,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let digest = digest.ok_or_else(|| {
            Refusal::new(Code::DigestInvalid, "the digest of the blob is missing")
        })?;
        self.finish(name, id, &parse(digest)?, headers, body).await
    }

    async fn finish(
        self: &Arc<Self>,
        name: Repository,
        id: &str,
        digest: &Digest,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let guard = self.find(&name, id).await?;
        let size = guard.as_ref().ok_or_else(unknown)?.size();
        check_range(&name, id, size, headers)?;
        let mut guard = self.receive(guard, body).await?;
        let upload = guard.take().ok_or_else(unknown)?;
        let (registry, to, wanted) = (self.clone(), name.clone(), digest.clone());
        let key = id.to_owned();
        // The upload stays taken until its end, also if the client goes away: whoever opened its file
        // meanwhile would write to a blob.
        let written = blocking(move || {
            let written = registry.store.finish_upload(&to, upload, &wanted);
            registry.uploads.remove(&to, &key);
            drop(guard);
            written
        });
        match written.await? {
            Written::Stored => Ok(created(&name, digest)),
            Written::Mismatch(found) => Err(Refusal::new(
                Code::DigestInvalid,
                format!("the bytes that were sent have the digest {found}"),
            )),
        }
    }

    /// Gives an upload up.
    pub(super) async fn cancel_upload(
        self: &Arc<Self>,
        name: Repository,
        id: &str,
    ) -> Result<Response<Body>, Refusal> {
        let mut guard = self.find(&name, id).await?;
        let upload = guard.take().ok_or_else(unknown)?;
        let (registry, key) = (self.clone(), id.to_owned());
        blocking(move || {
            let cancelled = registry.store.cancel_upload(&upload);
            registry.uploads.remove(&name, &key);
            drop(guard);
            cancelled
        })
        .await?;
        Ok(bare(StatusCode::NO_CONTENT, &[]))
    }

    /// Finds an upload that no other request uses.
    async fn find(
        self: &Arc<Self>,
        name: &Repository,
        id: &str,
    ) -> Result<OwnedMutexGuard<Option<Upload>>, Refusal> {
        let slot = match self.uploads.get(name, id) {
            Some(slot) => slot,
            None => {
                let (store, wanted, key) = (self.store.clone(), name.clone(), id.to_owned());
                let found = blocking(move || store.find_upload(&wanted, &key)).await?;
                let upload = found.ok_or_else(unknown)?;
                self.uploads.insert(name.clone(), id.to_owned(), upload)
            }
        };
        let mut guard = slot.try_lock_owned().map_err(|_| {
            Refusal::new(
                Code::BlobUploadInvalid,
                "another request writes to this upload",
            )
            .status(StatusCode::CONFLICT)
        })?;
        let (registry, name, key) = (self.clone(), name.clone(), id.to_owned());
        blocking(move || {
            // It may have been opened before another request ended it.
            let current = guard.as_ref().map_or(Ok(false), Upload::is_current)?;
            if !current && guard.take().is_some() {
                registry.uploads.remove(&name, &key);
            }
            Ok(guard)
        })
        .await
    }

    /// Adds the body of a request to an upload. What has arrived stays, also if the rest is lost.
    async fn receive(
        &self,
        guard: OwnedMutexGuard<Option<Upload>>,
        body: &mut Incoming,
    ) -> Result<OwnedMutexGuard<Option<Upload>>, Refusal> {
        if body.is_end_stream() {
            return Ok(guard);
        }
        let max = self.options.max_blob;
        let (sender, pieces) = mpsc::channel(MAX_WAITING);
        let writer = tokio::task::spawn_blocking(move || write(guard, pieces, max));
        let read = async {
            while let Some(piece) = frame(body, self.options.idle).await? {
                // The writer says why it ended.
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let read: Result<(), Refusal> = read.await;
        drop(sender);
        let (guard, written) = writer.await.map_err(std::io::Error::other)?;
        written?;
        read?;
        Ok(guard)
    }
}

/// Writes what arrives.
fn write(
    mut guard: OwnedMutexGuard<Option<Upload>>,
    mut pieces: mpsc::Receiver<Bytes>,
    max: u64,
) -> (OwnedMutexGuard<Option<Upload>>, Result<(), Refusal>) {
    let result = match guard.as_mut() {
        None => Err(unknown()),
        Some(upload) => loop {
            let Some(piece) = pieces.blocking_recv() else {
                break Ok(());
            };
            if upload.size() + piece.len() as u64 > max {
                let why = format!("a blob may have {max} bytes at most");
                break Err(
                    Refusal::new(Code::SizeInvalid, why).status(StatusCode::PAYLOAD_TOO_LARGE)
                );
            }
            if let Err(e) = upload.append(&piece) {
                break Err(e.into());
            }
        },
    };
    (guard, result)
}

fn parse(text: &str) -> Result<Digest, Refusal> {
    Digest::parse(text).ok_or_else(|| {
        Refusal::new(
            Code::DigestInvalid,
            format!("{text:?} is no digest by sha256 or sha512"),
        )
    })
}

fn unknown() -> Refusal {
    Refusal::new(Code::BlobUploadUnknown, "there is no such upload")
}

/// Refuses a chunk that does not follow the last one.
fn check_range(name: &Repository, id: &str, size: u64, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(range) = headers.get(CONTENT_RANGE) else {
        return Ok(());
    };
    let text = range.to_str().unwrap_or_default();
    let parsed: Option<(u64, u64)> = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some((first, last))
    });
    let Some((first, last)) = parsed else {
        let why = format!("{text:?} is no range of bytes, FIRST-LAST");
        return Err(Refusal::new(Code::RangeInvalid, why).status(StatusCode::BAD_REQUEST));
    };
    if first != size {
        let mut refusal = Refusal::new(
            Code::RangeInvalid,
            format!("the upload has {size} bytes, so the next one is number {size}"),
        );
        for (name, value) in progress(name, id, size) {
            refusal = refusal.header(name, value);
        }
        return Err(refusal);
    }
    let length: Option<u64> = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| last - first != length.wrapping_sub(1)) {
        return Err(Refusal::new(
            Code::SizeInvalid,
            "the range and the length of the chunk differ",
        ));
    }
    Ok(())
}

/// Returns the headers that say how far an upload is. The specification has no range without a byte.
fn progress(name: &Repository, id: &str, size: u64) -> [(HeaderName, String); 3] {
    [
        (LOCATION, format!("/v2/{name}/blobs/uploads/{id}")),
        (RANGE, format!("0-{}", size.saturating_sub(1))),
        (UPLOAD_ID, id.to_owned()),
    ]
}

fn accepted(name: &Repository, id: &str, size: u64) -> Response<Body> {
    bare(StatusCode::ACCEPTED, &progress(name, id, size))
}

fn created(name: &Repository, digest: &Digest) -> Response<Body> {
    let fields = [
        (LOCATION, format!("/v2/{name}/blobs/{digest}")),
        (CONTENT_DIGEST, digest.to_string()),
    ];
    bare(StatusCode::CREATED, &fields)
}
