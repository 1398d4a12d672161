//! Configuration of the audit log.

use std::path::PathBuf;
use std::time::Duration;

/// The audit policy, the location of the log, and the limits of its rotation.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the policy file: a `Policy` of `audit.k8s.io/v1`.
    pub policy: PathBuf,
    /// Path of the log file, which holds one JSON `Event` per line.
    pub log: PathBuf,
    /// Size in bytes at which the log file is rotated.
    pub max_size: u64,
    /// Maximum number of rotated files to keep; 0 keeps all of them.
    pub max_backups: usize,
    /// Maximum age of rotated files; `None` keeps them regardless of age.
    pub max_age: Option<Duration>,
}

impl Config {
    /// Returns a configuration with the default rotation: files of 100 MB, ten backups.
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
