//! Hashes used in names and labels.

use serde::Serialize;

/// Alphabet of generated names: without vowels and look-alike characters (upstream's
/// `rand.SafeEncodeString`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Returns the 32-bit FNV-1a hash.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Maps each byte of the text to the safe alphabet.
pub fn safe_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

/// Returns the hash of a value. A collision count changes the hash after earlier collisions.
///
/// The hash is stable as long as the value's JSON is; keys are sorted.
pub fn compute<T: Serialize>(value: &T, collisions: Option<i32>) -> String {
    // Convert to a tree first, so that map order does not matter.
    let tree = rkube_client::instances::tree(value).unwrap_or_default();
    let mut bytes = tree.to_string().into_bytes();
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn collisions_change_the_hash() {
        assert_eq!(compute(&"x", None), compute(&"x", None));
        assert_ne!(compute(&"x", None), compute(&"x", Some(1)));
        assert_ne!(compute(&"x", Some(1)), compute(&"x", Some(2)));
    }
}
