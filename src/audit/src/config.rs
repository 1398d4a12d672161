//! Where the audit log is kept, and what goes into it.

use std::path::PathBuf;
use std::time::Duration;

/// What is written down, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// The policy file: a `Policy` of `audit.k8s.io/v1`.
    pub policy: PathBuf,
    /// The log, a JSON `Event` a line.
    pub log: PathBuf,
    /// Bytes after which a new file is begun.
    pub max_size: u64,
    /// Old files that are kept; all of them when zero.
    pub max_backups: usize,
    /// How long old files are kept.
    pub max_age: Option<Duration>,
}

impl Config {
    /// A policy with a log in its usual size: files of 100 MB, ten of them.
    pub fn new(policy: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            policy: policy.into(),
            log: log.into(),
            max_size: 100 << 20,
            max_backups: 10,
            max_age: None,
        }
    }
}
