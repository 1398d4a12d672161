//! Remote commands over WebSocket.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use rkube_runtime::{Output, Runtime, RuntimeError, SessionControl};
use rkube_streams::bounded;
use rkube_streams::remote_command::exit_status;
use rkube_streams::websocket::{CommandEvent, Message, Socket, Version, channel, normal_close};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tracing::debug;

use super::command::{Command, input_queue, write_input};

/// Timeout of the client's response to the server's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Size of the read buffers for output, in bytes.
const CHUNK_BYTES: usize = 32 << 10;

/// Runs a command for the client at the other end of `socket`.
pub(super) async fn run(runtime: &Runtime, command: Command, socket: Socket, version: Version) {
    let (sink, mut messages) = socket.split();
    let (sender, outgoing) = mpsc::channel(16);
    let writer = tokio::spawn(write_messages(sink, outgoing));
    // An empty message signals an established connection, as upstream's servers do.
    let first = if command.stdout {
        channel::STDOUT
    } else if command.stderr {
        channel::STDERR
    } else {
        channel::ERROR
    };
    // A disconnected client is detected below.
    let _ = sender.send(version.encode(first, b"")).await;

    let Some(result) = run_session(runtime, &command, &mut messages, &sender, version).await else {
        writer.abort();
        return;
    };
    let end = end_message(&result, version);
    if !end.is_empty() {
        let _ = sender
            .send(version.encode(channel::ERROR, end.as_bytes()))
            .await;
    }
    let _ = sender.send(normal_close()).await;
    drop(sender);
    // A client that does not close in time is disconnected.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
        let _ = writer.await;
        while let Some(Ok(_)) = messages.next().await {}
    })
    .await;
}

/// Sends messages until the close frame or the end of `outgoing`.
async fn write_messages(
    mut sink: SplitSink<Socket, Message>,
    mut outgoing: mpsc::Receiver<Message>,
) {
    while let Some(message) = outgoing.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || last {
            break;
        }
    }
    // The connection may be closed already.
    let _ = sink.close().await;
}

/// Runs the command; `None` if the client disconnects before it exits.
async fn run_session(
    runtime: &Runtime,
    command: &Command,
    messages: &mut SplitStream<Socket>,
    sender: &mpsc::Sender<Message>,
    version: Version,
) -> Option<Result<i32, RuntimeError>> {
    let session = match command.start(runtime).await {
        Ok(session) => session,
        Err(e) => return Some(Err(e)),
    };
    let control = session.control;
    let (input, input_receiver) = input_queue();
    let stdin = session.stdin.filter(|_| command.stdin);
    let feeder = tokio::spawn(write_input(stdin, input_receiver));
    let pumps = {
        let (sender, command) = (sender.clone(), command.clone());
        async move {
            tokio::join!(
                pump(
                    session.stdout,
                    command.stdout,
                    channel::STDOUT,
                    &sender,
                    version
                ),
                pump(
                    session.stderr,
                    command.stderr,
                    channel::STDERR,
                    &sender,
                    version
                ),
            );
        }
    };
    let demux = Demux {
        version,
        input: Some(input),
        control: control.clone(),
    };
    let result = tokio::select! {
        result = command.finish(control.clone(), pumps) => Some(result),
        () = demux.run(messages) => None,
    };
    feeder.abort();
    if result.is_none() {
        command.hang_up(&control);
    }
    result
}

/// Dispatches the client's messages to the command's stdin and terminal.
struct Demux {
    version: Version,
    /// `None` once the client has closed stdin.
    input: Option<bounded::Sender>,
    control: SessionControl,
}

impl Demux {
    /// Dispatches messages; returns when the client disconnects.
    async fn run(mut self, messages: &mut SplitStream<Socket>) {
        while let Some(Ok(message)) = messages.next().await {
            match self.version.command_event(message) {
                CommandEvent::Stdin(bytes) => {
                    if let Some(input) = &self.input {
                        // Waits for a command that reads slowly, so that the client does too. If
                        // the command no longer reads stdin, the session continues.
                        let _ = input.send(bytes).await;
                    }
                }
                CommandEvent::CloseStdin => self.input = None,
                CommandEvent::Resize(size) => {
                    if let Err(e) = self.control.resize(size.width, size.height) {
                        debug!("resize: {e}");
                    }
                }
                CommandEvent::Ignored => {}
                CommandEvent::Disconnected => return,
            }
        }
    }
}

/// Copies output to the client; discards it if the client did not request it.
async fn pump(
    output: Option<Output>,
    wanted: bool,
    channel: u8,
    sender: &mpsc::Sender<Message>,
    version: Version,
) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = output.read(&mut buffer).await {
        if !wanted {
            continue;
        }
        let message = version.encode(channel, &buffer[..n]);
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

/// Returns the final content of the error channel; empty for a success in versions without
/// `Status`.
fn end_message(result: &Result<i32, RuntimeError>, version: Version) -> String {
    if version.status {
        return exit_status(result).to_string();
    }
    match result {
        Ok(0) => String::new(),
        Ok(code) => format!("command terminated with non-zero exit code: {code}"),
        Err(e) => e.to_string(),
    }
}
