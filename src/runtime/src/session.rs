//! The streams of a command, or of a container one is attached to.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;

/// Bytes towards a process.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Bytes from a process.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// The streams of one `exec` or `attach`.
///
/// Take the streams out and move them into tasks; [`Session::control`] is a
/// cheap handle for everything else. Dropping `stdin` ends the process's input.
pub struct Session {
    /// Standard input, when it was asked for.
    pub stdin: Option<Input>,
    /// Standard output; the terminal's output when there is one.
    pub stdout: Option<Output>,
    /// Standard error; absent with a terminal.
    pub stderr: Option<Output>,
    /// Size, signals and the end.
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

/// The operations of a session's control, for `exec` and for `attach`.
pub(crate) trait Controller: Send + Sync {
    /// Sets the terminal's size in characters.
    fn resize(&self, width: u16, height: u16) -> Result<()>;
    /// Sends a signal to the process.
    fn kill(&self, signal: i32) -> Result<()>;
}

/// The exit of a session's process, or the reason why it is unknown.
pub(crate) type Exit = Option<std::result::Result<i32, String>>;

/// Sets a terminal's size, sends signals, waits for the end. Cheap to clone.
#[derive(Clone)]
pub struct SessionControl {
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) exit: tokio::sync::watch::Receiver<Exit>,
}

impl SessionControl {
    /// Sets the terminal's size in characters; nothing without a terminal.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.controller.resize(width, height)
    }

    /// Sends `signal` to the process (for `attach`: to the container's first).
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.controller.kill(signal)
    }

    /// Waits for the process to end and returns its exit code (128 + the signal
    /// for a killed one). For `attach`, also returns when the shim detaches.
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
