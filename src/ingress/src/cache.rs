//! What is expensive to make and the same in one table as in the next.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use regex::Regex;
use rustls::sign::CertifiedKey;

/// Results by what they were made of. Those that a table does not use are gone in the next but one.
#[derive(Default)]
pub struct Cache {
    /// Patterns by their text.
    pub patterns: Kept<String, Result<Regex, String>>,
    /// Certificates by the UID and resource version of their secret.
    pub pairs: Kept<(String, String), Result<Arc<CertifiedKey>, String>>,
}

impl Cache {
    /// Begins another table.
    pub fn turn(&mut self) {
        self.patterns.before = std::mem::take(&mut self.patterns.now);
        self.pairs.before = std::mem::take(&mut self.pairs.now);
    }
}

/// Results of one kind.
pub struct Kept<K, V> {
    now: HashMap<K, V>,
    before: HashMap<K, V>,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self {
            now: HashMap::new(),
            before: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    /// Returns the result for a key, and makes it if there is none.
    pub fn get(&mut self, key: K, make: impl FnOnce() -> V) -> V {
        let before = &mut self.before;
        if let Some(known) = self.now.get(&key) {
            return known.clone();
        }
        let value = before.remove(&key).unwrap_or_else(make);
        self.now.insert(key, value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_live_as_long_as_they_are_used() {
        let mut cache = Cache::default();
        let fails = |_: &str| Err("made".to_owned());
        for (turn, expected) in [(false, true), (false, false), (true, false), (true, false)] {
            if turn {
                cache.turn();
            }
            let mut made = false;
            let _ = cache.patterns.get("a".into(), || {
                made = true;
                fails("a")
            });
            assert_eq!(made, expected);
        }
        cache.turn();
        cache.turn();
        let mut made = false;
        let _ = cache.patterns.get("a".into(), || {
            made = true;
            fails("a")
        });
        assert!(made);
    }
}
