//! Counts of containers that ended and of evictions since the agent's start, for `/metrics`.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// The labels under which ends of containers are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    /// `container`, `init_container` or `ephemeral_container`.
    pub container_type: &'static str,
    pub exit_code: i32,
    /// The reason in the container's status, such as `OOMKilled`.
    pub reason: String,
}

static ENDS: Mutex<BTreeMap<End, u64>> = Mutex::new(BTreeMap::new());
static EVICTIONS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Counts the end of a container.
pub(crate) fn ended(end: End) {
    *ENDS.lock().entry(end).or_default() += 1;
}

/// Returns how many containers have ended.
pub(crate) fn ends() -> Vec<(End, u64)> {
    let ends = ENDS.lock();
    ends.iter()
        .map(|(end, count)| (end.clone(), *count))
        .collect()
}

/// Counts an eviction by the signal that caused it.
pub(crate) fn evicted(signal: &'static str) {
    *EVICTIONS.lock().entry(signal).or_default() += 1;
}

/// Returns how many pods were evicted, by signal.
pub(crate) fn evictions() -> Vec<(&'static str, u64)> {
    let evictions = EVICTIONS.lock();
    evictions
        .iter()
        .map(|(signal, count)| (*signal, *count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_evictions_add_up() {
        let end = End {
            container_type: "container",
            exit_code: -7,
            reason: "Tested".into(),
        };
        ended(end.clone());
        ended(end.clone());
        assert!(ends().contains(&(end, 2)));
        evicted("test.signal");
        assert!(evictions().contains(&("test.signal", 1)));
    }
}
