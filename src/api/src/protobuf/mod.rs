//! Kubernetes' protobuf form of built-in kinds, which Go clients use by default.
//!
//! The fields' numbers, types and order are facts of the published Go types and
//! `generated.proto` files and stand in `fields.txt`; one [table] is read
//! off it for both directions. Encoding is byte for byte what Go's generated
//! marshalers write: fields in the order of their numbers, maps sorted by key,
//! and whatever Go holds by value written also when it holds nothing.

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

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// An object encoded once: the body as a client takes it, and where in it the
/// message itself begins, which lists are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The whole body, self-describing.
    pub body: Vec<u8>,
    start: usize,
    end: usize,
}

impl Encoded {
    /// The body, and where in it the message lies.
    pub fn into_parts(self) -> (Vec<u8>, std::ops::Range<usize>) {
        (self.body, self.start..self.end)
    }

    /// The message without what says its kind.
    pub fn raw(&self) -> &[u8] {
        &self.body[self.start..self.end]
    }
}

/// The message of a kind; `None` for kinds that have no protobuf form.
pub fn message(api_version: &str, kind: &str) -> Option<Message> {
    table::of_kind(api_version, kind)
}

/// Encodes an object that says its `apiVersion` and `kind`.
///
/// # Errors
/// 500 when its kind has no protobuf form (406 is for negotiation to say) or a
/// value is not of its field's type.
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

/// A message as a body that says its kind.
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

/// A list of objects that are encoded already.
///
/// # Errors
/// 500 when the list's metadata are not what a list has.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    meta: &Value,
    items: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Status> {
    let list_meta = table::named("apimachinery.pkg.apis.meta.v1", "ListMeta")
        .ok_or_else(|| Status::internal("no message of list metadata"))?;
    // One old kind has its two fields the other way round.
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

/// A watch's event as a frame: its length in four bytes, big end first, and a
/// `WatchEvent` with the object's whole body in it.
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
