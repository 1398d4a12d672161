//! This process's terminal, a console of Windows 10 or newer, which understands
//! the sequences of other terminals when it is asked to.

use std::io::Read;
use std::time::Duration;

use russh::Pty;
use tracing::debug;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Console::{
    CONSOLE_MODE, CONSOLE_SCREEN_BUFFER_INFO, DISABLE_NEWLINE_AUTO_RETURN, ENABLE_ECHO_INPUT,
    ENABLE_LINE_INPUT, ENABLE_PROCESSED_INPUT, ENABLE_PROCESSED_OUTPUT,
    ENABLE_VIRTUAL_TERMINAL_INPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING, GetConsoleMode,
    GetConsoleScreenBufferInfo, GetStdHandle, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetConsoleMode,
};

use crate::SshError;

/// How often the size is looked at: a console tells of it among its keys only.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn input() -> HANDLE {
    // SAFETY: asks for a handle of the process; nothing is passed.
    unsafe { GetStdHandle(STD_INPUT_HANDLE) }
}

fn output() -> HANDLE {
    // SAFETY: asks for a handle of the process; nothing is passed.
    unsafe { GetStdHandle(STD_OUTPUT_HANDLE) }
}

/// Columns and rows of the window; `None` when standard output is no console.
pub(crate) fn size() -> Option<(u32, u32)> {
    let mut info = CONSOLE_SCREEN_BUFFER_INFO::default();
    // SAFETY: one structure of the expected kind is written; a handle that is no
    // console's is refused.
    if unsafe { GetConsoleScreenBufferInfo(output(), &raw mut info) } == 0 {
        return None;
    }
    let window = info.srWindow;
    let count = |from: i16, to: i16| u32::try_from(i32::from(to) - i32::from(from) + 1).ok();
    Some((
        count(window.Left, window.Right)?,
        count(window.Top, window.Bottom)?,
    ))
}

/// A console has no modes of the kind that SSH knows: the node's own are good.
pub(crate) fn modes() -> Vec<(Pty, u32)> {
    Vec::new()
}

/// Reads standard input, as UTF-8.
pub(crate) fn read(buffer: &mut [u8]) -> std::io::Result<usize> {
    std::io::stdin().read(buffer)
}

/// A handle's mode; `None` when it is no console's.
fn mode(of: HANDLE) -> Option<CONSOLE_MODE> {
    let mut mode = 0;
    // SAFETY: one number is written; a handle that is no console's is refused.
    (unsafe { GetConsoleMode(of, &raw mut mode) } != 0).then_some(mode)
}

fn set_mode(of: HANDLE, mode: CONSOLE_MODE) -> std::io::Result<()> {
    // SAFETY: passes numbers only; a handle that is no console's is refused.
    match unsafe { SetConsoleMode(of, mode) } {
        0 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The console in raw mode until dropped; nothing when standard input is none.
pub(crate) struct Raw {
    input: Option<CONSOLE_MODE>,
    output: Option<CONSOLE_MODE>,
}

impl Raw {
    pub(crate) fn enter() -> Result<Self, SshError> {
        let Some(typed) = mode(input()) else {
            return Ok(Self {
                input: None,
                output: None,
            });
        };
        // Restores what was changed, also when the next step fails.
        let mut raw = Self {
            input: Some(typed),
            output: None,
        };
        let lines = ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT | ENABLE_PROCESSED_INPUT;
        set_mode(input(), typed & !lines | ENABLE_VIRTUAL_TERMINAL_INPUT)
            .map_err(SshError::io("setting the console's input mode"))?;
        if let Some(shown) = mode(output()) {
            raw.output = Some(shown);
            let sequences = ENABLE_PROCESSED_OUTPUT
                | ENABLE_VIRTUAL_TERMINAL_PROCESSING
                | DISABLE_NEWLINE_AUTO_RETURN;
            set_mode(output(), shown | sequences)
                .map_err(SshError::io("setting the console's output mode"))?;
        }
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        for (handle, saved) in [(input(), self.input), (output(), self.output)] {
            if let Some(saved) = saved
                && let Err(e) = set_mode(handle, saved)
            {
                debug!("restoring the console: {e}");
            }
        }
    }
}

/// Changes of the window's size.
pub(crate) struct Resizes {
    last: Option<(u32, u32)>,
}

impl Resizes {
    #[allow(clippy::unnecessary_wraps)] // As where a signal is listened for.
    pub(crate) fn follow() -> std::io::Result<Self> {
        Ok(Self { last: size() })
    }

    /// Resolves at the next one.
    pub(crate) async fn next(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = size();
            if now != self.last {
                self.last = now;
                return;
            }
        }
    }
}
