//! The responses to requests: the one place where answers are encoded.

mod events;
mod shape;

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Extensions, HeaderValue, Response, StatusCode, header};
use rkube_api::Object;
use rkube_api::status::Status;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::body::{self, Body};
use crate::cache::CachedObject;
use crate::call::Call;
use crate::negotiate::{Accepted, Encoding, MediaTypes, View};
use crate::outcome::{ListMeta, Outcome};
use crate::resources::Resource;
use shape::{as_items, left_out, list_meta, partial, partial_list, row, table, table_of};

/// Whole objects in JSON, which the cache has.
const JSON: Accepted = Accepted {
    encoding: Encoding::Json,
    view: View::Whole,
};
/// Whole objects in protobuf, which the cache has on demand.
const PROTOBUF: Accepted = Accepted {
    encoding: Encoding::Protobuf,
    view: View::Whole,
};

/// Returns the response with an answer, in the form that the client has asked for. `extensions` are
/// those of the request.
///
/// # Errors
///
/// Fails if a webhook does not convert the objects, or a watch cannot be upgraded to a WebSocket.
pub async fn outcome(
    backend: &Arc<Backend>,
    call: &Call,
    resource: &Arc<Resource>,
    accepted: Accepted,
    outcome: Outcome,
    extensions: &mut Extensions,
) -> Result<Response<Body>, Status> {
    match outcome {
        Outcome::Cached(object) => {
            if accepted == PROTOBUF && resource.serves_storage_version() {
                let body = object.protobuf()?.body.clone();
                return Ok(bytes(call, StatusCode::OK, accepted.encoding, body).await);
            }
            let json = object.json();
            stored(backend, call, resource, StatusCode::OK, accepted, json).await
        }
        Outcome::Stored(code, json) => stored(backend, call, resource, code, accepted, json).await,
        Outcome::Object(code, object) => Ok(tree(call, resource, code, accepted, object).await),
        Outcome::List(items, meta) => list(backend, call, resource, accepted, &items, &meta).await,
        Outcome::Computed(objects) => {
            let list = computed(call, resource, accepted.view, objects);
            Ok(value(call, StatusCode::OK, accepted.encoding, &list).await)
        }
        Outcome::Value(code, shown) => Ok(value(call, code, accepted.encoding, &shown).await),
        Outcome::Watch(watching) => {
            events::stream(backend, call, resource, accepted, *watching, extensions).await
        }
    }
}

/// Returns a response with one stored object, given as JSON of the storage version with its
/// revision.
async fn stored(
    backend: &Backend,
    call: &Call,
    resource: &Resource,
    code: StatusCode,
    accepted: Accepted,
    json: Bytes,
) -> Result<Response<Body>, Status> {
    if accepted == JSON && resource.is_as_served(&json) && !wants_pretty(call) {
        return Ok(bytes(call, code, Encoding::Json, json).await);
    }
    let object: Object = serde_json::from_slice(&json).map_err(Status::internal)?;
    let object = resource.served(backend.load(resource, object).await?)?;
    Ok(tree(call, resource, code, accepted, object).await)
}

/// Returns a response with one object in the requested version.
async fn tree(
    call: &Call,
    resource: &Resource,
    code: StatusCode,
    accepted: Accepted,
    object: Object,
) -> Response<Body> {
    let shown = match accepted.view {
        View::Whole => object,
        View::Metadata(version) | View::MetadataList(version) => partial(&object, version),
        View::Table(version) => {
            let meta = json!({"resourceVersion": rkube_api::meta::resource_version(&object)});
            let rows = vec![row(call, resource, &object, version)];
            table(resource, version, meta, rows, true)
        }
    };
    value(call, code, accepted.encoding, &shown).await
}

/// Returns a list response. Items that need no conversion are copied from their stored bytes.
async fn list(
    backend: &Backend,
    call: &Call,
    resource: &Resource,
    accepted: Accepted,
    items: &[Arc<CachedObject>],
    meta: &ListMeta,
) -> Result<Response<Body>, Status> {
    let plain = accepted == JSON && !wants_pretty(call);
    if plain
        && items
            .iter()
            .all(|item| resource.is_as_served(item.stored()))
    {
        let size: usize = items.iter().map(|i| i.json_len() + 1).sum();
        let mut out = BytesMut::with_capacity(size + 256);
        let head =
            json!({"kind": resource.list_kind, "apiVersion": resource.api_version()}).to_string();
        out.put_slice(&head.as_bytes()[..head.len() - 1]);
        out.put_slice(b",\"metadata\":");
        out.put_slice(list_meta(resource, meta).to_string().as_bytes());
        out.put_slice(b",\"items\":[");
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.put_u8(b',');
            }
            match resource.crd_version() {
                None => item.put_item(&mut out),
                Some(_) => item.put_json(&mut out),
            }
        }
        out.put_slice(b"]}\n");
        return Ok(bytes(call, StatusCode::OK, Encoding::Json, out.freeze()).await);
    }
    if accepted == PROTOBUF && resource.serves_storage_version() {
        let mut messages = Vec::with_capacity(items.len());
        for item in items {
            match item.protobuf() {
                Ok(made) => messages.push(made.message()),
                // One object that cannot be shown must not hide all others.
                Err(error) => left_out(resource, item, &error),
            }
        }
        let list = rkube_api::protobuf::encode_list(
            &resource.api_version(),
            &resource.list_kind,
            &meta.to_value(),
            messages.into_iter(),
        )?;
        return Ok(bytes(call, StatusCode::OK, Encoding::Protobuf, list.into()).await);
    }
    let objects = backend.serve_all(resource, items).await?;
    let list = shown_list(call, resource, accepted.view, objects, meta);
    Ok(value(call, StatusCode::OK, accepted.encoding, &list).await)
}

/// Returns a list of objects in the requested version.
fn shown_list(
    call: &Call,
    resource: &Resource,
    view: View,
    objects: Vec<Object>,
    meta: &ListMeta,
) -> Value {
    match view {
        View::Whole => json!({
            "kind": resource.list_kind,
            "apiVersion": resource.api_version(),
            "metadata": list_meta(resource, meta),
            "items": as_items(resource, objects),
        }),
        View::Metadata(version) | View::MetadataList(version) => {
            partial_list(&objects, version, meta.to_value())
        }
        View::Table(version) => table_of(call, resource, &objects, version, meta.to_value()),
    }
}

/// Returns a list of computed objects, which has no revision.
fn computed(call: &Call, resource: &Resource, view: View, objects: Vec<Object>) -> Value {
    match view {
        View::Whole => json!({
            "kind": resource.list_kind,
            "apiVersion": resource.api_version(),
            "metadata": {},
            "items": objects,
        }),
        View::Metadata(version) | View::MetadataList(version) => {
            partial_list(&objects, version, json!({}))
        }
        View::Table(version) => table_of(call, resource, &objects, version, json!({})),
    }
}

/// Returns an error response. Falls back to JSON if no acceptable encoding exists.
pub fn status(call: &Call, status: &Status) -> Response<Body> {
    let encoding = match crate::negotiate::accept(&call.headers, MediaTypes::Plain) {
        Ok(accepted) => accepted.encoding,
        Err(_) => Encoding::Json,
    };
    let (bytes, encoding) = encode_value(call, &status.to_value(), encoding);
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(encoding.content_type()),
    );
    if let Some(details) = &status.details
        && details.retry_after_seconds > 0
    {
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from(details.retry_after_seconds),
        );
    }
    if status.code == 401 {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"kubernetes-master\""),
        );
    }
    response
}

/// Returns the 404 response for a path that no API group has, with upstream's text.
pub fn nothing_here() -> Response<Body> {
    let mut response = Response::new(body::full("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Encodes a value, and returns the encoding used: JSON for values that have no protobuf form (such
/// as the list of paths).
fn encode_value(call: &Call, value: &Value, encoding: Encoding) -> (Bytes, Encoding) {
    let encoding = match encoding {
        Encoding::Protobuf => match rkube_api::protobuf::encode(value) {
            Ok(encoded) => return (encoded.body.into(), Encoding::Protobuf),
            Err(status) => {
                tracing::debug!(reason = status.message, "answering in JSON");
                Encoding::Json
            }
        },
        encoding => encoding,
    };
    let bytes = match encoding {
        Encoding::Json if wants_pretty(call) => serde_json::to_vec_pretty(value).map(Into::into),
        Encoding::Json | Encoding::Protobuf => serde_json::to_vec(value).map(|mut bytes| {
            // As upstream's encoder: a trailing newline, for terminals.
            bytes.push(b'\n');
            bytes.into()
        }),
        Encoding::Yaml => {
            let text = rkube_api::codec::to_yaml(value);
            return (text.into(), encoding);
        }
    };
    (bytes.unwrap_or_default(), encoding)
}

/// Returns whether to indent JSON: if the parameter `pretty` asks for it, or by default for
/// browsers, curl and wget.
fn wants_pretty(call: &Call) -> bool {
    if call.info.query.get("pretty").is_some() {
        return call.info.query.is_true("pretty");
    }
    let agent = call
        .headers
        .get(header::USER_AGENT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|prefix| agent.starts_with(prefix))
}

/// Returns a response with encoded bytes.
pub async fn bytes(
    call: &Call,
    code: StatusCode,
    encoding: Encoding,
    bytes: Bytes,
) -> Response<Body> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(encoding.content_type()),
    );
    body::respond(response, bytes, call.gzip()).await
}

/// Returns a response with any value, without tables or metadata-only representations.
pub async fn value(
    call: &Call,
    code: StatusCode,
    encoding: Encoding,
    value: &Value,
) -> Response<Body> {
    let (body, encoding) = encode_value(call, value, encoding);
    bytes(call, code, encoding, body).await
}
