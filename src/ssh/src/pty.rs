//! Pseudo-terminals: creation and size.

use std::os::fd::{AsRawFd, OwnedFd};

use russh::Pty;

use crate::modes;

/// A client's request for a terminal (RFC 4254 section 6.2).
#[derive(Clone, Debug, Default)]
pub(crate) struct PtyRequest {
    pub term: String,
    pub columns: u32,
    pub rows: u32,
    pub width: u32,
    pub height: u32,
    pub modes: Vec<(Pty, u32)>,
}

impl PtyRequest {
    pub(crate) fn winsize(&self) -> libc::winsize {
        let clamp = |v: u32| u16::try_from(v).unwrap_or(u16::MAX);
        libc::winsize {
            ws_row: clamp(self.rows),
            ws_col: clamp(self.columns),
            ws_xpixel: clamp(self.width),
            ws_ypixel: clamp(self.height),
        }
    }

    /// Opens a terminal with the requested size and modes. Returns the master, which is
    /// non-blocking, and the slave.
    pub(crate) fn open(&self) -> std::io::Result<(OwnedFd, OwnedFd)> {
        let pty = nix::pty::openpty(Some(&self.winsize()), None)?;
        for fd in [&pty.master, &pty.slave] {
            nix::fcntl::fcntl(
                fd.as_raw_fd(),
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
            )?;
        }
        let flags = nix::fcntl::fcntl(pty.master.as_raw_fd(), nix::fcntl::FcntlArg::F_GETFL)?;
        nix::fcntl::fcntl(
            pty.master.as_raw_fd(),
            nix::fcntl::FcntlArg::F_SETFL(
                nix::fcntl::OFlag::from_bits_truncate(flags) | nix::fcntl::OFlag::O_NONBLOCK,
            ),
        )?;
        modes::apply(&pty.slave, &self.modes)?;
        Ok((pty.master, pty.slave))
    }
}

pub(crate) fn set_size(master: &impl AsRawFd, size: &libc::winsize) -> std::io::Result<()> {
    // SAFETY: the descriptor is open during the borrow and TIOCSWINSZ only reads `size`.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, size) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
