//! Sets of the packet filter that follow the pods.

use std::collections::HashMap;
use std::sync::Arc;

use crate::nft::{Field, Key, Name, Set, Value};

/// A named set whose elements belong to pods. Two pods may have the same element: for a moment, an
/// ended pod and the one that got its address.
pub(super) struct Members {
    /// The set's name.
    pub(super) name: Name,
    /// The set as in the table.
    pub(super) set: Arc<Set>,
    /// Number of pods per element.
    counts: HashMap<Key, u32>,
    /// Whether the table that is being compiled refers to the set.
    pub(super) used: bool,
}

impl Members {
    pub(super) fn new(name: Name, key: &[Field]) -> Self {
        Self {
            name,
            set: Arc::new(Set::of(key, [])),
            counts: HashMap::new(),
            used: true,
        }
    }

    /// Adds an element of a pod.
    pub(super) fn add(&mut self, key: Key) {
        let count = self.counts.entry(key).or_insert(0);
        *count += 1;
        if *count == 1 {
            Arc::make_mut(&mut self.set)
                .elements
                .insert(key, Value::None);
        }
    }

    /// Removes an element of a pod that was added.
    pub(super) fn remove(&mut self, key: Key) {
        let Some(count) = self.counts.get_mut(&key) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key);
            Arc::make_mut(&mut self.set).elements.remove(&key);
        }
    }
}
