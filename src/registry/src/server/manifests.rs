//! Manifests, tags, referrers and the catalogue.

use std::sync::Arc;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION,
};
use hyper::{HeaderMap, Response, StatusCode};
use serde_json::json;

use super::blobs::matches;
use super::request::Query;
use super::{Body, CONTENT_DIGEST, Registry, bare, blocking, document, frame, page};
use crate::error::{Code, Refusal};
use crate::manifest::{self, Manifest, OCI_INDEX};
use crate::name::{Algorithm, Digest, Reference, Repository};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Registry {
    /// Answers with a manifest.
    pub(super) async fn manifest(
        self: &Arc<Self>,
        name: Repository,
        key: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let (store, reference) = (self.store.clone(), reference(key)?);
        let found = blocking(move || store.manifest(&name, &reference)).await?;
        let found = found.ok_or_else(|| unknown(key))?;
        let tag = format!("\"{}\"", found.digest);
        if matches(headers, IF_NONE_MATCH, &tag) {
            return Ok(bare(StatusCode::NOT_MODIFIED, &[(ETAG, tag)]));
        }
        let mut file = found.file;
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes)?;
            Ok::<_, std::io::Error>(bytes)
        });
        let fields = [
            (CONTENT_LENGTH, found.size.to_string()),
            (CONTENT_TYPE, found.media_type),
            (CONTENT_DIGEST, found.digest.to_string()),
            (ETAG, tag),
        ];
        let mut response = bare(StatusCode::OK, &fields);
        let bytes = bytes.await?;
        let stream = futures::stream::once(async { Ok(Frame::data(bytes.into())) });
        *response.body_mut() = StreamBody::new(stream).boxed_unsync();
        Ok(response)
    }

    /// Stores a manifest, and its tag if it has one.
    pub(super) async fn put_manifest(
        self: &Arc<Self>,
        name: Repository,
        key: &str,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let reference = match Reference::parse(key) {
            Some(reference) => reference,
            None if key.contains(':') => return Err(no_digest(key)),
            None => return Err(Refusal::new(Code::TagInvalid, format!("{key:?} is no tag"))),
        };
        let bytes = self.read(body).await?;
        if let Err(e) = std::str::from_utf8(&bytes) {
            let why = format!("the manifest is not valid: {e}");
            return Err(Refusal::new(Code::ManifestInvalid, why));
        }
        let algorithm = match &reference {
            Reference::Digest(digest) => digest.algorithm,
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = Digest::of(algorithm, &bytes);
        let tag = match reference {
            Reference::Digest(wanted) if wanted != digest => {
                return Err(Refusal::new(
                    Code::DigestInvalid,
                    format!("the manifest has the digest {digest}"),
                ));
            }
            Reference::Digest(_) => None,
            Reference::Tag(tag) => Some(tag),
        };
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let manifest = Manifest::parse(content_type, &bytes)
            .map_err(|why| Refusal::new(Code::ManifestInvalid, why))?;
        let mut fields = vec![
            (LOCATION, format!("/v2/{name}/manifests/{digest}")),
            (CONTENT_DIGEST, digest.to_string()),
        ];
        fields.extend(manifest.subject.as_ref().map(|s| (SUBJECT, s.to_string())));
        let store = self.store.clone();
        let missing =
            blocking(move || store.put_manifest(&name, &digest, tag.as_deref(), &manifest, &bytes))
                .await?;
        match missing.first() {
            None => Ok(bare(StatusCode::CREATED, &fields)),
            Some(digest) => Err(Refusal::new(
                Code::ManifestBlobUnknown,
                format!("the repository does not have {digest}, which the manifest refers to"),
            )),
        }
    }

    /// Reads a manifest from a request.
    async fn read(&self, body: &mut Incoming) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        while let Some(piece) = frame(body, self.options.idle).await? {
            if bytes.len() + piece.len() > self.options.max_manifest {
                return Err(Refusal::new(
                    Code::SizeInvalid,
                    format!(
                        "a manifest may have {} bytes at most",
                        self.options.max_manifest
                    ),
                )
                .status(StatusCode::PAYLOAD_TOO_LARGE));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Removes a tag, or a manifest with its tags.
    pub(super) async fn delete_manifest(
        self: &Arc<Self>,
        name: Repository,
        key: &str,
    ) -> Result<Response<Body>, Refusal> {
        let (store, reference) = (self.store.clone(), reference(key)?);
        let removed = blocking(move || match &reference {
            Reference::Tag(tag) => store.remove_tag(&name, tag),
            Reference::Digest(digest) => store.remove_manifest(&name, digest),
        });
        match removed.await? {
            true => Ok(bare(StatusCode::ACCEPTED, &[])),
            false => Err(unknown(key)),
        }
    }

    /// Lists the tags of a repository.
    pub(super) async fn tags(
        self: &Arc<Self>,
        name: Repository,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let (store, wanted) = (self.store.clone(), name.clone());
        let tags = blocking(move || store.tags(&wanted)).await?;
        let tags = tags.ok_or_else(|| {
            Refusal::new(Code::NameUnknown, format!("there is no repository {name}"))
        })?;
        let (tags, next) = page(tags, query, &format!("/v2/{name}/tags/list"))?;
        Ok(listed(&json!({"name": name.as_str(), "tags": tags}), next))
    }

    /// Lists the repositories.
    pub(super) async fn catalog(
        self: &Arc<Self>,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let store = self.store.clone();
        let all = blocking(move || store.repositories()).await?;
        let all = all.iter().map(ToString::to_string).collect();
        let (all, next) = page(all, query, "/v2/_catalog")?;
        Ok(listed(&json!({"repositories": all}), next))
    }

    /// Lists the manifests about a subject.
    pub(super) async fn referrers(
        self: &Arc<Self>,
        name: Repository,
        digest: &Digest,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let (store, subject) = (self.store.clone(), digest.clone());
        let mut found = blocking(move || store.referrers(&name, &subject)).await?;
        let wanted = query.get("artifactType");
        if let Some(wanted) = wanted {
            found.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        let text = manifest::referrers(&found).to_string();
        let mut response = document(StatusCode::OK, OCI_INDEX, text);
        if wanted.is_some() {
            let applied = HeaderValue::from_static("artifactType");
            response.headers_mut().insert(FILTERS, applied);
        }
        Ok(response)
    }
}

/// Returns what a key names that need not exist. A word that cannot be a tag names nothing.
fn reference(key: &str) -> Result<Reference, Refusal> {
    Reference::parse(key).ok_or_else(|| match key.contains(':') {
        true => no_digest(key),
        false => unknown(key),
    })
}

fn no_digest(key: &str) -> Refusal {
    Refusal::new(
        Code::DigestInvalid,
        format!("{key:?} is no digest by sha256 or sha512"),
    )
}

fn unknown(key: &str) -> Refusal {
    Refusal::new(
        Code::ManifestUnknown,
        format!("the repository has no manifest {key}"),
    )
}

fn listed(value: &serde_json::Value, next: Option<(HeaderName, String)>) -> Response<Body> {
    let mut response = document(StatusCode::OK, "application/json", value.to_string());
    if let Some((name, value)) = next
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        response.headers_mut().insert(name, value);
    }
    response
}
