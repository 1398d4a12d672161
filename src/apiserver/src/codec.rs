//! The encoding of objects in the store.

use bytes::Bytes;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_store::KeyValue;

use crate::cache::with_revision;

/// Encodes an object for the store: compact JSON without `resourceVersion`, which is derived from
/// the store's revision.
pub fn encode(object: &mut Object) -> Result<Bytes, Status> {
    meta::remove(object, "resourceVersion");
    // The store and the cache keep the bytes: copy them to an allocation of exact size.
    serde_json::to_vec(object)
        .map(|json| Bytes::copy_from_slice(&json))
        .map_err(Status::internal)
}

/// Returns a stored entry's JSON with its revision. If the request's version differs from the
/// stored one, `shown` is the converted JSON to use instead.
pub fn revised(kv: &KeyValue, shown: Option<Bytes>) -> Result<Bytes, Status> {
    with_revision(shown.as_deref().unwrap_or(&kv.value), kv.mod_revision)
        .ok_or_else(|| Status::internal("a stored object has no metadata"))
}

/// Decodes a stored entry, with its revision.
pub fn decode(kv: &KeyValue) -> Result<Object, Status> {
    let mut object: Object = serde_json::from_slice(&kv.value).map_err(Status::internal)?;
    meta::set_resource_version(&mut object, &kv.mod_revision.to_string());
    Ok(object)
}
