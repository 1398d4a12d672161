//! Unique identifiers of objects and requests.

/// Returns a new random UUID (RFC 9562, version 4). Uses a userspace generator, to avoid a system
/// call per identifier.
pub fn new_uid() -> String {
    uuid::Builder::from_random_bytes(rand::random())
        .into_uuid()
        .to_string()
}
