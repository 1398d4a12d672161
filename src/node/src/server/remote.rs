//! Remote commands: `exec` and `attach` over WebSocket or SPDY.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use rkube_runtime::{ExecSpec, Input, Output, RuntimeError, Session, SessionControl};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tracing::debug;

use super::query::Query;
use super::websocket::{self, Version, channel};
use super::{Answer, spdy, text};
use crate::agent::Agent;

/// Which streams a client wants.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    pub attach: bool,
    pub id: String,
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Answers `/exec` and `/attach`.
pub(crate) async fn serve(
    agent: Arc<Agent>,
    attach: bool,
    id: String,
    query: Query,
    mut request: Request<Incoming>,
) -> Answer {
    let tty = query.on(&["tty"]);
    let streams = Streams {
        attach,
        id,
        command: query.all("command").map(str::to_owned).collect(),
        stdin: query.on(&["input", "stdin"]),
        stdout: query.on(&["output", "stdout"]),
        // A terminal has one output.
        stderr: query.on(&["error", "stderr"]) && !tty,
        tty,
    };
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr",
        );
    }
    if !attach && streams.command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify a command");
    }
    let headers = request.headers().clone();
    if websocket::wanted(&headers) {
        let Some(version) = websocket::negotiate(&headers) else {
            return text(
                StatusCode::FORBIDDEN,
                "none of the offered WebSocket protocols is known here",
            );
        };
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    over_websocket(&agent, streams, websocket::open(upgraded).await, version).await;
                }
                Err(e) => debug!("upgrade: {e}"),
            }
        });
        return websocket::accept(&headers, version.name);
    }
    if spdy::wanted(&headers) {
        return spdy::command::serve(agent, streams, request);
    }
    text(
        StatusCode::BAD_REQUEST,
        "unable to upgrade: no upgrade was asked for",
    )
}

/// Starts the command, or attaches.
pub(crate) async fn begin(agent: &Agent, streams: &Streams) -> Result<Session, RuntimeError> {
    if streams.attach {
        return agent.runtime.attach(&streams.id, streams.stdin).await;
    }
    let spec = ExecSpec {
        command: streams.command.clone(),
        tty: streams.tty,
        stdin: streams.stdin,
        ..Default::default()
    };
    agent.runtime.exec(&streams.id, spec).await
}

/// The `Status` that ends a remote command.
pub(crate) fn status(result: &Result<i32, RuntimeError>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(e) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("error executing command in container: {e}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": e.to_string()}]},
            "code": 500,
        }),
    }
}

/// A size from a resize message.
pub(crate) fn parse_size(bytes: &[u8]) -> Option<(u16, u16)> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let field = |name: &str| u16::try_from(value.get(name)?.as_u64()?).ok();
    Some((field("Width")?, field("Height")?))
}

async fn over_websocket(
    agent: &Agent,
    streams: Streams,
    socket: websocket::Socket,
    version: Version,
) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Message>(16);
    let writer = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            let last = matches!(message, Message::Close(_));
            if sink.send(message).await.is_err() || last {
                break;
            }
        }
        let _ = sink.close().await;
    });
    // Tells the client that the connection stands, as upstream's servers do.
    let first = if streams.stdout {
        channel::STDOUT
    } else if streams.stderr {
        channel::STDERR
    } else {
        channel::ERROR
    };
    let _ = sender.send(version.encode(first, b"")).await;

    let result = match begin(agent, &streams).await {
        Ok(session) => {
            let control = session.control.clone();
            let (input, input_receiver) = mpsc::unbounded_channel::<Bytes>();
            let stdin = session.stdin.filter(|_| streams.stdin);
            let feeder = tokio::spawn(feed(stdin, input_receiver));
            let pumps = pumps(session.stdout, session.stderr, &streams, &sender, version);
            let resize = control.clone();
            let receive = async {
                let mut input = Some(input);
                while let Some(Ok(message)) = stream.next().await {
                    let data = match message {
                        Message::Binary(b) => b,
                        Message::Text(t) => t.into(),
                        Message::Close(_) => break,
                        _ => continue,
                    };
                    match version.decode(&data) {
                        Some((channel::STDIN, bytes)) => {
                            if let Some(input) = &input {
                                // A program that reads no more ends the feeder, not the session.
                                let _ = input.send(bytes.into());
                            }
                        }
                        Some((channel::RESIZE, bytes)) => {
                            if let Some((width, height)) = parse_size(&bytes)
                                && let Err(e) = resize.resize(width, height)
                            {
                                debug!("resize: {e}");
                            }
                        }
                        Some((channel::CLOSE, bytes))
                            if version.close && bytes.first() == Some(&channel::STDIN) =>
                        {
                            input = None;
                        }
                        _ => {}
                    }
                }
            };
            tokio::pin!(receive);
            let finish = finish(control.clone(), pumps, streams.attach);
            tokio::pin!(finish);
            let result = tokio::select! {
                result = &mut finish => Some(result),
                // The client left. A terminal's program learns it by a hang-up.
                () = &mut receive => None,
            };
            feeder.abort();
            match result {
                Some(result) => result,
                None => {
                    if !streams.attach && streams.tty {
                        let _ = control.kill(libc::SIGHUP);
                    }
                    writer.abort();
                    return;
                }
            }
        }
        Err(e) => Err(e),
    };
    let end = if version.status {
        status(&result).to_string()
    } else {
        match &result {
            Ok(0) => String::new(),
            Ok(code) => format!("command terminated with non-zero exit code: {code}"),
            Err(e) => e.to_string(),
        }
    };
    if !end.is_empty() {
        let _ = sender
            .send(version.encode(channel::ERROR, end.as_bytes()))
            .await;
    }
    let close = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let _ = sender.send(Message::Close(Some(close))).await;
    drop(sender);
    // The client answers the close; it is not waited for for ever.
    let limit = std::time::Duration::from_secs(5);
    let _ = tokio::time::timeout(limit, async {
        let _ = writer.await;
        while let Some(Ok(_)) = stream.next().await {}
    })
    .await;
}

/// Writes a client's input to the program; closes it when the client did.
pub(crate) async fn feed(stdin: Option<Input>, mut input: mpsc::UnboundedReceiver<Bytes>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = input.recv().await {
        if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
    let _ = stdin.shutdown().await;
}

fn pumps(
    stdout: Option<Output>,
    stderr: Option<Output>,
    streams: &Streams,
    to: &mpsc::Sender<Message>,
    version: Version,
) -> impl Future<Output = ()> + use<> {
    let pump = |from: Option<Output>, wanted: bool, number: u8| {
        let to = to.clone();
        async move {
            let Some(mut from) = from else { return };
            let mut buffer = vec![0; 32 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                if wanted && to.send(version.encode(number, &buffer[..n])).await.is_err() {
                    return;
                }
            }
        }
    };
    let out = pump(stdout, streams.stdout, channel::STDOUT);
    let err = pump(stderr, streams.stderr, channel::STDERR);
    async move {
        tokio::join!(out, err);
    }
}

/// The program's end, with all its output taken.
pub(crate) async fn finish(
    control: SessionControl,
    pumps: impl Future<Output = ()>,
    attach: bool,
) -> Result<i32, RuntimeError> {
    tokio::pin!(pumps);
    let wait = control.wait();
    tokio::pin!(wait);
    tokio::select! {
        result = &mut wait => {
            // A background process may hold the output open for ever.
            let limit = std::time::Duration::from_secs(if attach { 1 } else { 2 });
            let _ = tokio::time::timeout(limit, &mut pumps).await;
            // An attached container's exit code is not the command's result.
            if attach { result.map(|_| 0) } else { result }
        }
        () = &mut pumps => {
            let result = wait.await;
            if attach { result.map(|_| 0) } else { result }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_upstream_does() {
        assert_eq!(status(&Ok(0))["status"], "Success");
        let bad = status(&Ok(3));
        assert_eq!(bad["reason"], "NonZeroExitCode");
        assert_eq!(bad["details"]["causes"][0]["message"], "3");
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        assert_eq!(parse_size(b"{}"), None);
    }
}
