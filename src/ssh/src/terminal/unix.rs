//! The terminal of this process on Unix.

use std::io::IsTerminal;
use std::os::fd::AsRawFd;

use nix::sys::termios::{self, SetArg, Termios};
use russh::Pty;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::debug;

use crate::{SshError, modes};

/// Returns columns and rows; `None` if standard input is not a terminal.
pub(crate) fn size() -> Option<(u32, u32)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let stdin = std::io::stdin();
    // SAFETY: the descriptor is open during the borrow and TIOCGWINSZ writes one winsize.
    let done = unsafe { libc::ioctl(stdin.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (done == 0).then_some((u32::from(size.ws_col), u32::from(size.ws_row)))
}

/// Returns the modes of standard input in the encoding for the server.
pub(crate) fn modes() -> Vec<(Pty, u32)> {
    modes::read_modes(&std::io::stdin())
}

/// Reads standard input without std's buffer: buffered input would be lost to programs that
/// read after the session has ended.
pub(crate) fn read(buffer: &mut [u8]) -> std::io::Result<usize> {
    Ok(nix::unistd::read(std::io::stdin().as_raw_fd(), buffer)?)
}

/// Puts standard input in raw mode until dropped. Does nothing if it is not a terminal.
pub(crate) struct Raw {
    saved: Option<Termios>,
}

impl Raw {
    pub(crate) fn enter() -> Result<Self, SshError> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self { saved: None });
        }
        let saved = termios::tcgetattr(&stdin)
            .map_err(|e| SshError::io("reading the terminal's modes")(e.into()))?;
        let mut raw = saved.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)
            .map_err(|e| SshError::io("setting the terminal's modes")(e.into()))?;
        Ok(Self { saved: Some(saved) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved
            && let Err(e) = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, saved)
        {
            debug!("restoring the terminal: {e}");
        }
    }
}

/// Changes of the terminal's size.
pub(crate) struct Resizes(Signal);

impl Resizes {
    pub(crate) fn follow() -> std::io::Result<Self> {
        signal(SignalKind::window_change()).map(Self)
    }

    /// Waits for the next change.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // No more signals are delivered.
            std::future::pending().await
        }
    }
}
