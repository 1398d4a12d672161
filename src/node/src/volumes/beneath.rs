//! Operations on the files of an open directory that follow no symbolic link.
//!
//! Containers may write to volumes. A path below one may therefore change between two system
//! calls, so every step starts at an open directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

/// Number of attempts to resolve a path while directories on it are being moved.
const MAX_ATTEMPTS: usize = 64;

/// Maximum depth of directories that are removed. Each level needs a descriptor.
const MAX_DEPTH: usize = 256;

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl Dir {
    /// Opens a directory by its path, whose last part must not be a symbolic link.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Self(file.into()))
    }

    /// Opens the directory at a path below this one.
    pub(super) fn dir(&self, path: &Path) -> io::Result<Self> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
            .map(Self)
    }

    /// Opens the file at a path below this directory for reading. Does not wait for the other end
    /// of a FIFO.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
            .map(File::from)
    }

    /// Creates a file at a path below this directory, with mode 0600. Fails if it exists.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        self.resolve(path, flags, mode).map(File::from)
    }

    /// Opens a path below this directory; fails with `ELOOP` at a symbolic link and with `EXDEV`
    /// at the mount point of another file system.
    fn resolve(&self, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let how = || {
            OpenHow::new()
                .flags(flags | OFlag::O_CLOEXEC)
                .mode(mode)
                .resolve(
                    ResolveFlag::RESOLVE_BENEATH
                        | ResolveFlag::RESOLVE_NO_SYMLINKS
                        | ResolveFlag::RESOLVE_NO_XDEV,
                )
        };
        for _ in 0..MAX_ATTEMPTS {
            match openat2(self.0.as_raw_fd(), path, how()) {
                // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
                Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
                // A concurrent rename interfered with the resolution.
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(nix::errno::Errno::EAGAIN.into())
    }

    /// Creates a directory by its name and opens it. Its mode does not depend on the umask.
    pub(super) fn make_dir(&self, name: &OsStr, mode: u32, group: Option<u32>) -> io::Result<Self> {
        mkdirat(Some(self.0.as_raw_fd()), name, Mode::S_IRWXU)?;
        let dir = self.dir(Path::new(name))?;
        dir.set_access(None, group, mode)?;
        Ok(dir)
    }

    /// Sets owner, group and mode of this directory. `None` keeps an owner or a group.
    pub(super) fn set_access(
        &self,
        uid: Option<u32>,
        group: Option<u32>,
        mode: u32,
    ) -> io::Result<()> {
        set_access(&self.0, uid, group, mode)
    }

    /// Returns the status of this directory.
    pub(super) fn status(&self) -> io::Result<FileStat> {
        Ok(fstat(self.0.as_raw_fd())?)
    }

    /// Returns the status of a name in this directory; `None` if it does not exist.
    pub(super) fn status_of(&self, name: &OsStr) -> io::Result<Option<FileStat>> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        match fstatat(Some(self.0.as_raw_fd()), name, flags) {
            Ok(stat) => Ok(Some(stat)),
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Returns the target of a symbolic link; `None` if the name does not exist or is no link.
    pub(super) fn link(&self, name: &OsStr) -> io::Result<Option<std::ffi::OsString>> {
        match readlinkat(Some(self.0.as_raw_fd()), name) {
            Ok(target) => Ok(Some(target)),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Creates a symbolic link.
    pub(super) fn make_link(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        Ok(symlinkat(target, Some(self.0.as_raw_fd()), name)?)
    }

    /// Renames an entry within this directory and replaces one of the new name.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let fd = Some(self.0.as_raw_fd());
        Ok(renameat(fd, from, fd, to)?)
    }

    /// Opens an entry of any type without side effects, a symbolic link itself.
    pub(super) fn handle(&self, name: &OsStr) -> io::Result<Handle> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        self.resolve(Path::new(name), flags, Mode::empty())
            .map(Handle)
    }

    /// Returns the names in this directory, sorted.
    pub(super) fn names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        // A new description of the directory: reading moves its position.
        let copy = self.dir(Path::new("."))?;
        let mut names = Vec::new();
        let fd = std::os::fd::IntoRawFd::into_raw_fd(copy.0);
        for entry in nix::dir::Dir::from_fd(fd)?.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(std::ffi::OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes an entry with all that is below it. Succeeds if it does not exist.
    ///
    /// Fails at a mount point of another file system, and if directories are nested too deeply.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.remove_at_depth(name, 0)
    }

    fn remove_at_depth(&self, name: &OsStr, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        let Some(stat) = self.status_of(name)? else {
            return Ok(());
        };
        let fd = Some(self.0.as_raw_fd());
        if !is_dir(&stat) {
            return Ok(unlinkat(fd, name, UnlinkatFlags::NoRemoveDir)?);
        }
        let dir = self.dir(Path::new(name))?;
        for entry in dir.names()? {
            dir.remove_at_depth(&entry, depth + 1)?;
        }
        Ok(unlinkat(fd, name, UnlinkatFlags::RemoveDir)?)
    }
}

/// An entry of a directory, opened with `O_PATH`.
#[derive(Debug)]
pub(super) struct Handle(OwnedFd);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl Handle {
    /// Opens the entry for reading, if it is a directory.
    pub(super) fn reopen_dir(&self) -> io::Result<Dir> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(Some(self.0.as_raw_fd()), ".", flags, Mode::empty())?;
        // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
        Ok(Dir(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Changes the group of the entry.
    pub(super) fn set_group(&self, group: u32) -> io::Result<()> {
        let (fd, group) = (Some(self.0.as_raw_fd()), Some(Gid::from_raw(group)));
        Ok(fchownat(fd, "", None, group, AtFlags::AT_EMPTY_PATH)?)
    }
}

/// Sets owner, group and mode of an open file. The mode is set last: a change of the owner clears
/// bits of it.
pub(super) fn set_access(
    file: &impl AsRawFd,
    uid: Option<u32>,
    group: Option<u32>,
    mode: u32,
) -> io::Result<()> {
    let fd = file.as_raw_fd();
    if uid.is_some() || group.is_some() {
        fchown(fd, uid.map(Uid::from_raw), group.map(Gid::from_raw))?;
    }
    Ok(fchmod(fd, Mode::from_bits_truncate(mode))?)
}

/// Returns whether a status is that of a directory.
pub(super) fn is_dir(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// Returns whether a name is safe as a single step: not empty, no separator, not `.` or `..`.
pub(super) fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_never_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink("loop", inside.path().join("loop")).unwrap();
        std::fs::create_dir(inside.path().join("real")).unwrap();
        symlink("real", inside.path().join("near")).unwrap();
        let dir = Dir::open(inside.path()).unwrap();
        for path in ["out", "loop", "near", "..", "/etc"] {
            assert!(dir.dir(Path::new(path)).is_err(), "{path}");
        }
        assert!(dir.file(Path::new("out/secret")).is_err());
        assert!(dir.create(Path::new("out/new")).is_err());
        assert!(dir.create(Path::new("near/new")).is_err());
        assert!(Dir::open(&inside.path().join("near")).is_err());
        dir.create(Path::new("real/new")).unwrap();
        let below = "real/new";
        assert!(dir.create(Path::new(below)).is_err(), "it exists");
        assert_eq!(
            dir.names().unwrap(),
            ["loop", "near", "out", "real"].map(std::ffi::OsString::from)
        );
    }

    #[test]
    fn removing_keeps_what_links_lead_to() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "").unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(inside.path().join("a/b")).unwrap();
        std::fs::write(inside.path().join("a/b/f"), "").unwrap();
        symlink(outside.path(), inside.path().join("a/link")).unwrap();
        let dir = Dir::open(inside.path()).unwrap();
        dir.remove(OsStr::new("a")).unwrap();
        dir.remove(OsStr::new("a")).unwrap();
        assert!(dir.names().unwrap().is_empty());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn names_are_single_steps() {
        for (name, good) in [
            ("a", true),
            ("..a", true),
            ("", false),
            ("..", false),
            ("a/b", false),
        ] {
            assert_eq!(is_name(OsStr::new(name)), good, "{name}");
        }
    }
}
