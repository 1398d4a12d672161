//! `/openapi/v2` and `/openapi/v3`; documents are generated on first request and cached.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use rkube_api::openapi::{self, Custom};
use rkube_api::protobuf::openapi as protobuf;
use rkube_api::registry::Resource as Row;
use rkube_api::status::Status;

use crate::ApiServer;
use crate::body::{self, Body};
use crate::call::Call;
use crate::negotiate::Encoding;
use crate::resources::{Resource, Snapshot};
use crate::respond;

/// Generated documents, cached until the served resources change.
#[derive(Default)]
pub struct Documents {
    made: Mutex<CachedDocuments>,
}

#[derive(Default)]
struct CachedDocuments {
    generation: u64,
    /// Compressed document and its ETag by path. Compressed because most documents are rarely read.
    documents: HashMap<String, (Bytes, String)>,
}

/// Returns whether the request's `If-None-Match` contains `etag`.
pub fn etag_matches(call: &Call, etag: &str) -> bool {
    let given = call
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    given
        .split(',')
        .map(|t| t.trim().trim_start_matches("W/"))
        .any(|t| t == etag || t == "*")
}

/// Returns a hash for a group version's document that changes with the document, computed without
/// generating it.
fn version_hash(server: &ApiServer, snapshot: &Snapshot, path: &str) -> String {
    let mut text = format!("{}\n{path}\n", server.backend().config.version);
    for resource in &snapshot.all {
        if document_path(&resource.group, &resource.version) != path {
            continue;
        }
        text += &resource.plural;
        if let Some(custom) = resource.crd_version() {
            text += &custom.fingerprint();
        }
        text.push('\n');
    }
    hex::encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
        .to_uppercase()
}

/// Returns the generation of the inputs of all documents: local resources and aggregated servers.
fn generation(server: &ApiServer, snapshot: &Snapshot) -> u64 {
    // Both are counters that never come near 32 bits.
    snapshot.generation << 32 | server.aggregator.generation()
}

/// Returns the document path of a group version, such as `api/v1` or `apis/apps/v1`.
fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// Returns the resources whose schemas are built in.
fn builtin_rows(resources: &[Arc<Resource>]) -> Vec<&Row> {
    resources
        .iter()
        .filter(|r| r.openapi_schema().is_none())
        .map(|r| r.row())
        .collect()
}

/// Returns the resources that no aggregated server has taken over.
fn list_own_resources(server: &ApiServer, snapshot: &Snapshot) -> Vec<Arc<Resource>> {
    let remotes = server.aggregator.table();
    let is_own =
        |r: &&Arc<Resource>| !remotes.contains_key(&(r.group.to_string(), r.version.to_string()));
    snapshot.all.iter().filter(is_own).cloned().collect()
}

/// Serves the OpenAPI documents.
pub async fn handle(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, Status> {
    let path = call.info.path.trim_matches('/').to_owned();
    let snapshot = server.backend().resources.snapshot();
    if path == "openapi/v2" {
        return v2(server, call, &snapshot).await;
    }
    if path == "openapi/v3" {
        let mut served: Vec<(&str, &str)> = Vec::new();
        for resource in &snapshot.all {
            let group_version = (&*resource.group, &*resource.version);
            if !served.contains(&group_version) {
                served.push(group_version);
            }
        }
        let mut index = openapi::v3_index(served, &|path| version_hash(server, &snapshot, path));
        for entry in server.aggregator.table().values() {
            for (path, value) in entry.remote.openapi_v3() {
                index["paths"][path] = value;
            }
        }
        return Ok(respond::value(call, StatusCode::OK, Encoding::Json, &index).await);
    }
    let Some(document) = path.strip_prefix("openapi/v3/") else {
        return Err(Status::page_not_found());
    };
    let parts: Vec<&str> = document.split('/').collect();
    let (group, version) = match parts.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(Status::page_not_found()),
    };
    if let Some(remote) = server.aggregator.find(&format!("/{document}")) {
        if let Some((converted, hash)) = remote.converted_v3() {
            let bytes = serde_json::to_vec(&converted).map_err(Status::internal)?;
            return versioned(call, bytes.into(), &hash).await;
        }
        return remote
            .openapi_document(&server.backend().cache, call)
            .await
            .map_err(Status::service_unavailable);
    }
    if !wants_json(call) {
        return Err(Status::not_acceptable(&["application/json"]));
    }
    let matching: Vec<Arc<Resource>> = snapshot
        .all
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .cloned()
        .collect();
    if matching.is_empty() {
        return Err(Status::page_not_found());
    }
    let hash = version_hash(server, &snapshot, document);
    let (bytes, _) = server
        .openapi
        .get(document, generation(server, &snapshot), || {
            let rows = builtin_rows(&matching);
            let custom: Vec<Custom<'_>> = matching
                .iter()
                .filter_map(|r| {
                    Some(Custom {
                        resource: r.row(),
                        schema: r.openapi_schema()?,
                    })
                })
                .collect();
            let document = openapi::v3_document(group, version, &rows, &custom);
            serde_json::to_vec(&document).map_err(Status::internal)
        })?;
    versioned(call, bytes, &hash).await
}

/// Serves a document addressed by hash. Requests with another hash are redirected to the current
/// one.
async fn versioned(call: &Call, bytes: Bytes, hash: &str) -> Result<Response<Body>, Status> {
    let asked = call.info.query.non_empty("hash");
    if asked.is_some_and(|asked| asked != hash) {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let place = format!("/{}?hash={hash}", call.info.path.trim_matches('/'));
        response.headers_mut().insert(
            header::LOCATION,
            HeaderValue::from_str(&place).map_err(Status::internal)?,
        );
        return Ok(response);
    }
    Ok(document_response(call, bytes, &format!("\"{hash}\""), asked.is_some()).await)
}

async fn v2(
    server: &Arc<ApiServer>,
    call: &Call,
    snapshot: &Snapshot,
) -> Result<Response<Body>, Status> {
    let accept = call.headers.get(header::ACCEPT);
    let accept = accept.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let as_protobuf = protobuf::accepted(accept) && !json_first(accept);
    if !as_protobuf && !wants_json(call) {
        return Err(Status::not_acceptable(&[
            "application/json",
            protobuf::MEDIA_TYPE,
        ]));
    }
    // Each encoding is cached with its own ETag, so that conditional requests are cheap.
    let path = if as_protobuf { "v2.pb" } else { "v2" };
    let document = || {
        let served = list_own_resources(server, snapshot);
        let rows = builtin_rows(&served);
        let custom: Vec<Custom<'_>> = served
            .iter()
            .filter_map(|r| {
                Some(Custom {
                    resource: r.row(),
                    schema: r.openapi_schema()?,
                })
            })
            .collect();
        let mut document = openapi::v2_document(&rows, &custom);
        for entry in server.aggregator.table().values() {
            if let Some(part) = entry.remote.openapi_v2() {
                crate::aggregator::merge_v2(&mut document, part);
            }
        }
        document
    };
    let generation = generation(server, snapshot);
    let known = server.openapi.etag(path, generation);
    let (bytes, etag) = match known {
        Some(etag) if etag_matches(call, &etag) => (Bytes::new(), etag),
        _ => server.openapi.get(path, generation, || {
            if as_protobuf {
                Ok(protobuf::encode(&document()))
            } else {
                serde_json::to_vec(&document()).map_err(Status::internal)
            }
        })?,
    };
    let mut response = document_response(call, bytes, &etag, false).await;
    if as_protobuf {
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(protobuf::MEDIA_TYPE),
        );
    }
    Ok(response)
}

/// Returns whether `Accept` lists JSON before protobuf.
fn json_first(accept: &str) -> bool {
    accept
        .split(',')
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .find(|range| *range == "application/json" || protobuf::accepted(range))
        == Some("application/json")
}

/// Returns whether the client accepts JSON. Clients that only accept protobuf get an error; most
/// clients list JSON as a fallback.
fn wants_json(call: &Call) -> bool {
    crate::negotiate::accept(&call.headers, crate::negotiate::MediaTypes::Document).is_ok()
}

async fn document_response(
    call: &Call,
    bytes: Bytes,
    etag: &str,
    immutable: bool,
) -> Response<Body> {
    let mut response = if etag_matches(call, etag) {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(call, StatusCode::OK, Encoding::Json, bytes).await
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, value);
    }
    let caching = if immutable {
        "public, immutable"
    } else {
        "no-cache, private"
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

impl Documents {
    /// Returns the ETag of a cached document of this generation.
    fn etag(&self, path: &str, generation: u64) -> Option<String> {
        let made = self.made.lock();
        let (_, etag) = made.documents.get(path)?;
        (made.generation == generation).then(|| etag.clone())
    }

    /// Returns a document and its ETag, generating it if it is not cached.
    fn get(
        &self,
        path: &str,
        generation: u64,
        make: impl FnOnce() -> Result<Vec<u8>, Status>,
    ) -> Result<(Bytes, String), Status> {
        use std::io::{Read as _, Write as _};
        let found = {
            let made = self.made.lock();
            let document = made.documents.get(path).cloned();
            document.filter(|_| made.generation == generation)
        };
        if let Some((compressed, etag)) = found {
            let mut bytes = Vec::new();
            flate2::read::DeflateDecoder::new(&compressed[..])
                .read_to_end(&mut bytes)
                .map_err(Status::internal)?;
            return Ok((bytes.into(), etag));
        }
        let bytes: Bytes = make()?.into();
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let etag = format!("\"{}\"", hex::encode(digest.as_ref()).to_uppercase());
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        let compressed = encoder
            .write_all(&bytes)
            .and_then(|()| encoder.finish())
            .map_err(Status::internal)?;
        let mut made = self.made.lock();
        if made.generation != generation {
            made.documents.clear();
            made.generation = generation;
        }
        made.documents
            .insert(path.to_owned(), (compressed.into(), etag.clone()));
        Ok((bytes, etag))
    }
}
