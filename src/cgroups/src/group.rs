//! The directory of one group in one hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the processes of a group, without those of its children. Empty if the group
/// does not exist.
pub fn processes(group: &Path) -> Vec<i32> {
    fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        // The kernel reports a process outside of the caller's PID namespace as 0.
        .filter(|pid| *pid > 0)
        .collect()
}

/// Sends SIGKILL to every process of a group, without those of its children. Returns the
/// number of processes.
pub fn kill(group: &Path) -> usize {
    let processes = processes(group);
    for pid in &processes {
        // A process that has exited meanwhile needs no signal.
        // SAFETY: no memory is involved. A process of the group cannot have been
        // replaced by another while it is listed, barring wrap-around.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    processes.len()
}

/// Returns `group` and all groups below it, parents before their children. Empty if the
/// group does not exist.
pub fn descendants(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![group.to_path_buf()];
    while let Some(group) = open.pop() {
        let Ok(entries) = fs::read_dir(&group) else {
            continue;
        };
        found.push(group);
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found
}

/// Removes a group and all groups below it. A group that does not exist is not an error; one
/// with processes fails with `EBUSY`, possibly after some of its children were removed.
pub fn remove(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e)
            if e.raw_os_error() == Some(libc::EBUSY)
                || e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        Err(e) => return Err(e),
    }
    for group in descendants(group).into_iter().rev() {
        match fs::remove_dir(&group) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_come_after_their_parents_and_are_removed_before() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("a");
        fs::create_dir_all(top.join("b/c")).unwrap();
        fs::create_dir_all(top.join("d")).unwrap();
        let found = descendants(&top);
        let place = |path: &str| found.iter().position(|p| *p == dir.path().join(path));
        assert_eq!(found.len(), 4);
        assert!(place("a") < place("a/b") && place("a/b") < place("a/b/c"));
        remove(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
        assert!(descendants(&top).is_empty());
    }

    #[test]
    fn processes_of_other_namespaces_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.procs"), "0\n12\n7\n").unwrap();
        assert_eq!(processes(dir.path()), [12, 7]);
        assert!(processes(&dir.path().join("absent")).is_empty());
    }
}
