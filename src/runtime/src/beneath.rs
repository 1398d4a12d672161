//! File operations confined to a directory.
//!
//! Paths come from image layers and containers, so symbolic links in them may point anywhere. Every
//! lookup uses `openat2(2)` with `RESOLVE_IN_ROOT`, so that absolute links and `..` are resolved
//! inside the directory.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Converts a C return value to a result with the error of `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Converts a path to a C string. Fails if it contains a NUL byte.
pub(crate) fn c_path(path: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(path.as_ref().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path contains a NUL byte"))
}

/// Opens `path` below `root` as if `root` were `/`. An empty path is `root` itself.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: libc::c_int,
    mode: libc::mode_t,
) -> io::Result<OwnedFd> {
    let text = if path.as_os_str().is_empty() {
        c_path(".")?
    } else {
        c_path(path)?
    };
    // SAFETY: open_how is plain integers, for which zero is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    for _ in 0..64 {
        // SAFETY: the descriptor, string and struct outlive the call; the size is the struct's.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                text.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        if fd >= 0 {
            // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
        let error = io::Error::last_os_error();
        // EAGAIN: a concurrent rename interfered with the resolution of "..".
        if error.raw_os_error() != Some(libc::EAGAIN) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Opens a directory with `O_PATH`, for use as a root.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let text = c_path(path)?;
    // SAFETY: the string outlives the call.
    let fd = check(unsafe {
        libc::open(
            text.as_ptr(),
            libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Normalizes a path lexically: relative, without `.`, and with `..` resolved, but never above the
/// top. Returns `None` for the top itself.
pub(crate) fn clean(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

/// Opens the directory `path` below `root`, and creates missing directories with mode 0755. Calls
/// `made(descriptor, path)` for each new directory.
pub fn make_dirs(
    root: BorrowedFd<'_>,
    path: &Path,
    mut made: impl FnMut(BorrowedFd<'_>, &Path) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_RDONLY;
    match open_in_root(root, path, flags, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut current = open_in_root(root, Path::new(""), flags, 0)?;
    let mut walked = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else {
            continue;
        };
        walked.push(name);
        current = match open_in_root(root, &walked, flags, 0) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let text = c_path(name)?;
                // SAFETY: the descriptor and string outlive the call.
                check(unsafe { libc::mkdirat(current.as_raw_fd(), text.as_ptr(), 0o755) })?;
                // Opened through its actual parent without following links.
                let dir = open_at(current.as_fd(), name, flags | libc::O_NOFOLLOW)?;
                made(dir.as_fd(), &walked)?;
                dir
            }
            Err(e) => return Err(e),
        };
    }
    Ok(current)
}

/// Opens a file by its name in the directory `dir`.
pub(crate) fn open_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: libc::c_int,
) -> io::Result<OwnedFd> {
    let text = c_path(name)?;
    // SAFETY: the descriptor and string outlive the call.
    let fd =
        check(unsafe { libc::openat(dir.as_raw_fd(), text.as_ptr(), flags | libc::O_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `lstat` for a name in the directory `dir`. Returns `None` if it does not exist.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<libc::stat>> {
    let text = c_path(name)?;
    // SAFETY: stat is plain integers, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers outlive the call.
    let result = unsafe {
        libc::fstatat(
            dir.as_raw_fd(),
            text.as_ptr(),
            &raw mut stat,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    match check(result) {
        Ok(_) => Ok(Some(stat)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Calls `fstat` for an open file.
pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    // SAFETY: stat is plain integers, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the pointer valid.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat)
}

/// Reads at most `limit` bytes of a file below `root`. Returns `None` if it does not exist or is
/// not a regular file.
pub fn read_in_root(root: &Path, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let root = open_dir(root)?;
    // O_NONBLOCK: opening a FIFO in the image must not block.
    let file = match open_in_root(root.as_fd(), path, libc::O_RDONLY | libc::O_NONBLOCK, 0) {
        Ok(file) => file,
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    if stat_fd(file.as_fd())?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(limit)
        .read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_climbs() {
        let clean = |p: &str| clean(Path::new(p)).map(|p| p.to_str().unwrap().to_string());
        assert_eq!(clean("a/./b").as_deref(), Some("a/b"));
        assert_eq!(clean("../../etc/passwd").as_deref(), Some("etc/passwd"));
        assert_eq!(clean("/a/../../b").as_deref(), Some("b"));
        assert_eq!(clean("./"), None);
        assert_eq!(clean("a/.."), None);
    }

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let link = |name: &str, target: &Path| {
            std::os::unix::fs::symlink(target, inside.path().join(name)).unwrap();
        };
        link("abs", outside.path());
        link("up", Path::new("../../../../../../../../"));
        link("loop", Path::new("loop"));
        let secret = outside.path().join("secret");
        for path in ["abs/secret", &format!("up{}", secret.display()), "loop"] {
            assert_eq!(
                read_in_root(inside.path(), Path::new(path), 10).unwrap(),
                None,
                "{path}"
            );
        }
        // A directory created through such a link is inside the root.
        let root = open_dir(inside.path()).unwrap();
        make_dirs(root.as_fd(), Path::new("up/new/dir"), |_, _| Ok(())).unwrap();
        assert!(inside.path().join("new/dir").is_dir());
    }
}
