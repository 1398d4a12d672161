//! Sessions: the streams of a command, or of an attached container.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;

/// A stream to a process.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// A stream from a process.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// The streams of one `exec` or `attach`.
///
/// Move the streams into separate tasks; [`Session::control`] is a cheap handle for everything
/// else. Dropping `stdin` ends the process's input.
pub struct Session {
    /// Standard input, if it was requested.
    pub stdin: Option<Input>,
    /// Standard output, or the output of the terminal.
    pub stdout: Option<Output>,
    /// Standard error; absent with a terminal.
    pub stderr: Option<Output>,
    /// Handle for the terminal size, signals and the exit.
    pub control: SessionControl,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish_non_exhaustive()
    }
}

/// The operations that differ between `exec` and `attach` sessions.
pub(crate) trait SessionHandler: Send + Sync {
    /// Sets the terminal's size in characters.
    fn resize(&self, width: u16, height: u16) -> Result<()>;
    /// Sends a signal to the process.
    fn kill(&self, signal: i32) -> Result<()>;
}

/// The exit of a session's process, or the reason why it is unknown.
pub(crate) type Exit = Option<std::result::Result<i32, String>>;

/// A handle to resize a session's terminal, send signals and wait for the exit. Cheap to clone.
#[derive(Clone)]
pub struct SessionControl {
    pub(crate) handler: Arc<dyn SessionHandler>,
    pub(crate) exit: tokio::sync::watch::Receiver<Exit>,
}

impl SessionControl {
    /// Sets the terminal's size in characters. Does nothing without a terminal.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.handler.resize(width, height)
    }

    /// Sends `signal` to the process; for `attach`, to the container's first process.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.handler.kill(signal)
    }

    /// Waits for the exit of the process. Returns its exit code, or 128 plus the number of the
    /// signal that killed it. Fails if the connection to the shim is lost.
    pub async fn wait(&self) -> Result<i32> {
        let mut exit = self.exit.clone();
        let seen = exit.wait_for(Option::is_some).await;
        match seen.as_deref() {
            Ok(Some(Ok(code))) => Ok(*code),
            Ok(Some(Err(reason))) => Err(crate::error::RuntimeError::Invalid(reason.clone())),
            Ok(None) | Err(_) => Err(crate::error::RuntimeError::Invalid(
                "the connection to the container was lost".into(),
            )),
        }
    }
}
