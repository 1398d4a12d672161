//! Multiplexes watches and logs over one WebSocket.
//!
//! A browser opens at most six connections to a server, and the page needs dozens of
//! streams. The browser sends JSON:
//! `{"open": ID, "path": "/c/PROFILE/api/…", "accept": "…"}`, `{"close": ID}`,
//! `{"ack": BYTES}`. The server's messages are binary: a byte for the type, the ID (four
//! bytes, little-endian), the payload. At most [`WINDOW_BYTES`] are sent without
//! acknowledgement, so that a slow page slows its sources down instead of growing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{Request, header};
use http_body_util::BodyExt;
use kube::client::Body as ClientBody;
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::clusters::Clusters;
use crate::paths;
use crate::socket::Socket;

/// Message type: the stream is open. The payload is empty.
const OPENED: u8 = 1;
/// Message type: data of the stream.
const DATA: u8 = 2;
/// Message type: the stream has ended. The payload is empty, or the error: the three
/// digits of the status, a space, the body.
const ENDED: u8 = 3;

/// Maximum number of bytes that the page has not acknowledged.
const WINDOW_BYTES: usize = 4 << 20;
/// Maximum payload of one message, in bytes.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// Maximum number of streams of one page.
const MAX_STREAMS: usize = 256;
/// Maximum length of an error message sent to the page.
const MAX_ERROR_BYTES: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(untagged)]
enum StreamRequest {
    Open {
        open: u32,
        path: String,
        #[serde(default)]
        accept: Option<String>,
    },
    Close {
        close: u32,
    },
    Ack {
        ack: u32,
    },
}

/// Serves one page until it disconnects.
pub async fn serve(clusters: Arc<Clusters>, socket: Socket) {
    let (mut sink, mut source) = socket.split();
    let (out, mut messages) = mpsc::channel::<Bytes>(64);
    let window = Arc::new(Semaphore::new(WINDOW_BYTES));
    let writer = tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if sink.feed(Message::binary(message)).await.is_err() {
                return;
            }
            // Messages that are ready are sent together.
            if messages.is_empty() && sink.flush().await.is_err() {
                return;
            }
        }
    });
    let mut streams = Streams(HashMap::new());
    while let Some(Ok(message)) = source.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let Ok(request) = serde_json::from_str::<StreamRequest>(&text) else {
            break;
        };
        match request {
            StreamRequest::Open { open, path, accept } => {
                streams.0.retain(|_, task| !task.is_finished());
                let stream = Stream {
                    id: open,
                    out: out.clone(),
                    window: window.clone(),
                };
                if streams.0.len() >= MAX_STREAMS {
                    stream.end("429 too many streams").await;
                    continue;
                }
                let clusters = clusters.clone();
                let task = tokio::spawn(async move {
                    let reason = match stream.run(&clusters, &path, accept).await {
                        Ok(()) => String::new(),
                        Err(reason) => reason,
                    };
                    stream.end(&reason).await;
                });
                if let Some(old) = streams.0.insert(open, task) {
                    old.abort();
                }
            }
            StreamRequest::Close { close } => {
                if let Some(task) = streams.0.remove(&close) {
                    task.abort();
                }
            }
            StreamRequest::Ack { ack } => {
                let owed = WINDOW_BYTES.saturating_sub(window.available_permits());
                window.add_permits(owed.min(ack as usize));
            }
        }
    }
    drop(streams);
    writer.abort();
}

/// The tasks of the open streams, by ID. They end with the page.
struct Streams(HashMap<u32, JoinHandle<()>>);

impl Drop for Streams {
    fn drop(&mut self) {
        for task in self.0.values() {
            task.abort();
        }
    }
}

struct Stream {
    id: u32,
    out: mpsc::Sender<Bytes>,
    window: Arc<Semaphore>,
}

impl Stream {
    async fn run(
        &self,
        clusters: &Clusters,
        path: &str,
        accept: Option<String>,
    ) -> Result<(), String> {
        let (profile, target) = split_profile(path).ok_or("400 not a path of a cluster")?;
        let (path, _) = target.split_once('?').unwrap_or((target, ""));
        paths::check(path).map_err(|why| format!("400 {why}"))?;
        let client = clusters
            .client(profile)
            .await
            .map_err(|e| format!("503 {}", e.message))?;
        let mut request = Request::get(target);
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        let request = request
            .body(ClientBody::empty())
            .map_err(|e| format!("400 {e}"))?;
        let response = client
            .send(request)
            .await
            .map_err(|e| format!("502 the API server cannot be reached: {e}"))?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let mut text = BytesMut::new();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    text.extend_from_slice(&data);
                }
                if text.len() > MAX_ERROR_BYTES {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&text);
            return Err(format!("{} {text}", status.as_u16()));
        }
        self.send(OPENED, &[]).await;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("502 {e}"))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            for piece in data.chunks(MAX_PAYLOAD_BYTES) {
                let cost = u32::try_from(piece.len()).unwrap_or(u32::MAX);
                match self.window.acquire_many(cost).await {
                    Ok(permits) => permits.forget(),
                    Err(_) => return Ok(()),
                }
                self.send(DATA, piece).await;
            }
        }
        Ok(())
    }

    async fn end(&self, reason: &str) {
        self.send(ENDED, reason.as_bytes()).await;
    }

    async fn send(&self, message_type: u8, payload: &[u8]) {
        let mut message = BytesMut::with_capacity(payload.len() + 5);
        message.put_u8(message_type);
        message.put_u32_le(self.id);
        message.put_slice(payload);
        // Sending fails when the page has disconnected, which ends this task too.
        let _ = self.out.send(message.freeze()).await;
    }
}

/// Splits `/c/PROFILE/REST` into `PROFILE` and `/REST`.
pub fn split_profile(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/c/")?;
    let (profile, _) = rest.split_once('/')?;
    Some((profile, &rest[profile.len()..]))
}
