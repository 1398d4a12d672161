//! Encodes and decodes built-in kinds as protobuf, which Go clients use by default.
//!
//! `fields.txt` lists the fields' numbers, types and order, which are facts of the
//! published Go types and `generated.proto` files. Both directions use the [table] that is
//! parsed from it. The encoding is byte for byte that of Go's generated marshalers: fields
//! in the order of their numbers, maps sorted by key, and fields that Go holds by value
//! written even when empty.

mod decode;
mod encode;
pub mod openapi;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use serde_json::Value;

use crate::status::Status;
pub use decode::decode;
pub use table::Message;
use wire::MAGIC;

/// The media type of the encoding.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// An encoded object: the body for a client, and the range of the message in it, which
/// lists consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The whole body, which includes the kind.
    pub body: Vec<u8>,
    start: usize,
    end: usize,
}

impl Encoded {
    /// Returns the body and the range of the message in it.
    pub fn into_parts(self) -> (Vec<u8>, std::ops::Range<usize>) {
        (self.body, self.start..self.end)
    }

    /// Returns the message without the envelope that has its kind.
    pub fn raw(&self) -> &[u8] {
        &self.body[self.start..self.end]
    }
}

/// Returns the message of a kind; `None` for kinds without protobuf encoding.
pub fn message(api_version: &str, kind: &str) -> Option<Message> {
    table::find_kind(api_version, kind)
}

/// Encodes an object, whose `apiVersion` and `kind` must be set.
///
/// # Errors
/// 500 when its kind has no protobuf encoding or a value is not of its field's type. The
/// 406 for such kinds is up to content negotiation.
pub fn encode(object: &Value) -> Result<Encoded, Status> {
    let text = |field: &str| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let message = message(api_version, kind).ok_or_else(|| {
        Status::internal(format!("{api_version}, Kind={kind} has no protobuf form"))
    })?;
    let raw = encode::message(message, object)?;
    let start = MAGIC.len() + encode::envelope_head(api_version, kind, raw.len()).len();
    let end = start + raw.len();
    Ok(Encoded {
        body: envelope(api_version, kind, &raw),
        start,
        end,
    })
}

/// Wraps a message in the envelope that has its kind.
fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let head = encode::envelope_head(api_version, kind, raw.len());
    let mut out = Vec::with_capacity(MAGIC.len() + head.len() + raw.len() + 4);
    out.extend(MAGIC);
    out.extend(head);
    out.extend(raw);
    // Content encoding and content type, both empty.
    out.extend([0x1a, 0, 0x22, 0]);
    out
}

/// Encodes a list of objects that are encoded already.
///
/// # Errors
/// 500 when the list's metadata is invalid.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    meta: &Value,
    items: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Status> {
    let list_meta = table::named("apimachinery.pkg.apis.meta.v1", "ListMeta")
        .ok_or_else(|| Status::internal("no message of list metadata"))?;
    // One old kind has its two fields in reverse order.
    let items_first = kind == "PartialObjectMetadataList" && api_version == "meta.k8s.io/v1beta1";
    let meta = encode::message(list_meta, meta)?;
    let mut raw = Vec::new();
    if !items_first {
        wire::put_bytes(&mut raw, 1, &meta);
    }
    for item in items {
        wire::put_bytes(&mut raw, if items_first { 1 } else { 2 }, item);
    }
    if items_first {
        wire::put_bytes(&mut raw, 2, &meta);
    }
    Ok(envelope(api_version, kind, &raw))
}

/// Appends a watch event as a frame: its length in four bytes, big-endian, and a
/// `WatchEvent` with the object's whole body.
pub fn watch_frame(kind: &str, body: &[u8], out: &mut impl Extend<u8>) {
    let mut object = Vec::with_capacity(6);
    wire::put_head(&mut object, 1, body.len());
    let object_length = object.len() + body.len();
    let mut head = Vec::with_capacity(kind.len() + 16);
    wire::put_bytes(&mut head, 1, kind.as_bytes());
    wire::put_head(&mut head, 2, object_length);
    let length = (head.len() + object_length) as u32;
    out.extend(length.to_be_bytes());
    out.extend(head);
    out.extend(object);
    out.extend(body.iter().copied());
}
