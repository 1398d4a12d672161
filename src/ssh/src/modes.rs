//! Terminal modes as encoded by SSH (RFC 4254 section 8).

use std::os::fd::AsFd;

use nix::sys::termios::{
    self, ControlFlags, InputFlags, LocalFlags, OutputFlags, SpecialCharacterIndices as C,
};
use russh::Pty;

enum Mode {
    Char(C),
    In(InputFlags),
    Out(OutputFlags),
    Local(LocalFlags),
    Control(ControlFlags),
}

/// Maps an opcode to the Linux terminal mode; `None` if Linux has none.
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

/// Applies the modes that a client requested to a terminal.
#[cfg(target_os = "linux")]
pub(crate) fn apply(slave: &impl AsFd, modes: &[(Pty, u32)]) -> std::io::Result<()> {
    let mut t = termios::tcgetattr(slave)?;
    for (opcode, value) in modes {
        let on = *value != 0;
        match mode(opcode) {
            // 255 encodes a disabled character, which Linux represents as 0.
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
    termios::tcsetattr(slave, termios::SetArg::TCSANOW, &t)?;
    Ok(())
}

/// Returns the modes of a terminal in the encoding for the server; empty if `fd` is not a
/// terminal.
pub(crate) fn read_modes(fd: &impl AsFd) -> Vec<(Pty, u32)> {
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
