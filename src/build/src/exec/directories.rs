//! The directories of one build, and the lock that holds them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::errors::{failed, failed_at};
use super::types::Directories;
use crate::error::Result;

/// The directories of one build.
pub struct WorkDirectories {
    pub id: String,
    pub work: PathBuf,
    pub run: PathBuf,
    lock: PathBuf,
    _lock_file: File,
}

impl WorkDirectories {
    /// Makes the directories of a new build, and locks its lock file.
    pub fn new(directories: &Directories) -> Result<Self> {
        let id = format!(
            "{}-{}",
            std::process::id(),
            jiff::Timestamp::now().as_nanosecond()
        );
        let work = directories.state.join("work").join(&id);
        let run = directories.run.join(&id);
        let lock = directories.state.join("work").join(format!("{id}.lock"));
        let parent = directories.state.join("work");
        fs::create_dir_all(&parent).map_err(failed_at(&parent))?;
        // Locked before the directory exists, so that no other build takes it for a remainder.
        let file = new_lock(&lock).map_err(failed_at(&lock))?;
        rkube_fsutil::make_dir(&directories.run, 0o700).map_err(failed_at(&directories.run))?;
        for dir in [&work, &run] {
            rkube_fsutil::make_dir(dir, 0o700).map_err(failed_at(dir))?;
        }
        Ok(Self {
            id,
            work,
            run,
            lock,
            _lock_file: file,
        })
    }

    /// Removes the directories and the lock file.
    pub fn remove(self) -> Result<()> {
        remove(&self.work, &self.run)?;
        fs::remove_file(&self.lock).map_err(failed_at(&self.lock))
    }
}

/// Makes a lock file and locks it. Another build's sweep may remove it in between, and then it is
/// made again.
fn new_lock(path: &Path) -> std::io::Result<File> {
    loop {
        let file = File::create(path)?;
        file.lock()?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Locks the lock file of a build that has ended. Returns none if the build runs, or if another
/// one removes the file.
pub fn take_over(path: &Path) -> std::io::Result<Option<File>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(e)) => return Err(e),
        Ok(()) => {}
    }
    Ok(is_at(&file, path)?.then_some(file))
}

/// Returns whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let here = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Unmounts and removes the directories of a build.
pub fn remove(work: &Path, run: &Path) -> Result<()> {
    for dir in [work, run] {
        rkube_runtime::build::unmount_below(dir).map_err(failed)?;
        rkube_fsutil::remove_tree(dir).map_err(failed_at(dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_that_was_removed_locks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.lock");
        assert!(take_over(&path).unwrap().is_none());
        let held = new_lock(&path).unwrap();
        assert!(take_over(&path).unwrap().is_none(), "the build runs");
        drop(held);
        let first = take_over(&path).unwrap().unwrap();
        // Another sweep has opened the file before the first one removes it.
        let late = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        drop(first);
        late.lock().unwrap();
        assert!(!is_at(&late, &path).unwrap());
        assert!(take_over(&path).unwrap().is_none());
    }

    #[test]
    fn new_builds_and_sweeps_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.lock");
        let done = std::sync::atomic::AtomicBool::new(false);
        let sweeps = || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(_lock) = take_over(&path).unwrap() {
                    fs::remove_file(&path).unwrap();
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(sweeps);
            for _ in 0..500 {
                let held = new_lock(&path).unwrap();
                assert!(is_at(&held, &path).unwrap());
                fs::remove_file(&path).unwrap();
                drop(held);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
