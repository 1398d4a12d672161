//! Limits, statistics and errors.

use std::collections::BTreeMap;
use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Limits and weights of a group. Fields that are not set are left unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative CPU weight on the v1 scale (2–262144); converted to v2's.
    pub cpu_shares: Option<u64>,
    /// CPU time in microseconds per period; `None` or ≤ 0 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Period of `cpu_quota` in microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs that processes may run on, `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that processes may use.
    pub cpuset_mems: Option<String>,
    /// Memory in bytes; `None` or ≤ 0 is unlimited.
    pub memory_limit: Option<i64>,
    /// Memory and swap in bytes; ignored if the kernel does not account swap.
    pub memory_swap_limit: Option<i64>,
    /// Maximum number of processes and threads.
    pub pids_limit: Option<i64>,
    /// Limits of huge pages in bytes, by page size (`2MB`).
    pub hugepage_limits: BTreeMap<String, u64>,
    /// Files of the v2 interface (`memory.min`, `memory.high`) with their values; ignored
    /// on v1.
    pub unified: BTreeMap<String, String>,
}

/// Resource usage of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time of the measurement.
    pub timestamp: Timestamp,
    /// Cumulative CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory charged, in bytes.
    pub memory_usage: u64,
    /// Memory without inactive file pages, in bytes.
    pub memory_working_set: u64,
    /// Anonymous memory, in bytes.
    pub memory_rss: u64,
    /// Memory that is swapped out, in bytes.
    pub swap_usage: u64,
    /// Minor page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Memory limit in bytes; `None` if unlimited.
    pub memory_limit: Option<u64>,
    /// Number of processes and threads.
    pub pids: u64,
}

/// An error of an operation on control groups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of a group could not be read or written.
    #[error("{context}: {source}")]
    Io {
        /// The attempted operation, as in `cannot make cgroup /a`.
        context: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The request is invalid.
    #[error("{0}")]
    Invalid(String),
    /// Processes of a group are still alive after they were killed.
    #[error("{0} processes do not end after SIGKILL")]
    Alive(usize),
    /// Processes of a group are still running after it was frozen.
    #[error("the processes of {0} do not freeze")]
    NotFrozen(String),
}

/// The result of an operation on control groups.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds the attempted operation to an I/O error.
pub(crate) trait Context<T> {
    /// Converts an I/O error, with the text that `what` returns.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            context: what(),
            source,
        })
    }
}
