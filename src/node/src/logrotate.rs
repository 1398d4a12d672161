//! Keeping containers' logs small: 10 MiB a file, five files a container.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::agent::Agent;

/// How often sizes are looked at, the kubelet's interval.
const INTERVAL: Duration = Duration::from_secs(10);
/// When nothing runs there is nothing to look at so often.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 5;

pub(crate) async fn run(agent: Arc<Agent>) -> anyhow::Result<()> {
    loop {
        let mut largest = 0;
        for snapshot in agent.pods.all() {
            for instance in snapshot
                .instances
                .values()
                .filter_map(|a| a.last())
                .filter(|i| i.running())
            {
                let log = crate::pods::container::log_path(
                    &snapshot.pod,
                    &instance.name,
                    instance.attempt,
                );
                let size = tokio::fs::metadata(&log).await.map_or(0, |m| m.len());
                largest = largest.max(size);
                if size > MAX_BYTES {
                    rotate(&agent, &instance.id, &log).await;
                }
            }
        }
        let rest = if largest > MAX_BYTES / 4 {
            INTERVAL
        } else {
            IDLE_INTERVAL
        };
        tokio::time::sleep(rest).await;
    }
}

async fn rotate(agent: &Agent, id: &str, log: &Path) {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let rotated = PathBuf::from(format!("{}.{stamp}", log.display()));
    if let Err(e) = tokio::fs::rename(log, &rotated).await {
        warn!("rotating {}: {e}", log.display());
        return;
    }
    if let Err(e) = agent.runtime.reopen_log(id).await {
        warn!("reopening {}: {e}", log.display());
        // The writer still has the old file; it must keep its name.
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

/// A log's rotated files, oldest first.
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

fn surplus(mut rotated: Vec<PathBuf>) -> Vec<PathBuf> {
    // One of the files is the one being written.
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
}
