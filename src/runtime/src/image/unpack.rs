//! Unpacking of a layer's tar stream to a lower directory of overlayfs.
//!
//! The stream is not trusted. No entry may affect anything outside the layer's directory (see
//! [`crate::beneath`]). No entry may set the extended attributes that overlayfs interprets. Memory
//! and disk space are limited (see [`super::limits`]).

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rkube_fsutil::remove_at;
use tar::EntryType;

use super::limits::{Counted, Limits, Metered};
use crate::beneath::{
    c_path, check, clean, make_dirs, open_at, open_dir, open_in_root, stat_at, stat_fd,
};

/// Prefix of an entry that hides a name of a lower layer.
const WHITEOUT: &[u8] = b".wh.";
/// Name of an entry that hides the lower layers' content of its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of the metadata files of AUFS, which are ignored.
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// Ownership, mode, modification time and extended attributes of an entry.
struct Metadata {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: libc::timespec,
    xattrs: Vec<(CString, Vec<u8>)>,
}

/// Unpacks the uncompressed tar stream `reader` into the empty directory `target`. `parents` are
/// the layers below, top first. They provide the ownership and mode of directories that the tar
/// omits, and the targets of hard links to lower layers.
pub fn unpack(reader: impl Read, target: &Path, parents: &[PathBuf]) -> io::Result<()> {
    let root = open_dir(target)?;
    let limits = Limits::of(target);
    let mut archive = tar::Archive::new(Metered::new(reader, &limits));
    archive.set_ignore_zeros(false);
    // Directories' times are set last, because creating files in them changes them.
    let mut directories: Vec<(PathBuf, libc::timespec)> = Vec::new();
    let mut entries = archive.entries()?;
    loop {
        limits.begin_entry()?;
        let Some(entry) = entries.next() else {
            break;
        };
        let entry = entry?;
        let path = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let remembered = directories.len();
        let mut entry = Counted::new(entry, &limits);
        apply(&mut entry, &path, root.as_fd(), parents, &mut directories)
            // The rest of the entry must not count as metadata of the next one.
            .and_then(|()| io::copy(&mut entry, &mut io::sink()))
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        for (path, _) in &directories[remembered..] {
            limits.remember(path)?;
        }
    }
    for (path, mtime) in directories.iter().rev() {
        // A later entry may have replaced the directory.
        if let Ok(dir) = open_in_root(root.as_fd(), path, libc::O_DIRECTORY | libc::O_NOFOLLOW, 0) {
            set_times_fd(dir.as_fd(), *mtime)?;
        }
    }
    Ok(())
}

/// Unpacks one entry. Records the times of directories, to be set at the end.
fn apply<R: Read>(
    content: &mut Counted<'_, tar::Entry<'_, R>>,
    path: &Path,
    root: BorrowedFd<'_>,
    parents: &[PathBuf],
    directories: &mut Vec<(PathBuf, libc::timespec)>,
) -> io::Result<()> {
    let limits = content.limits();
    let entry = content.inner();
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let metadata = metadata(entry)?;
    let Some(path) = clean(path) else {
        // The root directory itself.
        if kind.is_dir() {
            let dir = open_in_root(root, Path::new(""), libc::O_DIRECTORY, 0)?;
            set_metadata_fd(dir.as_fd(), &metadata)?;
            directories.push((PathBuf::new(), metadata.mtime));
        }
        return Ok(());
    };
    let parent_path = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or_default();
    let parent = make_dirs(root, parent_path, |dir, made| inherit(dir, made, parents))?;
    let parent = parent.as_fd();

    let bytes = name.as_bytes();
    if bytes == OPAQUE {
        return set_xattr(parent, c"trusted.overlay.opaque", b"y");
    }
    if bytes.starts_with(WHITEOUT_META) {
        return Ok(());
    }
    if let Some(hidden) = bytes.strip_prefix(WHITEOUT) {
        return whiteout(parent, OsStr::from_bytes(hidden));
    }

    let existing = stat_at(parent, name)?;
    let keeps_directory =
        kind.is_dir() && existing.is_some_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR);
    if existing.is_some() && !keeps_directory {
        remove_at(parent, name)?;
    }
    let text = c_path(name)?;
    match kind {
        EntryType::Directory => {
            if !keeps_directory {
                // SAFETY: the descriptor and string outlive the call.
                check(unsafe { libc::mkdirat(parent.as_raw_fd(), text.as_ptr(), 0o700) })?;
            }
            let dir = open_at(parent, name, libc::O_DIRECTORY | libc::O_NOFOLLOW)?;
            set_metadata_fd(dir.as_fd(), &metadata)?;
            directories.push((path, metadata.mtime));
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let mut file = create_file(parent, name)?;
            io::copy(content, &mut file)?;
            file.flush()?;
            set_metadata_fd(file.as_fd(), &metadata)?;
            set_times_fd(file.as_fd(), metadata.mtime)?;
        }
        EntryType::Link => {
            let target = entry
                .link_name_bytes()
                .ok_or_else(|| bad("a hard link without a target"))?;
            let below = Below { parents, limits };
            hard_link(root, OsStr::from_bytes(&target), parent, name, &below)?;
        }
        EntryType::Symlink => {
            let target = entry
                .link_name_bytes()
                .ok_or_else(|| bad("a symbolic link without a target"))?;
            let target = c_path(OsStr::from_bytes(&target))?;
            // SAFETY: the descriptor and strings outlive the call.
            check(unsafe { libc::symlinkat(target.as_ptr(), parent.as_raw_fd(), text.as_ptr()) })?;
            set_owner_at(parent, &text, &metadata)?;
            set_xattrs_at(parent, name, &metadata)?;
            set_times_at(parent, &text, metadata.mtime)?;
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            make_node(entry.header(), parent, name, &metadata)?;
        }
        _ => return Err(bad("an entry of a type that layers do not have")),
    }
    Ok(())
}

/// Creates a device node or a FIFO.
fn make_node(
    header: &tar::Header,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    metadata: &Metadata,
) -> io::Result<()> {
    let kind = header.entry_type();
    let format = match kind {
        EntryType::Char => libc::S_IFCHR,
        EntryType::Block => libc::S_IFBLK,
        _ => libc::S_IFIFO,
    };
    let device = if kind == EntryType::Fifo {
        0
    } else {
        libc::makedev(
            header.device_major()?.unwrap_or(0),
            header.device_minor()?.unwrap_or(0),
        )
    };
    if kind == EntryType::Char && device == 0 {
        return Err(bad("a device node that overlayfs takes for a whiteout"));
    }
    let text = c_path(name)?;
    let mode = format | metadata.mode;
    // SAFETY: the descriptor and string outlive the call.
    check(unsafe { libc::mknodat(parent.as_raw_fd(), text.as_ptr(), mode, device) })?;
    set_owner_at(parent, &text, metadata)?;
    // SAFETY: as above.
    check(unsafe { libc::fchmodat(parent.as_raw_fd(), text.as_ptr(), metadata.mode, 0) })?;
    set_xattrs_at(parent, name, metadata)?;
    set_times_at(parent, &text, metadata.mtime)
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Reads the metadata of an entry from its header and PAX extensions.
fn metadata<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Metadata> {
    let header = entry.header();
    let raw = header.as_old();
    let uid = number(&raw.uid, || header.uid())?;
    let uid = u32::try_from(uid).map_err(|_| bad("user number out of range"))?;
    let gid = number(&raw.gid, || header.gid())?;
    let gid = u32::try_from(gid).map_err(|_| bad("group number out of range"))?;
    let mode = number(&raw.mode, || header.mode().map(u64::from))? as u32 & 0o7777;
    let mtime = number(&raw.mtime, || header.mtime())?;
    let mut mtime = timespec(i64::try_from(mtime).unwrap_or(0), 0);
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let key = extension.key_bytes();
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if overlay_attribute(name) {
                    continue;
                }
                let name =
                    CString::new(name).map_err(|_| bad("an attribute name with a NUL byte"))?;
                xattrs.push((name, extension.value_bytes().to_vec()));
            } else if key == b"mtime"
                && let Ok(text) = extension.value()
                && let Some(time) = parse_time(text)
            {
                mtime = time;
            }
        }
    }
    Ok(Metadata {
        uid,
        gid,
        mode,
        mtime,
        xattrs,
    })
}

/// Reads a numeric header field. A blank field is zero, as in other implementations.
fn number(field: &[u8], read: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) {
        Ok(0)
    } else {
        read()
    }
}

/// Returns whether an extended attribute is interpreted by overlayfs.
fn overlay_attribute(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

fn timespec(seconds: i64, nanoseconds: i64) -> libc::timespec {
    libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    }
}

/// Parses a PAX time: decimal seconds, possibly negative or with a fraction.
fn parse_time(text: &str) -> Option<libc::timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let mut digits: String = fraction.chars().take(9).collect();
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    while digits.len() < 9 {
        digits.push('0');
    }
    let nanoseconds: i64 = digits.parse().ok()?;
    Some(if whole.starts_with('-') && nanoseconds > 0 {
        timespec(seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)
    } else {
        timespec(seconds, nanoseconds)
    })
}

/// Creates a new file with mode 0600.
fn create_file(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<std::fs::File> {
    let text = c_path(name)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the descriptor and string outlive the call.
    let fd = check(unsafe { libc::openat(parent.as_raw_fd(), text.as_ptr(), flags, 0o600) })?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { std::fs::File::from_raw_fd(fd) })
}

/// Copies ownership and mode from the lower layers' directory to one that the tar omits.
fn inherit(dir: BorrowedFd<'_>, path: &Path, parents: &[PathBuf]) -> io::Result<()> {
    let Some((_, below)) = find_below(path, parents)? else {
        return Ok(());
    };
    let stat = stat_fd(below.as_fd())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Ok(());
    }
    // SAFETY: the descriptor is open.
    check(unsafe { libc::fchown(dir.as_raw_fd(), stat.st_uid, stat.st_gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::fchmod(dir.as_raw_fd(), stat.st_mode & 0o7777) })?;
    Ok(())
}

/// Finds the topmost layer that contains `path`. Returns it with the opened file, or `None` if the
/// path does not exist or is hidden by a whiteout.
fn find_below<'a>(path: &Path, parents: &'a [PathBuf]) -> io::Result<Option<(&'a Path, OwnedFd)>> {
    for layer in parents {
        let root = open_dir(layer)?;
        match open_in_root(root.as_fd(), path, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Ok(found) => {
                let stat = stat_fd(found.as_fd())?;
                let hidden = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0;
                return Ok((!hidden).then_some((layer.as_path(), found)));
            }
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
                ) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Creates a whiteout of overlayfs, a character device 0/0.
fn whiteout(parent: BorrowedFd<'_>, hidden: &OsStr) -> io::Result<()> {
    if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
        return Err(bad("a whiteout of nothing"));
    }
    // A whiteout hides lower layers only, so keep an entry of the same layer.
    if stat_at(parent, hidden)?.is_some() {
        return Ok(());
    }
    let text = c_path(hidden)?;
    // SAFETY: the descriptor and string outlive the call.
    check(unsafe { libc::mknodat(parent.as_raw_fd(), text.as_ptr(), libc::S_IFCHR, 0) })?;
    Ok(())
}

/// The layers below, top first, and the limits that copies from them count towards.
struct Below<'a> {
    parents: &'a [PathBuf],
    limits: &'a Limits,
}

/// Creates a hard link to a file of the layer or of a lower one.
fn hard_link(
    root: BorrowedFd<'_>,
    target: &OsStr,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    below: &Below<'_>,
) -> io::Result<()> {
    let target = clean(Path::new(target)).ok_or_else(|| bad("a hard link to the root"))?;
    let target_name = c_path(target.file_name().unwrap_or_default())?;
    let text = c_path(name)?;
    let target_parent = target.parent().unwrap_or(Path::new(""));
    match open_in_root(root, target_parent, libc::O_DIRECTORY | libc::O_PATH, 0) {
        Ok(dir) => {
            // SAFETY: the descriptors and strings outlive the call. Without AT_SYMLINK_FOLLOW, a
            // link to a symbolic link links the link itself.
            let linked = check(unsafe {
                libc::linkat(
                    dir.as_raw_fd(),
                    target_name.as_ptr(),
                    parent.as_raw_fd(),
                    text.as_ptr(),
                    0,
                )
            });
            match linked {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    copy_up(&target, parent, name, below)
}

/// Copies a file of a lower layer, for a hard link to it. A write through an overlay mount would
/// break the link in the same way.
fn copy_up(
    target: &Path,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    below: &Below<'_>,
) -> io::Result<()> {
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("a hard link to {}, which does not exist", target.display()),
        )
    };
    let (layer, _) = find_below(target, below.parents)?.ok_or_else(missing)?;
    let layer = open_dir(layer)?;
    let source = open_in_root(
        layer.as_fd(),
        target,
        libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK,
        0,
    )?;
    let stat = stat_fd(source.as_fd())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(bad(
            "a hard link to something of a lower layer that is not a file",
        ));
    }
    let mut source = Counted::new(std::fs::File::from(source), below.limits);
    let mut copy = create_file(parent, name)?;
    io::copy(&mut source, &mut copy)?;
    let metadata = Metadata {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        mtime: timespec(stat.st_mtime, stat.st_mtime_nsec),
        xattrs: Vec::new(),
    };
    set_metadata_fd(copy.as_fd(), &metadata)?;
    set_times_fd(copy.as_fd(), metadata.mtime)
}

/// Sets ownership, mode and extended attributes. In this order, because changing the owner clears
/// the set-user-ID bit and file capabilities.
fn set_metadata_fd(file: BorrowedFd<'_>, metadata: &Metadata) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    check(unsafe { libc::fchown(file.as_raw_fd(), metadata.uid, metadata.gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::fchmod(file.as_raw_fd(), metadata.mode) })?;
    for (name, value) in &metadata.xattrs {
        tolerate(set_xattr(file, name, value))?;
    }
    Ok(())
}

/// Ignores errors of file systems that do not support an extended attribute.
fn tolerate(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM)) => Ok(()),
        other => other,
    }
}

/// Sets an extended attribute of an open file.
fn set_xattr(file: BorrowedFd<'_>, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the pointers outlive the call and the length is the value's.
    check(unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    })?;
    Ok(())
}

/// Sets the owner of a file without following links.
fn set_owner_at(parent: BorrowedFd<'_>, name: &CString, metadata: &Metadata) -> io::Result<()> {
    // SAFETY: the descriptor and string outlive the call.
    check(unsafe {
        libc::fchownat(
            parent.as_raw_fd(),
            name.as_ptr(),
            metadata.uid,
            metadata.gid,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    })?;
    Ok(())
}

/// Sets extended attributes of a file that cannot be opened. Accesses it through the parent's
/// descriptor in `/proc`, so that the parent cannot be exchanged.
fn set_xattrs_at(parent: BorrowedFd<'_>, name: &OsStr, metadata: &Metadata) -> io::Result<()> {
    if metadata.xattrs.is_empty() {
        return Ok(());
    }
    let path = c_path(Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name))?;
    for (attribute, value) in &metadata.xattrs {
        // SAFETY: the pointers outlive the call and the length is the value's.
        let result = check(unsafe {
            libc::lsetxattr(
                path.as_ptr(),
                attribute.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        });
        tolerate(result.map(drop))?;
    }
    Ok(())
}

/// Sets the access and modification times of an open file.
fn set_times_fd(file: BorrowedFd<'_>, mtime: libc::timespec) -> io::Result<()> {
    // SAFETY: the descriptor is open and the array has two elements.
    check(unsafe { libc::futimens(file.as_raw_fd(), [mtime, mtime].as_ptr()) })?;
    Ok(())
}

/// Sets the access and modification times of a file without following links.
fn set_times_at(parent: BorrowedFd<'_>, name: &CString, mtime: libc::timespec) -> io::Result<()> {
    // SAFETY: the descriptor and string outlive the call and the array has two elements.
    check(unsafe {
        libc::utimensat(
            parent.as_raw_fd(),
            name.as_ptr(),
            [mtime, mtime].as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_ends() {
        let parsed = |text| parse_time(text).map(|t| (t.tv_sec, t.tv_nsec));
        for (text, time) in [
            ("1", Some((1, 0))),
            ("1.25", Some((1, 250_000_000))),
            ("-1.25", Some((-2, 750_000_000))),
            ("1.9999999999", Some((1, 999_999_999))),
            ("-9223372036854775808", Some((i64::MIN, 0))),
            ("-9223372036854775808.5", None),
            ("9223372036854775808", None),
            ("1.x", None),
            ("", None),
        ] {
            assert_eq!(parsed(text), time, "{text:?}");
        }
    }
}
