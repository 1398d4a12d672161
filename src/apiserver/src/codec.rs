//! The encoding of objects in the store.

use bytes::Bytes;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_store::KeyValue;

use crate::cache::with_revision;

/// An object as it is stored: compact JSON without its resourceVersion, which
/// is the store's to say.
pub fn encode(object: &mut Object) -> Result<Bytes, Status> {
    meta::remove(object, "resourceVersion");
    // The store and the cache keep it: without the room that growing leaves.
    serde_json::to_vec(object)
        .map(|json| Bytes::copy_from_slice(&json))
        .map_err(Status::internal)
}

/// A stored entry as JSON with its revision; or what is shown in its place,
/// where it is stored in another version.
pub fn revised(kv: &KeyValue, shown: Option<Bytes>) -> Result<Bytes, Status> {
    with_revision(shown.as_deref().unwrap_or(&kv.value), kv.mod_revision)
        .ok_or_else(|| Status::internal("a stored object has no metadata"))
}

/// A stored entry as a tree with its revision.
pub fn decode(kv: &KeyValue) -> Result<Object, Status> {
    let mut object: Object = serde_json::from_slice(&kv.value).map_err(Status::internal)?;
    meta::set_resource_version(&mut object, &kv.mod_revision.to_string());
    Ok(object)
}
