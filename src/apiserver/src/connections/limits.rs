//! Limits of the numbers of open connections, and of their idle time.

use std::time::Duration;

/// The time limit for a connection without requests; upstream's limit.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Descriptors that connections leave to the store, watches of files and proxied connections.
const RESERVED_DESCRIPTORS: usize = 128;
/// The assumed number of descriptors if it is not known.
const DEFAULT_DESCRIPTORS: usize = 1024;

/// Maximum numbers of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All connections.
    pub all: usize,
    /// Those from one address.
    pub per_address: usize,
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
        let strangers = (all / 2).min(1000);
        Self {
            all,
            per_address: all / 2,
            strangers,
            strangers_per_address: (strangers / 2).min(200),
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
        let few = Limits::of_descriptors(1024);
        assert_eq!(
            (
                few.all,
                few.per_address,
                few.strangers,
                few.strangers_per_address
            ),
            (448, 224, 224, 112)
        );
        let many = Limits::of_descriptors(usize::MAX);
        assert_eq!(
            (
                many.all,
                many.per_address,
                many.strangers,
                many.strangers_per_address
            ),
            (10_000, 5000, 1000, 200)
        );
        assert!(Limits::of_descriptors(0).strangers_per_address >= 16);
    }
}
