//! `port-forward`: connections into a pod, over SPDY in a WebSocket, over SPDY, or
//! over the older channels of a WebSocket.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::query::Query;
use super::spdy::session;
use super::websocket::{self, Version};
use super::{Answer, spdy, text};
use crate::agent::Agent;
use crate::kinds::*;
use crate::pods::Snapshot;

/// What SPDY streams carry here.
const PROTOCOL: &str = "portforward.k8s.io";
/// SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Answers `/portForward`.
pub(crate) async fn serve(
    agent: Arc<Agent>,
    pod: Snapshot,
    query: Query,
    mut request: Request<Incoming>,
) -> Answer {
    let Some(sandbox) = pod.sandbox.clone() else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {} has no sandbox", pod.pod.full_name()),
        );
    };
    let target = Target {
        agent,
        sandbox,
        pod: pod.pod.uid().to_owned(),
    };
    let headers = request.headers().clone();
    if websocket::wanted(&headers) {
        let tunnel = websocket::offers(&headers).iter().any(|o| o == TUNNEL);
        let upgrade = hyper::upgrade::on(&mut request);
        if tunnel {
            tokio::spawn(async move {
                match upgrade.await {
                    Ok(upgraded) => {
                        let socket = websocket::open(upgraded).await;
                        let (streams, connect) = session::prepare();
                        connect.start(tunneled(socket));
                        forward(target, streams).await;
                    }
                    Err(e) => debug!("upgrade: {e}"),
                }
            });
            return websocket::accept(&headers, TUNNEL);
        }
        let Some(version) = websocket::negotiate(&headers) else {
            return text(
                StatusCode::FORBIDDEN,
                "none of the offered WebSocket protocols is known here",
            );
        };
        let ports: Vec<u16> = query
            .all("port")
            .chain(query.all("ports"))
            .flat_map(|p| p.split(','))
            .filter_map(|p| p.parse().ok())
            .collect();
        if ports.is_empty() || ports.len() > 100 {
            return text(
                StatusCode::BAD_REQUEST,
                "query parameter \"port\" is required",
            );
        }
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    channels(target, websocket::open(upgraded).await, version, ports).await;
                }
                Err(e) => debug!("upgrade: {e}"),
            }
        });
        return websocket::accept(&headers, version.name);
    }
    if spdy::wanted(&headers) {
        return spdy::upgrade(request, &[PROTOCOL], |streams, _| forward(target, streams));
    }
    text(
        StatusCode::BAD_REQUEST,
        "unable to upgrade: no upgrade was asked for",
    )
}

/// The bytes of a WebSocket's binary messages as one stream.
fn tunneled(socket: websocket::Socket) -> DuplexStream {
    let (mine, theirs) = tokio::io::duplex(64 << 10);
    let (mut read, mut write) = tokio::io::split(mine);
    let (mut sink, mut stream) = socket.split();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                _ => continue,
            };
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            let message = Message::binary(Bytes::copy_from_slice(&buffer[..n]));
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    theirs
}

#[derive(Clone)]
struct Target {
    agent: Arc<Agent>,
    sandbox: String,
    pod: String,
}

impl Target {
    async fn connect(&self, port: u16) -> Result<tokio::net::TcpStream, String> {
        let runtime = &self.agent.runtime;
        runtime
            .connect_sandbox(&self.sandbox, port)
            .await
            .map_err(|e| {
                format!(
                    "error forwarding port {port} to pod {}, uid : {e}",
                    self.pod
                )
            })
    }
}

/// Pairs a request's error and data streams, and serves each pair.
async fn forward(target: Target, mut streams: session::Streams) {
    let mut halves: HashMap<String, HashMap<String, session::Stream>> = HashMap::new();
    while let Some(stream) = streams.recv().await {
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let kind = header("streamtype");
        let mut request = header("requestid");
        if request.is_empty() {
            // Old clients name no request; there is one at a time a port.
            request = format!("port {}", header("port"));
        }
        let pair = halves.entry(request.clone()).or_default();
        pair.insert(kind, stream);
        if pair.contains_key("error") && pair.contains_key("data") {
            let Some(mut pair) = halves.remove(&request) else {
                continue;
            };
            if let (Some(error), Some(data)) = (pair.remove("error"), pair.remove("data")) {
                tokio::spawn(serve_pair(target.clone(), error, data));
            }
        }
    }
}

async fn serve_pair(target: Target, mut error: session::Stream, mut data: session::Stream) {
    let port = data.headers.get("port").and_then(|p| p.parse().ok());
    let done = match port {
        None => Err("unable to parse the port".to_owned()),
        Some(port) => match target.connect(port).await {
            Ok(mut tcp) => {
                // Either side may hang up; that is how a connection ends.
                if let Err(e) = tokio::io::copy_bidirectional(&mut data.io, &mut tcp).await {
                    debug!("port-forward: {e}");
                }
                Ok(())
            }
            Err(e) => Err(e),
        },
    };
    if let Err(message) = done {
        let _ = error.io.write_all(message.as_bytes()).await;
    }
    let _ = error.io.shutdown().await;
    let _ = data.io.shutdown().await;
}

/// The older protocol: for each port a data and an error channel, each beginning
/// with the port's number.
async fn channels(target: Target, socket: websocket::Socket, version: Version, ports: Vec<u16>) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Message>(16);
    let writer = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    let mut inputs: HashMap<u8, mpsc::Sender<Bytes>> = HashMap::new();
    for (i, port) in ports.into_iter().enumerate() {
        let Ok(data) = u8::try_from(i * 2) else { break };
        let (input, receiver) = mpsc::channel(64);
        inputs.insert(data, input);
        tokio::spawn(serve_channel(
            target.clone(),
            port,
            data,
            version,
            receiver,
            sender.clone(),
        ));
    }
    drop(sender);
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(b) => b,
            Message::Text(t) => t.into(),
            Message::Close(_) => break,
            _ => continue,
        };
        if let Some((channel, bytes)) = version.decode(&bytes)
            && let Some(input) = inputs.get(&channel)
        {
            // A connection that has ended takes no more.
            let _ = input.send(bytes.into()).await;
        }
    }
    drop(inputs);
    writer.abort();
}

async fn serve_channel(
    target: Target,
    port: u16,
    data: u8,
    version: Version,
    mut input: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Message>,
) {
    for channel in [data, data + 1] {
        let hello = version.encode(channel, &port.to_le_bytes());
        if out.send(hello).await.is_err() {
            return;
        }
    }
    let tcp = match target.connect(port).await {
        Ok(tcp) => tcp,
        Err(e) => {
            let _ = out.send(version.encode(data + 1, e.as_bytes())).await;
            return;
        }
    };
    let (mut read, mut write) = tcp.into_split();
    let upload = async {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    // The end of what the pod sends ends the WebSocket, as soon as this lets go
    // of its sender: the protocol has no other word for it.
    let download = async move {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            if out.send(version.encode(data, &buffer[..n])).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(upload, download);
}
