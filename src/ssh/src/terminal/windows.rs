//! The terminal of this process on Windows: a console of Windows 10 or newer, which supports
//! VT sequences if they are enabled.

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

/// Interval between checks of the size. A console reports changes only as input events.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

fn input() -> HANDLE {
    // SAFETY: returns a handle of the process and takes no pointers.
    unsafe { GetStdHandle(STD_INPUT_HANDLE) }
}

fn output() -> HANDLE {
    // SAFETY: returns a handle of the process and takes no pointers.
    unsafe { GetStdHandle(STD_OUTPUT_HANDLE) }
}

/// Returns columns and rows of the window; `None` if standard output is not a console.
pub(crate) fn size() -> Option<(u32, u32)> {
    let mut info = CONSOLE_SCREEN_BUFFER_INFO::default();
    // SAFETY: writes one structure of the declared type; fails for a handle that is not a
    // console.
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

/// Returns no modes: a console has no equivalent, so the node's defaults apply.
pub(crate) fn modes() -> Vec<(Pty, u32)> {
    Vec::new()
}

/// Reads standard input as UTF-8.
pub(crate) fn read(buffer: &mut [u8]) -> std::io::Result<usize> {
    std::io::stdin().read(buffer)
}

/// Returns the mode of a handle; `None` if it is not a console.
fn mode(of: HANDLE) -> Option<CONSOLE_MODE> {
    let mut mode = 0;
    // SAFETY: writes one number; fails for a handle that is not a console.
    (unsafe { GetConsoleMode(of, &raw mut mode) } != 0).then_some(mode)
}

fn set_mode(of: HANDLE, mode: CONSOLE_MODE) -> std::io::Result<()> {
    // SAFETY: passes numbers only; fails for a handle that is not a console.
    match unsafe { SetConsoleMode(of, mode) } {
        0 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Puts the console in raw mode until dropped. Does nothing if standard input is not a console.
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
        // Constructed first, so that an error in the next steps restores the mode.
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
    #[expect(clippy::unnecessary_wraps, reason = "same signature as on Unix")]
    pub(crate) fn follow() -> std::io::Result<Self> {
        Ok(Self { last: size() })
    }

    /// Waits for the next change.
    pub(crate) async fn next(&mut self) {
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let now = size();
            if now != self.last {
                self.last = now;
                return;
            }
        }
    }
}
