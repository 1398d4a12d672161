//! Limits of the numbers of open connections, and of their idle time.

use std::time::Duration;

/// The time limit for a connection without requests; upstream's limit.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Descriptors that connections leave to the store, watches of files and proxied connections.
const RESERVED_DESCRIPTORS: usize = 128;
/// The connections that every address may have, even if there are many from others.
const FEW: usize = 32;
/// The assumed number of descriptors if it is not known.
const DEFAULT_DESCRIPTORS: usize = 1024;

/// Maximum numbers of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All connections.
    pub all: usize,
    /// Those from one address.
    pub per_address: usize,
    /// How many of all are only for addresses with less than `few`.
    pub reserved: usize,
    /// The connections that an address may have when only the reserved ones are left.
    pub few: usize,
    /// Those of clients that have not authenticated.
    pub strangers: usize,
    /// Those of clients from one address that have not authenticated.
    pub strangers_per_address: usize,
    /// The time limit for a connection without requests.
    pub idle: Duration,
}

impl Limits {
    /// Returns limits that this process has descriptors for: a connection takes one, and a second
    /// one if its request is forwarded.
    pub fn of_process() -> Self {
        let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self::of_descriptors(open_files(&text).unwrap_or(DEFAULT_DESCRIPTORS))
    }

    fn of_descriptors(descriptors: usize) -> Self {
        let all = (descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2).clamp(64, 10_000);
        Self {
            all,
            // A node's own processes share its address, so it needs some even if there are few.
            per_address: (all / 8).max(all.min(256) / 2),
            reserved: all / 10,
            few: FEW.min(all / 4),
            strangers: all / 2,
            strangers_per_address: all / 4,
            idle: IDLE_TIMEOUT,
        }
    }
}

/// Reads how many files a process may open from its `/proc/PID/limits`.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_number_of_descriptors() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(
            open_files("Max open files unlimited unlimited files"),
            Some(usize::MAX)
        );
        assert_eq!(open_files(""), None);
        let numbers = |descriptors| {
            let limits = Limits::of_descriptors(descriptors);
            [
                limits.all,
                limits.per_address,
                limits.reserved,
                limits.few,
                limits.strangers,
                limits.strangers_per_address,
            ]
        };
        assert_eq!(numbers(0), [64, 32, 6, 16, 32, 16]);
        assert_eq!(numbers(1024), [448, 128, 44, 32, 224, 112]);
        assert_eq!(numbers(usize::MAX), [10_000, 1250, 1000, 32, 5000, 2500]);
    }
}
