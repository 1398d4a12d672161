//! The audit log's files: a writer thread that appends lines and rotates the file by size.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::Config;

/// Maximum number of queued lines. When the queue is full, [`Log::write`] waits for the disk.
const MAX_WAITING_LINES: usize = 1024;

/// An append-only log whose lines are written in order by a dedicated thread.
pub struct Log {
    lines: mpsc::Sender<Vec<u8>>,
}

struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_backups: usize,
    max_age: Option<std::time::Duration>,
}

impl Log {
    /// Opens the log for appending and starts its writer thread. Creates missing parent
    /// directories.
    pub fn open(config: &Config) -> std::io::Result<Arc<Self>> {
        std::fs::create_dir_all(folder(&config.log))?;
        let file = open(&config.log)?;
        let mut writer = Writer {
            size: file.metadata()?.len(),
            path: config.log.clone(),
            file,
            max_size: config.max_size.max(1),
            max_backups: config.max_backups,
            max_age: config.max_age,
        };
        let (lines, mut received) = mpsc::channel::<Vec<u8>>(MAX_WAITING_LINES);
        std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || {
                while let Some(line) = received.blocking_recv() {
                    if let Err(error) = writer.write(&line) {
                        tracing::error!(%error, path = %writer.path.display(), "an audit event is lost");
                    }
                }
            })?;
        Ok(Arc::new(Self { lines }))
    }

    /// Queues a line for writing; waits while the queue is full.
    pub async fn write(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        // The receiving thread lives as long as `self`, so sending cannot fail.
        let _ = self.lines.send(line).await;
    }

    /// Queues a line for writing, or drops it with an error message if the queue is full.
    pub fn try_write(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        if self.lines.try_send(line).is_err() {
            tracing::error!("an audit event is lost: the log is too far behind");
        }
    }
}

/// Returns the directory of a file: the current one for a bare file name.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // The log records users' actions, so only its owner may read it.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Writer {
    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.max_size {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// Renames `audit.log` to `audit-<time>.log`, and deletes old backups.
    fn rotate(&mut self) -> std::io::Result<()> {
        let stem = self.path.file_stem().unwrap_or_default();
        let (stem, now) = (stem.to_string_lossy().into_owned(), jiff::Timestamp::now());
        let suffix = match self.path.extension() {
            Some(extension) => format!(".{}", extension.to_string_lossy()),
            None => String::new(),
        };
        let time = now.strftime("%Y-%m-%dT%H-%M-%S%.6f");
        let backup = self.path.with_file_name(format!("{stem}-{time}{suffix}"));
        std::fs::rename(&self.path, backup)?;
        self.file = open(&self.path)?;
        self.size = 0;
        // The log goes on without that; the next rotation tries again.
        if let Err(error) = self.delete_backups(&stem, &suffix) {
            tracing::error!(%error, path = %self.path.display(), "old audit logs are not deleted");
        }
        Ok(())
    }

    /// Deletes the backups beyond the configured limits.
    fn delete_backups(&self, stem: &str, suffix: &str) -> std::io::Result<()> {
        let mut backups: Vec<PathBuf> = std::fs::read_dir(folder(&self.path))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&format!("{stem}-")) && name.ends_with(suffix)
            })
            .collect();
        // The names contain the time, so that sorting by name sorts by age.
        backups.sort();
        let too_many = match self.max_backups {
            0 => 0,
            kept => backups.len().saturating_sub(kept),
        };
        for (i, path) in backups.iter().enumerate() {
            let age = || path.metadata().ok()?.modified().ok()?.elapsed().ok();
            let too_old = self
                .max_age
                .is_some_and(|max| age().is_some_and(|age| age > max));
            if i < too_many || too_old {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_file_name_is_in_the_current_directory() {
        assert_eq!(folder(Path::new("audit.log")), Path::new("."));
        assert_eq!(folder(Path::new("a/audit.log")), Path::new("a"));
        assert_eq!(folder(Path::new("/audit.log")), Path::new("/"));
    }

    #[test]
    fn logs_rotate_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut writer = Writer {
            file: open(&path).unwrap(),
            path: path.clone(),
            size: 0,
            max_size: 10,
            max_backups: 2,
            max_age: None,
        };
        for i in 0..6 {
            writer.write(format!("line-{i}\n").as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line-5\n");
        let mut all: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap())
            .collect();
        all.sort();
        assert_eq!(all, ["line-3\n", "line-4\n", "line-5\n"]);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
