//! A map that forgets what was not used for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map of at most `capacity` entries.
pub struct Lru<K, V> {
    capacity: usize,
    entries: HashMap<K, (u64, V)>,
    /// Keys by their last use.
    uses: BTreeMap<u64, K>,
    clock: u64,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    /// Returns an empty map.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            uses: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Returns the entry of `key`, made by `make` if there is none. May forget another one.
    pub fn entry(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if !self.entries.contains_key(key)
            && self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.entries.remove(&oldest);
        }
        let (used, value) = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| (0, make()));
        self.uses.remove(used);
        *used = self.clock;
        self.uses.insert(self.clock, key.clone());
        value
    }

    /// Keeps only the entries for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let uses = &mut self.uses;
        self.entries.retain(|key, (used, value)| {
            let stays = keep(key, value);
            if !stays {
                uses.remove(used);
            }
            stays
        });
    }

    /// Returns the number of entries.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        debug_assert_eq!(self.entries.len(), self.uses.len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let mut lru = Lru::new(2);
        *lru.entry(&"a", || 0) += 1;
        *lru.entry(&"b", || 0) += 1;
        *lru.entry(&"a", || 0) += 1;
        *lru.entry(&"c", || 0) += 1;
        assert_eq!(lru.len(), 2);
        assert_eq!(*lru.entry(&"a", || 0), 2);
        assert_eq!(*lru.entry(&"b", || 0), 0);
        lru.retain(|key, _| *key == "b");
        assert_eq!(lru.len(), 1);
    }
}
