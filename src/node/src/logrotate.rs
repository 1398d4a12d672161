//! Rotates the logs of running containers: 10 MiB per file, five files per container.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rkube_runtime::Runtime;
use tracing::{debug, warn};

use crate::pods::paths::log_path;
use crate::pods::table::PodTable;

/// Time between two checks of the log sizes (the kubelet's default).
const CHECK_PERIOD: Duration = Duration::from_secs(10);
/// Time between two checks while all logs are small.
const IDLE_CHECK_PERIOD: Duration = Duration::from_secs(60);
/// File size above which a log is rotated, in bytes.
const MAX_BYTES: u64 = 10 << 20;
/// Maximum number of log files per container, including the current one.
const MAX_FILES: usize = 5;

/// Rotates logs until the future is dropped.
pub(crate) async fn run(runtime: Runtime, pods: Arc<PodTable>) -> anyhow::Result<()> {
    loop {
        let mut largest = 0;
        for snapshot in pods.all() {
            for instance in snapshot
                .instances
                .values()
                .filter_map(|a| a.last())
                .filter(|i| i.running())
            {
                let log = log_path(&snapshot.pod, &instance.name, instance.attempt);
                let size = tokio::fs::metadata(&log).await.map_or(0, |m| m.len());
                largest = largest.max(size);
                if size > MAX_BYTES {
                    rotate(&runtime, &instance.id, &log).await;
                }
            }
        }
        let period = if largest > MAX_BYTES / 4 {
            CHECK_PERIOD
        } else {
            IDLE_CHECK_PERIOD
        };
        tokio::time::sleep(period).await;
    }
}

async fn rotate(runtime: &Runtime, id: &str, log: &Path) {
    let rotated = rotated_name(log, jiff::Timestamp::now());
    if let Err(e) = tokio::fs::rename(log, &rotated).await {
        warn!("rotating {}: {e}", log.display());
        return;
    }
    if let Err(e) = runtime.reopen_log(id).await {
        warn!("reopening {}: {e}", log.display());
        // The container still writes to the old file, so it must get its name back.
        if let Err(e) = tokio::fs::rename(&rotated, log).await {
            warn!("{}: {e}", log.display());
        }
        return;
    }
    for old in surplus(rotated_logs(log)) {
        if let Err(e) = tokio::fs::remove_file(&old).await {
            debug!("{}: {e}", old.display());
        }
    }
}

/// Returns the file name for a log that is rotated at this time.
fn rotated_name(log: &Path, at: jiff::Timestamp) -> PathBuf {
    let stamp = at.strftime("%Y%m%d-%H%M%S");
    PathBuf::from(format!("{}.{stamp}", log.display()))
}

/// Returns a log's rotated files, oldest first.
pub(crate) fn rotated_logs(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

/// Returns the rotated files to remove: the oldest ones beyond the limit.
fn surplus(mut rotated: Vec<PathBuf>) -> Vec<PathBuf> {
    // One file is the current log.
    let keep = rotated.len().min(MAX_FILES - 1);
    rotated.truncate(rotated.len() - keep);
    rotated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go() {
        let names: Vec<PathBuf> = (0..6).map(|i| format!("0.log.{i}").into()).collect();
        assert_eq!(surplus(names.clone()), names[..2]);
        assert!(surplus(names[..4].to_vec()).is_empty());
    }

    #[test]
    fn rotated_files_sort_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let at = |s| jiff::Timestamp::from_second(s).unwrap();
        let names: Vec<PathBuf> = [0, 86_400, 40_000_000]
            .map(|s| rotated_name(&log, at(s)))
            .into();
        assert_eq!(names[0], dir.path().join("0.log.19700101-000000"));
        for name in names
            .iter()
            .rev()
            .chain([&log, &dir.path().join("1.log.x")])
        {
            std::fs::write(name, "").unwrap();
        }
        assert_eq!(rotated_logs(&log), names);
        assert!(rotated_logs(&dir.path().join("none/0.log")).is_empty());
    }
}
