//! Conversion of objects into responses: encodings, tables and metadata-only representations.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use rkube_api::Object;
use rkube_api::status::Status;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::body::{self, Body};
use crate::cache::CachedObject;
use crate::call::Call;
use crate::negotiate::{Accepted, Encoding, MediaTypes, View};
use crate::resources::Resource;

/// The metadata of a list response.
#[derive(Default)]
pub struct ListMeta {
    /// The revision of the list.
    pub revision: u64,
    /// The continue token of the next page; empty on the last page.
    pub next: String,
    /// The number of remaining items, if known.
    pub remaining: Option<u64>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.next.is_empty() {
            meta["continue"] = self.next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
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

impl Backend {
    /// Returns a response with one stored object, given as JSON of the storage version with its
    /// revision.
    pub async fn object_response(
        &self,
        call: &Call,
        resource: &Resource,
        code: StatusCode,
        accepted: Accepted,
        json: Bytes,
    ) -> Result<Response<Body>, Status> {
        let raw = resource.is_as_served(&json)
            && accepted
                == Accepted {
                    encoding: Encoding::Json,
                    view: View::Whole,
                }
            && !wants_pretty(call);
        if raw {
            return Ok(bytes(call, code, Encoding::Json, json).await);
        }
        let object: Object = serde_json::from_slice(&json).map_err(Status::internal)?;
        let object = resource.served(self.load(resource, object).await?)?;
        Ok(self
            .tree_response(call, resource, code, accepted, object)
            .await)
    }

    /// Returns a response with one object in the requested version.
    pub async fn tree_response(
        &self,
        call: &Call,
        resource: &Resource,
        code: StatusCode,
        accepted: Accepted,
        object: Object,
    ) -> Response<Body> {
        let shown = match accepted.view {
            View::Whole => object,
            View::Metadata(version) => partial(&object, version),
            View::Table(version) => {
                let meta = json!({"resourceVersion": rkube_api::meta::resource_version(&object)});
                let rows = vec![row(call, resource, &object, version)];
                table(resource, version, meta, rows, true)
            }
        };
        value(call, code, accepted.encoding, &shown).await
    }

    /// Returns a list response. Items that need no conversion are copied from their stored bytes.
    pub async fn list_response(
        &self,
        call: &Call,
        resource: &Resource,
        accepted: Accepted,
        items: &[std::sync::Arc<CachedObject>],
        meta: ListMeta,
    ) -> Result<Response<Body>, Status> {
        let plain = accepted
            == Accepted {
                encoding: Encoding::Json,
                view: View::Whole,
            }
            && !wants_pretty(call);
        if plain
            && items
                .iter()
                .all(|item| resource.is_as_served(item.stored()))
        {
            let size: usize = items.iter().map(|i| i.json_len() + 1).sum();
            let mut out = BytesMut::with_capacity(size + 256);
            let head = json!({"kind": resource.list_kind, "apiVersion": resource.api_version()})
                .to_string();
            out.put_slice(&head.as_bytes()[..head.len() - 1]);
            out.put_slice(b",\"metadata\":");
            out.put_slice(list_meta(resource, &meta).to_string().as_bytes());
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
        let protobuf = accepted
            == Accepted {
                encoding: Encoding::Protobuf,
                view: View::Whole,
            };
        if protobuf && resource.serves_storage_version() {
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
        let objects = self.serve_all(resource, items).await?;
        let list = match accepted.view {
            View::Whole => json!({
                "kind": resource.list_kind,
                "apiVersion": resource.api_version(),
                "metadata": list_meta(resource, &meta),
                "items": as_items(resource, objects),
            }),
            View::Metadata(version) => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": meta.to_value(),
                "items": objects.iter().map(|o| partial(o, version)).collect::<Vec<_>>(),
            }),
            View::Table(version) => {
                let rows = objects
                    .iter()
                    .map(|o| row(call, resource, o, version))
                    .collect();
                table(resource, version, meta.to_value(), rows, true)
            }
        };
        Ok(value(call, StatusCode::OK, accepted.encoding, &list).await)
    }
}

/// Returns the metadata of a whole list. Upstream's lists of custom resources have the continue
/// token also where it is empty.
fn list_meta(resource: &Resource, meta: &ListMeta) -> Value {
    let mut value = meta.to_value();
    if resource.crd_version().is_some() {
        value["continue"] = meta.next.as_str().into();
    }
    value
}

/// Removes `apiVersion` and `kind` of a list's items, which upstream's typed lists do not have.
/// Items of custom resources have them.
fn as_items(resource: &Resource, mut objects: Vec<Object>) -> Vec<Object> {
    if resource.crd_version().is_none() {
        for object in objects.iter_mut().filter_map(Value::as_object_mut) {
            object.remove("apiVersion");
            object.remove("kind");
        }
    }
    objects
}

/// Logs that an object is left out of a list or a watch, because it has no protobuf form.
pub fn left_out(resource: &Resource, object: &CachedObject, error: &Status) {
    tracing::warn!(
        resource = %resource.group_resource(),
        namespace = &*object.namespace,
        name = &*object.name,
        %error,
        "an object is left out of an answer in protobuf"
    );
}

/// Returns the `PartialObjectMetadata` of an object, in the given version of `meta.k8s.io`.
pub fn partial(object: &Object, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// Returns a `Table`. Watches omit the column definitions after the first event.
pub fn table(
    resource: &Resource,
    version: &str,
    meta: Value,
    rows: Vec<Value>,
    columns: bool,
) -> Value {
    let definitions = if columns {
        Value::Array(resource.columns())
    } else {
        Value::Null
    };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// Returns an object's table row, with the part of the object that `includeObject` selects.
pub fn row(call: &Call, resource: &Resource, object: &Object, version: &str) -> Value {
    let mut row = json!({"cells": resource.cells(object)});
    let conditions = resource.row_conditions(object);
    if !conditions.is_empty() {
        row["conditions"] = Value::Array(conditions);
    }
    match call.info.query.get("includeObject") {
        Some("None") => row["object"] = Value::Null,
        Some("Object") => row["object"] = object.clone(),
        _ => row["object"] = partial(object, version),
    }
    row
}

/// Returns an error if `includeObject` has an invalid value.
pub fn validate_table_options(call: &Call, accepted: Accepted) -> Result<(), Status> {
    match (accepted.view, call.info.query.non_empty("includeObject")) {
        (View::Table(_), Some(other)) if !matches!(other, "None" | "Metadata" | "Object") => {
            let value = rkube_api::text::quote(other);
            Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {value}: must be 'Metadata', 'Object', 'None', or empty"
            )))
        }
        _ => Ok(()),
    }
}
