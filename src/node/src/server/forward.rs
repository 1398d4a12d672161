//! `port-forward`: connections into a pod over SPDY, over SPDY inside a WebSocket, or over the
//! older channel protocol of a WebSocket.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use rkube_runtime::Runtime;
use rkube_streams::spdy;
use rkube_streams::websocket::{self, Message, Payload, Socket, Version, message_bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::answer::{Answer, text, upgraded};
use super::query::Query;
use crate::kinds::*;
use crate::pods::table::Snapshot;

/// SPDY stream protocol of `port-forward`.
const PROTOCOL: &str = "portforward.k8s.io";
/// WebSocket sub-protocol for SPDY inside a WebSocket.
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Maximum number of ports per request.
const MAX_PORTS: usize = 100;
/// Timeout for a client to open the second stream of a connection (the kubelet's default).
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Size of a connection's read buffer, in bytes.
const CHUNK_BYTES: usize = 32 << 10;

/// Serves `/portForward`.
pub(crate) fn serve(
    runtime: Runtime,
    pod: &Snapshot,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let Some(sandbox) = pod.sandbox.clone() else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {} has no sandbox", pod.pod.full_name()),
        );
    };
    let target = Target {
        runtime,
        sandbox,
        pod: pod.pod.uid().to_owned(),
    };
    if websocket::is_upgrade(request.headers()) {
        return over_websocket(target, query, request);
    }
    if spdy::is_upgrade(request.headers()) {
        return upgraded(spdy::upgrade(request, &[PROTOCOL], |streams, _| {
            forward(target, streams)
        }));
    }
    text(
        StatusCode::BAD_REQUEST,
        "unable to upgrade: no upgrade was asked for",
    )
}

fn over_websocket(target: Target, query: &Query, mut request: Request<Incoming>) -> Answer {
    let headers = request.headers().clone();
    if websocket::offered_protocols(&headers).contains(&TUNNEL_PROTOCOL) {
        return upgrade(
            &mut request,
            &headers,
            TUNNEL_PROTOCOL,
            move |socket| async move {
                let (streams, session) = spdy::prepare();
                session.start(websocket::tunnel(socket));
                forward(target, streams).await;
            },
        );
    }
    let Some(version) = websocket::negotiate(&headers) else {
        return text(
            StatusCode::FORBIDDEN,
            "none of the offered WebSocket protocols is known here",
        );
    };
    let ports = requested_ports(query);
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return text(
            StatusCode::BAD_REQUEST,
            "query parameter \"port\" is required",
        );
    }
    upgrade(
        &mut request,
        &headers,
        version.name,
        move |socket| async move {
            channels(target, socket, version, ports).await;
        },
    )
}

/// Upgrades the connection to a WebSocket and calls `serve` with it.
fn upgrade<F>(
    request: &mut Request<Incoming>,
    headers: &HeaderMap,
    protocol: &str,
    serve: impl FnOnce(Socket) -> F + Send + 'static,
) -> Answer
where
    F: Future<Output = ()> + Send,
{
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => serve(websocket::open(connection).await).await,
            Err(e) => debug!("upgrade: {e}"),
        }
    });
    upgraded(websocket::accept(headers, protocol))
}

/// Returns the requested ports: comma-separated numbers in `port` or `ports`.
fn requested_ports(query: &Query) -> Vec<u16> {
    query
        .all("port")
        .chain(query.all("ports"))
        .flat_map(|p| p.split(','))
        .filter_map(|p| p.parse().ok())
        .collect()
}

/// The pod that connections are forwarded to.
#[derive(Clone)]
struct Target {
    runtime: Runtime,
    sandbox: String,
    /// UID of the pod.
    pod: String,
}

impl Target {
    async fn connect(&self, port: u16) -> Result<tokio::net::TcpStream, String> {
        self.runtime
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

/// Streams of connections of which only one stream is open yet.
#[derive(Default)]
struct HalfOpen {
    /// By request, with the time at which the first stream was opened.
    pairs: HashMap<String, (Instant, HashMap<String, spdy::Stream>)>,
}

impl HalfOpen {
    /// Adds a stream; returns the error and the data stream of its connection once both are open.
    fn add(&mut self, stream: spdy::Stream, now: Instant) -> Option<(spdy::Stream, spdy::Stream)> {
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let kind = header("streamtype");
        let mut request = header("requestid");
        if request.is_empty() {
            // Old clients send no request ID and have at most one connection per port at a time.
            request = format!("port {}", header("port"));
        }
        let entry = self.pairs.entry(request.clone());
        let (_, pair) = entry.or_insert_with(|| (now, HashMap::new()));
        pair.insert(kind, stream);
        if !(pair.contains_key("error") && pair.contains_key("data")) {
            return None;
        }
        let (_, mut pair) = self.pairs.remove(&request)?;
        Some((pair.remove("error")?, pair.remove("data")?))
    }

    /// Returns when the oldest connection has to be complete.
    fn deadline(&self) -> Option<Instant> {
        let first = self.pairs.values().map(|(opened, _)| *opened).min();
        first.map(|opened| opened + STREAM_CREATION_TIMEOUT)
    }

    /// Ends the streams of connections that were not complete in time.
    fn expire(&mut self, now: Instant) {
        self.pairs
            .retain(|_, (opened, _)| now < *opened + STREAM_CREATION_TIMEOUT);
    }
}

/// Serves each forwarded connection once both its error and its data stream are open.
async fn forward(target: Target, mut streams: spdy::Streams) {
    let mut half_open = HalfOpen::default();
    loop {
        let deadline = half_open.deadline();
        let expiry = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            stream = streams.recv() => stream,
            () = expiry => {
                half_open.expire(Instant::now());
                continue;
            }
        };
        let Some(stream) = stream else { return };
        if let Some((error, data)) = half_open.add(stream, Instant::now()) {
            tokio::spawn(serve_pair(target.clone(), error, data));
        }
    }
}

/// Connects one data stream to a port of the pod; reports an error on the error stream.
async fn serve_pair(target: Target, mut error: spdy::Stream, mut data: spdy::Stream) {
    let port = data.headers.get("port").and_then(|p| p.parse().ok());
    let done = match port {
        None => Err("unable to parse the port".to_owned()),
        Some(port) => match target.connect(port).await {
            Ok(mut tcp) => {
                // A disconnect of either side is the normal end of a connection.
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

/// Serves the channel protocol: a data and an error channel per port.
///
/// Each channel starts with the port number as two little-endian bytes.
async fn channels(target: Target, socket: Socket, version: Version, ports: Vec<u16>) {
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
        let bytes = match message_bytes(message) {
            Some(Payload::Data(bytes)) => bytes,
            Some(Payload::Close) => break,
            None => continue,
        };
        if let Some((channel, bytes)) = version.decode(&bytes)
            && let Some(input) = inputs.get(&channel)
        {
            // The connection to the pod may have ended.
            let _ = input.send(bytes.into()).await;
        }
    }
    drop(inputs);
    writer.abort();
}

/// Serves one port; `data` is its data channel, and the next number its error channel.
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
    // When the pod closes its connection, this sender is dropped. The WebSocket closes once all
    // senders are: the protocol cannot close a single channel.
    let download = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            if out.send(version.encode(data, &buffer[..n])).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(upload, download);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(headers: &[(&str, &str)]) -> spdy::Stream {
        spdy::Stream {
            headers: headers
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            io: tokio::io::duplex(1).0,
        }
    }

    #[test]
    fn connections_have_two_streams_in_time() {
        let start = Instant::now();
        let mut half_open = HalfOpen::default();
        assert_eq!(half_open.deadline(), None);
        let error = stream(&[("streamtype", "error"), ("requestid", "1")]);
        assert!(half_open.add(error, start).is_none());
        let old = stream(&[("streamtype", "data"), ("port", "80")]);
        assert!(half_open.add(old, start + Duration::from_secs(1)).is_none());
        let data = stream(&[("streamtype", "data"), ("requestid", "1"), ("port", "80")]);
        let (error, data) = half_open.add(data, start).unwrap();
        assert_eq!(error.headers["streamtype"], "error");
        assert_eq!(data.headers["port"], "80");
        let deadline = half_open.deadline().unwrap();
        assert_eq!(deadline, start + Duration::from_secs(31));
        half_open.expire(start + Duration::from_secs(30));
        assert_eq!(half_open.pairs.len(), 1);
        half_open.expire(deadline);
        assert_eq!(half_open.deadline(), None);
    }

    #[test]
    fn ports_come_in_one_or_several_parameters() {
        for (query, ports) in [
            ("", &[][..]),
            ("port=80", &[80]),
            ("port=80&port=443", &[80, 443]),
            ("ports=80,443", &[80, 443]),
            ("port=80&ports=443,x,70000", &[80, 443]),
        ] {
            assert_eq!(requested_ports(&Query::parse(query)), ports, "{query}");
        }
    }
}
