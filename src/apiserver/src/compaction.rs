//! The revisions that lists may still refer to.
//!
//! Upstream compacts its store every five minutes to the revision of five minutes before. Continue
//! tokens and lists at an older revision expire then, whether or not the data are still there.
//! Clients that page through lists have to handle it, so it happens here as often as there.

use std::sync::atomic::{AtomicU64, Ordering};

/// The oldest revision at which lists are served.
#[derive(Default)]
pub struct Compaction {
    /// Lists at revisions below this one have expired.
    oldest: AtomicU64,
    /// The revision of the last round, which is the oldest one after the next round.
    noted: AtomicU64,
}

impl Compaction {
    /// Lets the revisions before the last round expire, and notes the current one for the next
    /// round.
    pub fn round(&self, now: u64) {
        let before = self.noted.swap(now, Ordering::Relaxed);
        self.oldest.fetch_max(before, Ordering::Relaxed);
    }

    /// Returns whether a list at `revision` has expired.
    pub fn has_compacted(&self, revision: u64) -> bool {
        revision < self.oldest.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_expires_a_round_after_it_was_passed() {
        let compaction = Compaction::default();
        assert!(!compaction.has_compacted(0));
        compaction.round(5);
        assert!(!compaction.has_compacted(4));
        compaction.round(9);
        assert!(compaction.has_compacted(4) && !compaction.has_compacted(5));
        // Without writes nothing expires, as the newest revision is never compacted.
        compaction.round(9);
        compaction.round(9);
        assert!(compaction.has_compacted(8) && !compaction.has_compacted(9));
    }
}
