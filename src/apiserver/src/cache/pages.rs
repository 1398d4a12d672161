//! Snapshots for paginated lists: the state from which a list's first page was taken.
//!
//! A continue token promises the rest of the list unchanged for some minutes (upstream: until
//! compaction, five to ten minutes later). The objects are in memory anyway, so a snapshot costs
//! one pointer per object, and pages need no read of the store's history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::object::CachedObject;

/// The lifetime of a snapshot; upstream compacts every five minutes.
const MAX_AGE: Duration = Duration::from_secs(300);
/// Maximum number of snapshots per resource.
const MAX_SNAPSHOTS: usize = 16;

/// The objects of a resource at some revision, in key order.
pub type Objects = Arc<[Arc<CachedObject>]>;

/// The snapshots of one resource that unfinished lists continue from.
#[derive(Default)]
pub struct Pages(Mutex<VecDeque<State>>);

struct State {
    revision: u64,
    made: Instant,
    objects: Objects,
}

impl Pages {
    /// Adds a snapshot at `revision`, unless one exists for it. Drops the oldest snapshot if there
    /// are too many.
    pub fn keep(&self, revision: u64, objects: Objects, now: Instant) {
        let mut states = self.0.lock();
        forget_old(&mut states, now);
        if states.iter().any(|s| s.revision == revision) {
            return;
        }
        if states.len() == MAX_SNAPSHOTS {
            states.pop_front();
        }
        states.push_back(State {
            revision,
            made: now,
            objects,
        });
    }

    /// Returns the snapshot at `revision`, if it still exists.
    pub fn at(&self, revision: u64, now: Instant) -> Option<Objects> {
        let mut states = self.0.lock();
        forget_old(&mut states, now);
        let found = states.iter().find(|s| s.revision == revision)?;
        Some(found.objects.clone())
    }

    /// Drops expired snapshots.
    pub fn age(&self, now: Instant) {
        forget_old(&mut self.0.lock(), now);
    }
}

fn forget_old(states: &mut VecDeque<State>, now: Instant) {
    while states
        .front()
        .is_some_and(|s| now.saturating_duration_since(s.made) > MAX_AGE)
    {
        states.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_kept_by_revision_for_a_while() {
        let pages = Pages::default();
        let start = Instant::now();
        let objects: Objects = Arc::new([]);
        pages.keep(7, objects.clone(), start);
        pages.keep(7, objects.clone(), start + MAX_AGE);
        assert!(pages.at(7, start + MAX_AGE).is_some());
        assert!(pages.at(8, start + MAX_AGE).is_none());
        let late = start + MAX_AGE + Duration::from_secs(1);
        assert!(pages.at(7, late).is_none(), "asking does not prolong it");
    }

    #[test]
    fn the_oldest_gives_way() {
        let pages = Pages::default();
        let now = Instant::now();
        for revision in 0..=MAX_SNAPSHOTS as u64 {
            pages.keep(revision, Arc::new([]), now);
        }
        assert!(pages.at(0, now).is_none());
        assert!(pages.at(1, now).is_some());
    }
}
