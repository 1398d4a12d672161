//! File operations that the standard library lacks, and output that cannot fail.

#![warn(missing_docs)]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

#[cfg(unix)]
mod remove;

#[cfg(unix)]
pub use remove::remove_at;

/// Removes a directory and its content. Succeeds if it does not exist.
///
/// On UNIX, the depth of the tree is limited by neither the stack nor the number of open
/// files. Symbolic links are removed, not followed; one in the place of the directory too.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    let result = remove::remove_path(path);
    #[cfg(not(unix))]
    let result = fs::remove_dir_all(path);
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a line to standard error like [`eprintln!`], but ignores failures.
///
/// `eprintln!` panics if standard error cannot be written, for example because it is a file on
/// a full disk. Processes that must outlive that use this macro.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::write_line(::std::io::stderr(), ::std::format_args!($($argument)*))
    };
}

/// Writes a line as a whole, for [`say!`]. Ignores failures.
#[doc(hidden)]
pub fn write_line(mut to: impl io::Write, line: std::fmt::Arguments<'_>) {
    // There is no place left to report a failure to.
    let _ = to.write_all(format!("{line}\n").as_bytes());
}

/// Replaces a file atomically: readers see its old or its new content, never a part.
///
/// The content is written to a temporary file in the same directory and renamed. Its name
/// is random because processes in different PID namespaces may write the same file. The
/// data is not synced to disk.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_with(path, bytes, File::options().write(true).create_new(true))
}

/// Replaces a file atomically, like [`write_atomic`], with mode 0600.
#[cfg(unix)]
pub fn write_atomic_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    write_atomic_with(path, bytes, &options)
}

/// Replaces a file atomically, like [`write_atomic`], and waits until that is on disk: after a
/// power cut, the file has its old or its new content.
pub fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{:016x}", rand::random::<u64>()));
    let result = File::options()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_parent(path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Waits until the names in the directory of `path` are on disk.
fn sync_parent(path: &Path) -> io::Result<()> {
    // Windows cannot open directories as files; its file systems log renames.
    if cfg!(unix)
        && let Some(parent) = path.parent()
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn write_atomic_with(path: &Path, bytes: &[u8], options: &fs::OpenOptions) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{:016x}", rand::random::<u64>()));
    let result = options
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Creates a directory and its parents. Sets the directory's mode to `mode` regardless of
/// the umask, also if it already exists.
#[cfg(unix)]
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_removed_and_its_absence_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("a");
        fs::create_dir_all(tree.join("b")).unwrap();
        fs::write(tree.join("b/c"), "").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_line_is_written_whole_and_a_full_disk_is_no_panic() {
        let mut text = Vec::new();
        write_line(&mut text, format_args!("a {}", 1));
        assert_eq!(text, b"a 1\n");
        let full = File::options().write(true).open("/dev/full").unwrap();
        write_line(full, format_args!("lost"));
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"1").unwrap();
        write_atomic(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        write_durable(&path, b"3").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert!(write_atomic(&dir.path().join("none/a"), b"").is_err());
        assert!(write_durable(&dir.path().join("none/a"), b"").is_err());
        // A directory cannot be replaced by a file.
        fs::create_dir(dir.path().join("d")).unwrap();
        assert!(write_atomic(&dir.path().join("d"), b"").is_err());
        assert!(write_durable(&dir.path().join("d"), b"").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn modes_do_not_depend_on_the_umask() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (made, file) = (dir.path().join("a/b"), dir.path().join("f"));
        make_dir(&made, 0o1777).unwrap();
        make_dir(&made, 0o1777).unwrap();
        assert_eq!(mode(&made), 0o1777);
        write_atomic_private(&file, b"").unwrap();
        assert_eq!(mode(&file), 0o600);
    }
}
