//! Runs a command in a container, independently of the client's protocol.

use std::time::Duration;

use rkube_runtime::{ExecSpec, Input, Runtime, RuntimeError, Session, SessionControl};
use rkube_streams::bounded::{self, Budget};
use tokio::io::AsyncWriteExt;

use crate::server::query::Query;

/// Timeout of the output of a command that has exited: a background process may hold it open.
const EXEC_OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of the output of an attached container that has exited.
const ATTACH_OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of bytes of a client's input that the command has not read. The connection then
/// stalls.
const MAX_INPUT_BYTES: u32 = 1 << 20;
/// Maximum number of a client's messages that the command has not read.
const MAX_INPUT_MESSAGES: usize = 256;

/// Returns a queue for a client's input.
pub(super) fn input_queue() -> (bounded::Sender, bounded::Receiver) {
    Budget::new(MAX_INPUT_BYTES).queue(MAX_INPUT_MESSAGES)
}

/// A command to run or a container to attach to, with the streams that the client requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub attach: bool,
    /// ID of the container.
    pub id: String,
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Command {
    /// Parses the parameters of `/exec` or `/attach`.
    ///
    /// # Errors
    ///
    /// Fails if no stream is requested, and for `/exec` without a command. The message is the
    /// response's body.
    pub(super) fn from_query(
        attach: bool,
        id: String,
        query: &Query,
    ) -> Result<Self, &'static str> {
        let tty = query.is_set(&["tty"]);
        let command = Self {
            attach,
            id,
            command: query.all("command").map(str::to_owned).collect(),
            stdin: query.is_set(&["input", "stdin"]),
            stdout: query.is_set(&["output", "stdout"]),
            // A terminal has a single output.
            stderr: query.is_set(&["error", "stderr"]) && !tty,
            tty,
        };
        if !command.stdin && !command.stdout && !command.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr");
        }
        if !attach && command.command.is_empty() {
            return Err("you must specify a command");
        }
        Ok(command)
    }

    /// Starts the command, or attaches to the container.
    pub(super) async fn start(&self, runtime: &Runtime) -> Result<Session, RuntimeError> {
        if self.attach {
            return runtime.attach(&self.id, self.stdin).await;
        }
        let spec = ExecSpec {
            command: self.command.clone(),
            tty: self.tty,
            stdin: self.stdin,
            ..Default::default()
        };
        runtime.exec(&self.id, spec).await
    }

    /// Sends SIGHUP to a command on a terminal when its client has disconnected.
    pub(super) fn hang_up(&self, control: &SessionControl) {
        if !self.attach && self.tty {
            // The command may have exited in the meantime.
            let _ = control.kill(libc::SIGHUP);
        }
    }

    /// Waits until the command has exited and `pumps` has copied its output.
    ///
    /// Returns the exit code, which is always 0 for an attached container.
    pub(super) async fn finish(
        &self,
        control: SessionControl,
        pumps: impl Future<Output = ()>,
    ) -> Result<i32, RuntimeError> {
        tokio::pin!(pumps);
        let wait = control.wait();
        tokio::pin!(wait);
        let code = tokio::select! {
            code = &mut wait => {
                let limit = if self.attach { ATTACH_OUTPUT_TIMEOUT } else { EXEC_OUTPUT_TIMEOUT };
                // Later output is lost, as upstream.
                let _ = tokio::time::timeout(limit, &mut pumps).await;
                code
            }
            () = &mut pumps => wait.await,
        };
        // The exit code of an attached container is not the result of the request.
        if self.attach { code.map(|_| 0) } else { code }
    }
}

/// Copies a client's input to the command; closes its stdin when `input` ends.
pub(super) async fn write_input(stdin: Option<Input>, mut input: bounded::Receiver) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = input.recv().await {
        if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
    // The command may have closed its stdin already.
    let _ = stdin.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(attach: bool, query: &str) -> Result<Command, &'static str> {
        Command::from_query(attach, "id".into(), &Query::parse(query))
    }

    #[test]
    fn exec_takes_a_command_and_streams() {
        let command = read(false, "command=ls&command=-l&input=1&output=1&error=1").unwrap();
        assert_eq!(command.command, ["ls", "-l"]);
        assert!(command.stdin && command.stdout && command.stderr && !command.tty);
        let command = read(false, "command=sh&stdin=true&stdout=true&stderr=true").unwrap();
        assert!(command.stdin && command.stdout && command.stderr);
    }

    #[test]
    fn a_terminal_has_no_standard_error() {
        let command = read(false, "command=sh&output=1&error=1&tty=1").unwrap();
        assert!(command.tty && command.stdout && !command.stderr);
        assert_eq!(
            read(false, "command=sh&error=1&tty=1"),
            Err("you must specify at least 1 of stdin, stdout, stderr")
        );
    }

    #[test]
    fn streams_and_commands_are_required() {
        let no_streams = Err("you must specify at least 1 of stdin, stdout, stderr");
        assert_eq!(read(false, "command=ls"), no_streams);
        assert_eq!(read(true, "input=0"), no_streams);
        assert_eq!(read(false, "output=1"), Err("you must specify a command"));
        assert!(read(true, "output=1").is_ok());
    }
}
