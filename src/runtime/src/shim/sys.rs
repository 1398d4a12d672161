//! System calls of the shim that the standard library lacks.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::beneath::check;

/// Creates a pipe. Both ends are closed on exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel has just returned these descriptors, which nothing else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Opens a descriptor of a process, which refers to it even when its number is reused.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = check(i32::try_from(fd).map_err(io::Error::other)?)?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process of a descriptor from [`pidfd`]. Succeeds if it has ended.
pub fn signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: without a `siginfo_t`, no memory is involved.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        e => Err(e),
    }
}

/// Makes a user the owner of a pipe or socket. Other files are left alone.
pub fn give(fd: &OwnedFd, uid: u32) -> io::Result<()> {
    // SAFETY: stat is plain integers, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the pointer is valid.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
    if matches!(stat.st_mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK) {
        // SAFETY: no memory is involved.
        check(unsafe { libc::fchown(fd.as_raw_fd(), uid, libc::gid_t::MAX) })?;
    }
    Ok(())
}

/// Makes a user the owner of a terminal. Other files are left alone.
pub fn give_terminal(fd: RawFd, uid: u32) -> io::Result<()> {
    // SAFETY: no memory is involved; a closed descriptor is no terminal.
    if unsafe { libc::isatty(fd) } == 1 {
        // SAFETY: no memory is involved.
        check(unsafe { libc::fchown(fd, uid, libc::gid_t::MAX) })?;
    }
    Ok(())
}

/// Makes a descriptor non-blocking.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Reads from a non-blocking descriptor. Returns `None` if it would block.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: the pointer and length are the buffer's.
        let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        if n >= 0 {
            return Ok(Some(n as usize));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Writes to a non-blocking descriptor. Returns `None` if it would block.
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: the pointer and length are the slice's.
        let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        if n >= 0 {
            return Ok(Some(n as usize));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Reads from a socket, and appends received descriptors to `fds`. Returns `None` if it would
/// block.
pub fn receive(fd: RawFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<Option<usize>> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(buffer)];
    loop {
        match recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => {
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(received) = control {
                        // SAFETY: the kernel has just returned these descriptors, which nothing
                        // else owns.
                        fds.extend(
                            received
                                .into_iter()
                                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                        );
                    }
                }
                return Ok(Some(message.bytes));
            }
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Writes to a socket together with descriptors. Returns the number of bytes written.
pub fn send(fd: RawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let parts = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    loop {
        match sendmsg::<()>(fd, &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Sets a terminal's size in characters.
pub fn resize(fd: RawFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the struct outlives the call.
    check(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Listens on a UNIX socket at a path of any length. Changes the working directory temporarily, so
/// it must be called from single-threaded processes only.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    std::env::set_current_dir(dir)?;
    let result = UnixListener::bind(name);
    std::env::set_current_dir("/")?;
    result
}

/// Connects to a UNIX socket at a path of any length, from any thread.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = crate::beneath::open_dir(dir)?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
}
