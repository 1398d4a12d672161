//! `exec` and `attach` over SPDY: a stream for each of stdin, stdout, stderr, resizes and the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::session;
use crate::agent::Agent;
use crate::server::Answer;
use crate::server::remote::{self, Streams};

/// Versions, the best first. From v3 on sizes come, from v4 on the end is a `Status`.
const VERSIONS: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// How long a client may take to open its streams, the kubelet's limit.
const CREATION: Duration = Duration::from_secs(30);

/// Answers the upgrade and runs the command.
pub(crate) fn serve(agent: Arc<Agent>, streams: Streams, request: Request<Incoming>) -> Answer {
    super::upgrade(request, VERSIONS, |incoming, version| {
        run(agent, streams, incoming, version)
    })
}

async fn run(agent: Arc<Agent>, wanted: Streams, mut incoming: session::Streams, version: &str) {
    let resizes = wanted.tty && matches!(version, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let expected = 1 + [wanted.stdin, wanted.stdout, wanted.stderr, resizes]
        .into_iter()
        .filter(|w| *w)
        .count();
    let mut streams: HashMap<String, DuplexStream> = HashMap::new();
    let gather = async {
        while streams.len() < expected {
            let stream = incoming.recv().await?;
            let kind = stream
                .headers
                .get("streamtype")
                .cloned()
                .unwrap_or_default();
            streams.insert(kind, stream.io);
        }
        Some(())
    };
    if !matches!(tokio::time::timeout(CREATION, gather).await, Ok(Some(()))) {
        return;
    }
    let mut end = streams.remove("error");
    let result = match remote::begin(&agent, &wanted).await {
        Ok(session) => {
            let control = session.control.clone();
            if let Some(from) = streams.remove("stdin") {
                let (sender, receiver) = mpsc::unbounded_channel();
                tokio::spawn(remote::feed(session.stdin, receiver));
                tokio::spawn(take_input(from, sender));
            }
            if let Some(from) = streams.remove("resize") {
                let control = control.clone();
                tokio::spawn(take_sizes(from, control));
            }
            let out = pump(session.stdout, streams.remove("stdout"));
            let err = pump(session.stderr, streams.remove("stderr"));
            let pumps = async {
                tokio::join!(out, err);
            };
            tokio::select! {
                result = remote::finish(control.clone(), pumps, wanted.attach) => Some(result),
                // Nothing comes but the connection's end.
                _ = incoming.recv() => None,
            }
            .ok_or(control)
        }
        Err(e) => Ok(Err(e)),
    };
    let result = match result {
        Ok(result) => result,
        Err(control) => {
            if !wanted.attach && wanted.tty {
                let _ = control.kill(libc::SIGHUP);
            }
            return;
        }
    };
    if let Some(end) = &mut end {
        let text = match (&result, version) {
            (_, "v4.channel.k8s.io") => remote::status(&result).to_string(),
            (Ok(0), _) => String::new(),
            (Ok(code), _) => {
                format!(
                    "error executing remote command: command terminated with non-zero exit code: {code}"
                )
            }
            (Err(e), _) => format!("error executing remote command: {e}"),
        };
        let _ = end.write_all(text.as_bytes()).await;
        let _ = end.shutdown().await;
    }
    drop(end);
    // The client closes once it has read the end.
    let _ = tokio::time::timeout(Duration::from_secs(5), incoming.recv()).await;
}

async fn take_input(mut from: DuplexStream, to: mpsc::UnboundedSender<Bytes>) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to.send(Bytes::copy_from_slice(&buffer[..n])).is_err() {
            return;
        }
    }
}

/// Sizes come as JSON objects, one after the other.
async fn take_sizes(mut from: DuplexStream, control: rkube_runtime::SessionControl) {
    let mut pending = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        pending.extend_from_slice(&buffer[..n]);
        while let Some(at) = pending.iter().position(|b| *b == b'}') {
            let one: Vec<u8> = pending.drain(..=at).collect();
            if let Some((width, height)) = remote::parse_size(&one)
                && let Err(e) = control.resize(width, height)
            {
                tracing::debug!("resize: {e}");
            }
        }
        if pending.len() > 4096 {
            return;
        }
    }
}

async fn pump(from: Option<rkube_runtime::Output>, to: Option<DuplexStream>) {
    let Some(mut from) = from else { return };
    match to {
        Some(mut to) => {
            // Either end may go first.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
        None => {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
    }
}
