//! Remote commands over SPDY: one stream each for stdin, stdout, stderr, resizes and the result.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use rkube_runtime::{Output, Runtime, RuntimeError, SessionControl};
use rkube_streams::remote_command::{TerminalSize, exit_status};
use rkube_streams::{UpgradeError, bounded, spdy};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::command::{Command, input_queue, write_input};

/// First version whose result is a `Status`.
const V4: &str = "v4.channel.k8s.io";
/// First version with a resize stream.
const V3: &str = "v3.channel.k8s.io";
/// Supported versions in order of preference.
const VERSIONS: &[&str] = &[V4, V3, "v2.channel.k8s.io", "channel.k8s.io"];
/// Timeout for a client to open its streams (the kubelet's default).
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for the client to close the connection after the result.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of a resize message, in bytes.
const MAX_RESIZE_BYTES: usize = 4096;
/// Size of the read buffer for stdin, in bytes.
const CHUNK_BYTES: usize = 32 << 10;

/// Upgrades the connection and runs the command.
pub(super) fn serve(
    runtime: Runtime,
    command: Command,
    request: Request<Incoming>,
) -> Result<Response<()>, UpgradeError> {
    spdy::upgrade(request, VERSIONS, |incoming, version| {
        run(runtime, command, incoming, version)
    })
}

async fn run(runtime: Runtime, command: Command, mut incoming: spdy::Streams, version: &str) {
    let mut streams = HashMap::new();
    let gather = gather(
        &mut incoming,
        expected_streams(&command, version),
        &mut streams,
    );
    if !matches!(
        tokio::time::timeout(STREAM_CREATION_TIMEOUT, gather).await,
        Ok(Some(()))
    ) {
        return;
    }
    let error = streams.remove("error");
    let Some(result) = run_session(&runtime, &command, &mut incoming, streams).await else {
        return;
    };
    if let Some(mut error) = error {
        // The client may have disconnected.
        let _ = error
            .write_all(end_message(&result, version).as_bytes())
            .await;
        let _ = error.shutdown().await;
    }
    // The client closes the connection once it has read the result.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, incoming.recv()).await;
}

/// Returns the number of streams that the client will open.
fn expected_streams(command: &Command, version: &str) -> usize {
    let resizes = command.tty && matches!(version, V4 | V3);
    let wanted = [command.stdin, command.stdout, command.stderr, resizes];
    1 + wanted.into_iter().filter(|w| *w).count()
}

/// Collects streams by type; `None` if the connection ends before all are open.
async fn gather(
    incoming: &mut spdy::Streams,
    expected: usize,
    streams: &mut HashMap<String, DuplexStream>,
) -> Option<()> {
    while streams.len() < expected {
        let stream = incoming.recv().await?;
        let kind = stream.headers.get("streamtype").cloned();
        streams.insert(kind.unwrap_or_default(), stream.io);
    }
    Some(())
}

/// Runs the command; `None` if the client disconnects before it exits.
async fn run_session(
    runtime: &Runtime,
    command: &Command,
    incoming: &mut spdy::Streams,
    mut streams: HashMap<String, DuplexStream>,
) -> Option<Result<i32, RuntimeError>> {
    let session = match command.start(runtime).await {
        Ok(session) => session,
        Err(e) => return Some(Err(e)),
    };
    let control = session.control;
    if let Some(from) = streams.remove("stdin") {
        let (sender, receiver) = input_queue();
        tokio::spawn(write_input(session.stdin, receiver));
        tokio::spawn(read_input(from, sender));
    }
    if let Some(from) = streams.remove("resize") {
        tokio::spawn(read_sizes(from, control.clone()));
    }
    let (stdout, stderr) = (streams.remove("stdout"), streams.remove("stderr"));
    let pumps = async {
        tokio::join!(pump(session.stdout, stdout), pump(session.stderr, stderr));
    };
    tokio::select! {
        result = command.finish(control.clone(), pumps) => Some(result),
        // All streams are open, so the channel can only report the end of the connection.
        _ = incoming.recv() => {
            command.hang_up(&control);
            None
        }
    }
}

/// Returns the final content of the error stream.
fn end_message(result: &Result<i32, RuntimeError>, version: &str) -> String {
    match (result, version) {
        (_, V4) => exit_status(result).to_string(),
        (Ok(0), _) => String::new(),
        (Ok(code), _) => format!(
            "error executing remote command: command terminated with non-zero exit code: {code}"
        ),
        (Err(e), _) => format!("error executing remote command: {e}"),
    }
}

async fn read_input(mut from: DuplexStream, to: bounded::Sender) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
            return;
        }
    }
}

/// Applies resize messages, which are concatenated JSON objects, to the terminal.
async fn read_sizes(mut from: DuplexStream, control: SessionControl) {
    let mut pending = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        pending.extend_from_slice(&buffer[..n]);
        for size in take_sizes(&mut pending) {
            if let Err(e) = control.resize(size.width, size.height) {
                tracing::debug!("resize: {e}");
            }
        }
        if pending.len() > MAX_RESIZE_BYTES {
            return;
        }
    }
}

/// Removes the complete messages from `pending` and returns the valid sizes.
fn take_sizes(pending: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut sizes = Vec::new();
    while let Some(end) = pending.iter().position(|b| *b == b'}') {
        let message: Vec<u8> = pending.drain(..=end).collect();
        sizes.extend(TerminalSize::parse(&message));
    }
    sizes
}

async fn pump(from: Option<Output>, to: Option<DuplexStream>) {
    let Some(mut from) = from else { return };
    match to {
        Some(mut to) => {
            // Either end may close first.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
        None => {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::query::Query;

    fn command(query: &str) -> Command {
        Command::from_query(true, "id".into(), &Query::parse(query)).unwrap()
    }

    #[test]
    fn streams_are_counted_by_version() {
        for (query, version, expected) in [
            ("output=1", V4, 2),
            ("input=1&output=1&error=1", V4, 4),
            ("input=1&output=1&tty=1", V4, 4),
            ("input=1&output=1&tty=1", V3, 4),
            ("input=1&output=1&tty=1", "v2.channel.k8s.io", 3),
        ] {
            assert_eq!(
                expected_streams(&command(query), version),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn ends_depend_on_the_version() {
        assert_eq!(end_message(&Ok(0), V3), "");
        assert_eq!(
            end_message(&Ok(2), V3),
            "error executing remote command: command terminated with non-zero exit code: 2"
        );
        assert!(end_message(&Ok(0), V4).contains("Success"));
    }

    #[test]
    fn sizes_may_come_in_parts() {
        let mut pending = br#"{"Width":80,"Height":24}{}{"Width":81,"#.to_vec();
        let widths = |sizes: Vec<TerminalSize>| sizes.iter().map(|s| s.width).collect::<Vec<_>>();
        assert_eq!(widths(take_sizes(&mut pending)), [80]);
        pending.extend_from_slice(br#""Height":25}"#);
        assert_eq!(widths(take_sizes(&mut pending)), [81]);
        assert!(pending.is_empty());
    }
}
