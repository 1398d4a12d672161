//! `rkube ctl sync`: writes files into a running container, for `rkube dev`.
//!
//! The files go through the root of the container's first process, so that the image needs no tools,
//! and volumes are written as the container sees them. Paths are resolved inside that root, whatever
//! links the container has.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rkube_dev::copies::Head;
use rkube_failure::{Failure, Kind, Source};
use rkube_runtime::Runtime;
use rkube_runtime::build::{make_dirs, open_dir, open_in_root};

use super::failure;

/// Longest first line of the input.
const MAX_HEAD: u64 = 16 << 20;

/// Writes the files on standard input into a container.
pub fn run(runtime: &Runtime, id: &str) -> Result<(), Failure> {
    let gone = || {
        let message = format!("there is no running container '{id}'");
        Failure::new(Source::Runtime, Kind::NotFound, message)
    };
    let pid_of = || {
        let containers = runtime.list_containers();
        let found = containers.into_iter().find(|container| container.id == id);
        found.and_then(|container| container.pid)
    };
    let pid = pid_of().ok_or_else(gone)?;
    // The descriptor first: while its process lives, no other one has the number.
    let process = Process::open(pid).map_err(|_| gone())?;
    let root = open_dir(&PathBuf::from(format!("/proc/{pid}/root")));
    if pid_of() != Some(pid) || process.signal(0).is_err() {
        return Err(gone());
    }
    let root = root.map_err(failure)?;
    let signal = write(&root, io::stdin().lock()).map_err(|e| match e.kind() {
        io::ErrorKind::ReadOnlyFilesystem => failure(format!("{e}: its file system is read-only")),
        _ => failure(e),
    })?;
    if let Some(number) = signal {
        process.signal(number).map_err(failure)?;
    }
    Ok(())
}

/// A process, by a descriptor, which never stands for another one.
struct Process(OwnedFd);

impl Process {
    fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: only integers are passed.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal; with 0, tells only whether the process lives.
    fn signal(&self, number: i32) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        let fd = self.0.as_raw_fd();
        // SAFETY: the descriptor is open, and without further information none is read.
        let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, no_info, 0) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Writes the files of a stream below a root. Returns the signal that the container is to get.
fn write(root: &OwnedFd, input: impl Read) -> io::Result<Option<i32>> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    input.by_ref().take(MAX_HEAD).read_until(b'\n', &mut line)?;
    let head: Head = serde_json::from_slice(&line)?;
    for path in &head.removed {
        remove(root, Path::new(path)).map_err(|e| at(Path::new(path), &e))?;
    }
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        put(root, &path, &mut entry).map_err(|e| at(&path, &e))?;
    }
    Ok(head.signal)
}

fn at(path: &Path, e: &io::Error) -> io::Error {
    let path = Path::new("/").join(path);
    io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()))
}

/// Returns the path of an open directory, which stays valid while it is open.
fn path_of(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Splits a path into directory and name.
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}

/// Removes a file. One that does not exist is fine.
fn remove(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let (parent, name) = split(path)?;
    let flags = libc::O_DIRECTORY | libc::O_RDONLY;
    let parent = match open_in_root(root.as_fd(), parent, flags, 0) {
        Ok(parent) => parent,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
        Err(e) => return Err(e),
    };
    let target = path_of(&parent).join(name);
    if is_mounted(&parent, &target)? {
        let why = "it is a mount of the container, which cannot be removed";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
    }
    match fs::remove_file(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Returns the mount that an open file is reached through.
fn mount_of(file: &impl AsRawFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let id = lines.find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the kernel does not tell the mounts of files"))
}

/// Returns whether a file of a directory is a mount of its own. The kernel protects such files only
/// in the mount namespace of who writes, and would tear the mount off in the container's.
fn is_mounted(directory: &OwnedFd, target: &Path) -> io::Result<bool> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(target);
    match opened {
        Ok(file) => Ok(mount_of(&file)? != mount_of(directory)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Writes an entry into a file that cannot be replaced.
fn overwrite(entry: &mut tar::Entry<'_, impl Read>, target: &Path) -> io::Result<()> {
    if entry.header().entry_type() != tar::EntryType::Regular {
        let why = "it is a mount of the container, which cannot be replaced by a link";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
    }
    // Whole, so that a connection that breaks off leaves the old content.
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    let mut to = File::options()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(target)?;
    to.write_all(&bytes)
}

/// Returns the owner of the nearest directory on the way to `path` that exists.
fn owner_above(root: &OwnedFd, path: &Path) -> io::Result<(u32, u32)> {
    for above in path.ancestors() {
        match open_in_root(root.as_fd(), above, libc::O_PATH, 0) {
            Ok(found) => {
                let metadata = fs::metadata(path_of(&found))?;
                return Ok((metadata.uid(), metadata.gid()));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Writes an entry of the archive. A file keeps its owner; a new one has that of its directory.
/// Readers see the old content or the new one, never a part.
fn put(root: &OwnedFd, path: &Path, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let (uid, gid) = owner_above(root, parent)?;
    let parent = make_dirs(root.as_fd(), parent, |made, _| {
        let path = format!("/proc/self/fd/{}", made.as_raw_fd());
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
    })?;
    let directory = path_of(&parent);
    let target = directory.join(name);
    let there = fs::symlink_metadata(&target).ok();
    if there.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let (uid, gid) = match &there {
        Some(there) => (there.uid(), there.gid()),
        None => {
            let metadata = fs::metadata(&directory)?;
            (metadata.uid(), metadata.gid())
        }
    };
    if is_mounted(&parent, &target)? {
        return overwrite(entry, &target);
    }
    let new = directory.join(format!(".rkube-sync-{}", std::process::id()));
    let written = fill(entry, &new, (uid, gid)).and_then(|()| fs::rename(&new, &target));
    if written.is_err() {
        // The failure that led here is reported.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Creates a file or link for an entry.
fn fill(
    entry: &mut tar::Entry<'_, impl Read>,
    new: &Path,
    (uid, gid): (u32, u32),
) -> io::Result<()> {
    match entry.header().entry_type() {
        tar::EntryType::Symlink => {
            let to = entry.link_name()?.ok_or(io::ErrorKind::InvalidInput)?;
            std::os::unix::fs::symlink(to, new)?;
            lchown(new, Some(uid), Some(gid))
        }
        tar::EntryType::Regular => {
            let mode = entry.header().mode()? & 0o7777;
            let modified = UNIX_EPOCH + Duration::from_secs(entry.header().mtime()?);
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(new)?;
            io::copy(entry, &mut file)?;
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.set_modified(modified)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an entry of an unknown type",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkube_dev::copies::Copies;

    /// Sends copies to a root.
    fn send(root: &Path, copies: &Copies) -> io::Result<Option<i32>> {
        let mut stream = Vec::new();
        copies.stream(Some(1), &mut stream)?;
        write(&open_dir(root)?, stream.as_slice())
    }

    #[test]
    fn files_are_replaced_made_and_removed_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("srv")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(root.join("srv/a"), "old").unwrap();
        fs::write(root.join("srv/b"), "old").unwrap();
        // Links of the container lead to places in it, also if this machine has the same ones.
        let inner = root.join(outside.strip_prefix("/").unwrap());
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir_all(root.join("outside")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
        std::os::unix::fs::symlink("../../outside", root.join("up")).unwrap();
        let source = dir.path().join("source");
        fs::write(&source, "new").unwrap();
        fs::set_permissions(&source, Permissions::from_mode(0o755)).unwrap();
        let mut copies = Copies::default();
        for target in ["/srv/a", "/srv/deep/er/c", "/out/x", "/up/x"] {
            copies.write(source.clone(), target.into());
        }
        for target in ["/srv/b", "/srv/gone", "/nowhere/x"] {
            copies.remove(target.into());
        }
        assert_eq!(send(&root, &copies).unwrap(), Some(1));
        for name in ["srv/a", "srv/deep/er/c"] {
            assert_eq!(
                fs::read_to_string(root.join(name)).unwrap(),
                "new",
                "{name}"
            );
        }
        let mode = fs::metadata(root.join("srv/a")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(!root.join("srv/b").exists());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(inner.join("x").exists() && root.join("outside/x").exists());
        let names = fs::read_dir(root.join("srv")).unwrap();
        let left = names
            .flatten()
            .filter(|n| n.file_name().to_string_lossy().contains("sync"));
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn mounted_files_of_another_namespace_are_written_in_place() {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("root")).unwrap();
        for name in ["below", "root/file"] {
            fs::write(path(name), "old").unwrap();
        }
        let (below, file, root) = (path("below"), path("root/file"), path("root"));
        // As a container has it: a mount that this thread's namespace does not know.
        let (sender, opened) = std::sync::mpsc::channel::<(OwnedFd, OwnedFd)>();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let container = std::thread::spawn(move || {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some(&below), &file, none, MsFlags::MS_BIND, none)?;
            let first = open_dir(&root).map_err(|_| nix::Error::EIO)?;
            let second = open_dir(&root).map_err(|_| nix::Error::EIO)?;
            if sender.send((first, second)).is_ok() {
                // The mounts last as long as the namespace, and this as long as the thread.
                let _ = wait.recv();
            }
            Ok::<_, nix::Error>(())
        });
        // Where namespaces are forbidden there is nothing to see.
        let Ok((root, again)) = opened.recv() else {
            return;
        };
        fs::write(path("source"), "new").unwrap();
        let stream = |act: &dyn Fn(&mut Copies)| {
            let (mut copies, mut stream) = (Copies::default(), Vec::new());
            act(&mut copies);
            copies.stream(None, &mut stream).unwrap();
            stream
        };
        let copied = stream(&|copies| copies.write(path("source"), "/file".into()));
        write(&root, copied.as_slice()).unwrap();
        assert_eq!(fs::read_to_string(path("below")).unwrap(), "new");
        let removed = stream(&|copies| copies.remove("/file".into()));
        let error = write(&root, removed.as_slice()).unwrap_err();
        assert!(error.to_string().contains("a mount"), "{error}");
        let still = path_of(&again).join("file");
        assert_eq!(fs::read_to_string(still).unwrap(), "new");
        assert_eq!(fs::read_to_string(path("root/file")).unwrap(), "old");
        drop(done);
        container.join().unwrap().unwrap();
    }

    #[test]
    fn a_process_is_told_by_its_descriptor() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::open(child.id().try_into().unwrap()).unwrap();
        process.signal(0).unwrap();
        process.signal(libc::SIGTERM).unwrap();
        child.wait().unwrap();
        assert!(process.signal(0).is_err());
    }

    #[test]
    fn a_directory_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        let source = dir.path().join("source");
        fs::write(&source, "new").unwrap();
        let mut copies = Copies::default();
        copies.write(source, "/a".into());
        let error = send(dir.path(), &copies).unwrap_err();
        assert!(error.to_string().starts_with("cannot write /a:"), "{error}");
    }
}
