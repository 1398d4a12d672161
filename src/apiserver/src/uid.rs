//! Identifiers of objects and requests.

/// A new unique identifier (RFC 9562, version 4), without asking the kernel each time.
pub fn new_uid() -> String {
    uuid::Builder::from_random_bytes(rand::random())
        .into_uuid()
        .to_string()
}
