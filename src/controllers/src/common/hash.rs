//! Hashes that end up in names and labels.

use serde::Serialize;

/// The letters and digits of generated names: no vowels, so that no words come
/// of it, and none that look alike (as upstream's `rand.SafeEncodeString`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// The text with each character put into the safe alphabet.
pub fn safe_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

/// The hash of a value, told apart from earlier collisions by their count.
///
/// It is stable as long as the value's JSON is: keys are sorted.
pub fn of<T: Serialize>(value: &T, collisions: Option<i32>) -> String {
    // Through a tree, so that map order never matters.
    let tree = serde_json::to_value(value).unwrap_or_default();
    let mut bytes = tree.to_string().into_bytes();
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// Five random characters, as the API server appends to `generateName`.
pub fn random_suffix(length: usize) -> String {
    (0..length)
        .map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]))
        .collect()
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
        assert_eq!(of(&"x", None), of(&"x", None));
        assert_ne!(of(&"x", None), of(&"x", Some(1)));
        assert_ne!(of(&"x", Some(1)), of(&"x", Some(2)));
    }
}
