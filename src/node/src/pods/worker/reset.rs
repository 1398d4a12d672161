//! Starts a pod over: all its containers are stopped and removed first.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::instance::Instance;
use super::super::paths::{log_path, message_file};
use super::super::plan::Reset;
use super::super::start::remove_files;
use super::state::{TaskResult, Worker};
use crate::kinds::PodExt as _;

/// Delay after a container could not be removed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Worker {
    /// Stops containers, and removes them once none runs or is being started.
    ///
    /// Returns the time of the removal while the back-off of those that asked for it lasts.
    pub(super) fn reset(&mut self, containers: Vec<Reset>, now: Instant) -> Option<Instant> {
        let mut nothing_runs = true;
        for container in containers.iter().filter(|c| c.running) {
            nothing_runs = false;
            if !self.stopping.contains_key(&container.id) {
                let message = Some("killing".into());
                self.stop_container(&container.name, &container.id, 0, message);
            }
        }
        let is_busy = self.in_flight.start.is_some() || !self.busy.is_empty();
        if !nothing_runs || is_busy || self.in_flight.reset {
            return None;
        }
        let mut held = None;
        for container in containers.iter().filter(|c| c.cause) {
            held = held.max(self.held_back(&container.name, now));
        }
        if held.is_some() {
            return held;
        }
        self.in_flight.reset = true;
        let (runtime, pod) = (self.context.runtime.clone(), self.pod.clone());
        self.spawn(async move {
            let mut removed = Vec::new();
            for container in containers {
                // In order: what asked for the restart must be there until nothing else is.
                if let Err(e) = runtime.remove_container(&container.id).await {
                    tracing::warn!("removing container {}: {e}", container.id);
                    tokio::time::sleep(RETRY_DELAY).await;
                    break;
                }
                let (name, attempt) = (&container.name, container.attempt);
                // Only the last log stays, until the pod is deleted.
                let mut files = older_logs(&log_path(&pod, name, attempt), attempt);
                files.push(message_file(pod.uid(), name, attempt));
                remove_files(&files).await;
                removed.push(container);
            }
            TaskResult::Reset(removed)
        });
        None
    }

    /// Forgets removed containers but for the number of their next attempt, and begins the back-off
    /// of those that asked for the restart.
    pub(super) fn was_reset(&mut self, removed: &[Reset], now: Instant) {
        self.in_flight.reset = false;
        let find = |i: &Instance| removed.iter().find(|r| r.id == i.id);
        let mut causes = Vec::new();
        for (name, attempts) in &mut self.instances {
            if let Some((last, reset)) = attempts.last().and_then(|i| Some((i, find(i)?))) {
                if reset.cause {
                    causes.push((name.clone(), last.ended.unwrap_or(now)));
                }
                self.resets.insert(name.clone(), last.attempt + 1);
                self.waiting.remove(name);
                self.retry_at.remove(name);
            }
            attempts.retain(|i| find(i).is_none());
        }
        self.instances.retain(|_, attempts| !attempts.is_empty());
        for (name, ended) in causes {
            self.backoff.next(&self.backoff_key(&name), ended, now);
        }
    }
}

/// Returns the logs beside `log` of attempts before `attempt`, with their rotated files.
fn older_logs(log: &Path, attempt: u32) -> Vec<PathBuf> {
    let entries = log.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    let files = entries.into_iter().flatten().flatten();
    let is_older = |name: &str| {
        let (number, rest) = name.split_once('.')?;
        Some(number.parse::<u32>().ok()? < attempt && rest.starts_with("log"))
    };
    files
        .filter(|file| file.file_name().to_str().and_then(is_older) == Some(true))
        .map(|file| file.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_log_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "2.log",
            "9.log",
            "9.log.20260101-000000",
            "10.log",
            "10.log.1",
            "other",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let mut older = older_logs(&dir.path().join("10.log"), 10);
        older.sort();
        let expected = ["2.log", "9.log", "9.log.20260101-000000"].map(|n| dir.path().join(n));
        assert_eq!(older, expected);
        assert!(older_logs(&dir.path().join("missing/1.log"), 1).is_empty());
    }
}
