//! Pseudo-terminals: opening one, its size, and the modes a client asks for.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::termios::{
    self, ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices as C,
};
use russh::Pty;

/// What a client asked its terminal to be.
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

    /// Opens a terminal of the wanted size and modes: its master (non-blocking) and slave.
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
        apply_modes(&pty.slave, &self.modes)?;
        Ok((pty.master, pty.slave))
    }
}

pub(crate) fn set_size(master: &impl AsRawFd, size: &libc::winsize) -> std::io::Result<()> {
    // SAFETY: the descriptor is open for the borrow's length and TIOCSWINSZ only reads `size`.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, size) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// The size of the terminal behind `fd`, or `None` when it is not one.
pub(crate) fn size_of(fd: &impl AsRawFd) -> Option<libc::winsize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open for the borrow's length and TIOCGWINSZ writes one winsize.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (done == 0).then_some(size)
}

enum Mode {
    Char(C),
    In(InputFlags),
    Out(OutputFlags),
    Local(LocalFlags),
    Control(ControlFlags),
}

/// RFC 4254 section 8's opcodes as Linux has them.
fn mode(opcode: &Pty) -> Option<Mode> {
    use Mode::*;
    Some(match opcode {
        Pty::VINTR => Char(C::VINTR),
        Pty::VQUIT => Char(C::VQUIT),
        Pty::VERASE => Char(C::VERASE),
        Pty::VKILL => Char(C::VKILL),
        Pty::VEOF => Char(C::VEOF),
        Pty::VEOL => Char(C::VEOL),
        Pty::VEOL2 => Char(C::VEOL2),
        Pty::VSTART => Char(C::VSTART),
        Pty::VSTOP => Char(C::VSTOP),
        Pty::VSUSP => Char(C::VSUSP),
        Pty::VREPRINT => Char(C::VREPRINT),
        Pty::VWERASE => Char(C::VWERASE),
        Pty::VLNEXT => Char(C::VLNEXT),
        Pty::VDISCARD => Char(C::VDISCARD),
        Pty::IGNPAR => In(InputFlags::IGNPAR),
        Pty::PARMRK => In(InputFlags::PARMRK),
        Pty::INPCK => In(InputFlags::INPCK),
        Pty::ISTRIP => In(InputFlags::ISTRIP),
        Pty::INLCR => In(InputFlags::INLCR),
        Pty::IGNCR => In(InputFlags::IGNCR),
        Pty::ICRNL => In(InputFlags::ICRNL),
        Pty::IXON => In(InputFlags::IXON),
        Pty::IXANY => In(InputFlags::IXANY),
        Pty::IXOFF => In(InputFlags::IXOFF),
        Pty::IMAXBEL => In(InputFlags::IMAXBEL),
        Pty::IUTF8 => In(InputFlags::IUTF8),
        Pty::ISIG => Local(LocalFlags::ISIG),
        Pty::ICANON => Local(LocalFlags::ICANON),
        Pty::ECHO => Local(LocalFlags::ECHO),
        Pty::ECHOE => Local(LocalFlags::ECHOE),
        Pty::ECHOK => Local(LocalFlags::ECHOK),
        Pty::ECHONL => Local(LocalFlags::ECHONL),
        Pty::NOFLSH => Local(LocalFlags::NOFLSH),
        Pty::TOSTOP => Local(LocalFlags::TOSTOP),
        Pty::IEXTEN => Local(LocalFlags::IEXTEN),
        Pty::ECHOCTL => Local(LocalFlags::ECHOCTL),
        Pty::ECHOKE => Local(LocalFlags::ECHOKE),
        Pty::PENDIN => Local(LocalFlags::PENDIN),
        Pty::OPOST => Out(OutputFlags::OPOST),
        Pty::ONLCR => Out(OutputFlags::ONLCR),
        Pty::OCRNL => Out(OutputFlags::OCRNL),
        Pty::ONOCR => Out(OutputFlags::ONOCR),
        Pty::ONLRET => Out(OutputFlags::ONLRET),
        Pty::CS7 => Control(ControlFlags::CS7),
        Pty::CS8 => Control(ControlFlags::CS8),
        Pty::PARENB => Control(ControlFlags::PARENB),
        Pty::PARODD => Control(ControlFlags::PARODD),
        _ => return None,
    })
}

fn apply_modes(slave: &impl AsFd, modes: &[(Pty, u32)]) -> std::io::Result<()> {
    let mut t = termios::tcgetattr(slave)?;
    for (opcode, value) in modes {
        let on = *value != 0;
        match mode(opcode) {
            // 255 means "not set" on the wire; Linux writes that as 0.
            Some(Mode::Char(c)) => {
                t.control_chars[c as usize] = if *value == 255 { 0 } else { *value as u8 }
            }
            Some(Mode::In(f)) => t.input_flags.set(f, on),
            Some(Mode::Out(f)) => t.output_flags.set(f, on),
            Some(Mode::Local(f)) => t.local_flags.set(f, on),
            Some(Mode::Control(f)) => t.control_flags.set(f, on),
            None => {}
        }
    }
    termios::tcsetattr(slave, SetArg::TCSANOW, &t)?;
    Ok(())
}

/// The modes of the terminal behind `fd`, as a client sends them to the server.
pub(crate) fn modes_of(fd: &impl AsFd) -> Vec<(Pty, u32)> {
    const SENT: &[Pty] = &[
        Pty::VINTR,
        Pty::VQUIT,
        Pty::VERASE,
        Pty::VKILL,
        Pty::VEOF,
        Pty::VSTART,
        Pty::VSTOP,
        Pty::VSUSP,
        Pty::VREPRINT,
        Pty::VWERASE,
        Pty::VLNEXT,
        Pty::ICRNL,
        Pty::IXON,
        Pty::IXANY,
        Pty::IMAXBEL,
        Pty::IUTF8,
        Pty::ISIG,
        Pty::ICANON,
        Pty::ECHO,
        Pty::ECHOE,
        Pty::ECHOK,
        Pty::ECHOCTL,
        Pty::ECHOKE,
        Pty::IEXTEN,
        Pty::OPOST,
        Pty::ONLCR,
        Pty::CS8,
    ];
    let Ok(t) = termios::tcgetattr(fd) else {
        return Vec::new();
    };
    SENT.iter()
        .filter_map(|op| {
            let value = match mode(op)? {
                Mode::Char(c) => u32::from(t.control_chars[c as usize]),
                Mode::In(f) => u32::from(t.input_flags.contains(f)),
                Mode::Out(f) => u32::from(t.output_flags.contains(f)),
                Mode::Local(f) => u32::from(t.local_flags.contains(f)),
                Mode::Control(f) => u32::from(t.control_flags.contains(f)),
            };
            Some((*op, value))
        })
        .collect()
}
