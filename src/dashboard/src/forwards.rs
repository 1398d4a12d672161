//! Port-forwards: loopback ports that are forwarded to ports of pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body as ClientBody;
use parking_lot::Mutex;
use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::debug;

/// The WebSocket protocol. The first byte of a message is its channel: 0 for data, 1 for errors.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// Maximum size of a message, in bytes.
const BUFFER_SIZE: usize = 32 << 10;

/// The page's request for a port-forward.
#[derive(Deserialize)]
pub struct ForwardRequest {
    namespace: String,
    pod: String,
    port: u16,
}

/// An open port-forward.
#[derive(Clone, Serialize)]
pub struct Forward {
    /// Identifies the port-forward in this server.
    pub id: u32,
    profile: String,
    namespace: String,
    pod: String,
    port: u16,
    local: u16,
}

/// The open port-forwards.
#[derive(Default)]
pub struct Forwards {
    next: AtomicU32,
    open: Mutex<BTreeMap<u32, (Forward, JoinHandle<()>)>>,
}

impl Drop for Forwards {
    fn drop(&mut self) {
        for (_, task) in self.open.lock().values() {
            task.abort();
        }
    }
}

impl Forwards {
    /// Returns the port-forwards of a profile.
    pub fn list(&self, profile: &str) -> Vec<Forward> {
        let open = self.open.lock();
        let of = |(forward, _): &&(Forward, JoinHandle<()>)| forward.profile == profile;
        open.values().filter(of).map(|(f, _)| f.clone()).collect()
    }

    /// Opens a port-forward. Returns the existing one if the port is already forwarded.
    pub async fn add(
        &self,
        client: Client,
        profile: &str,
        request: ForwardRequest,
    ) -> Result<Forward, Failure> {
        let is_name = |text: &str| {
            !text.is_empty()
                && text.len() <= 253
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        if !is_name(&request.namespace) || !is_name(&request.pod) || request.port == 0 {
            return Err(Failure::new(
                Source::Program,
                Kind::Usage,
                "a forward needs a pod and a port",
            ));
        }
        let known = self.list(profile).into_iter().find(|f| {
            f.namespace == request.namespace && f.pod == request.pod && f.port == request.port
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let failed = |e: std::io::Error| {
            Failure::new(
                Source::Host,
                Kind::Error,
                format!("cannot open a local port: {e}"),
            )
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let forward = Forward {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            profile: profile.to_owned(),
            namespace: request.namespace,
            pod: request.pod,
            port: request.port,
            local: listener.local_addr().map_err(failed)?.port(),
        };
        let task = tokio::spawn(serve(listener, client, forward.clone()));
        self.open.lock().insert(forward.id, (forward.clone(), task));
        Ok(forward)
    }

    /// Closes a port-forward and its connections. Returns whether it existed.
    pub fn remove(&self, id: u32) -> bool {
        match self.open.lock().remove(&id) {
            Some((_, task)) => {
                task.abort();
                true
            }
            None => false,
        }
    }
}

/// Accepts connections until the task is aborted.
async fn serve(listener: TcpListener, client: Client, forward: Forward) {
    let forward = Arc::new(forward);
    // Aborting this task drops the set and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => {
                    let (client, forward) = (client.clone(), forward.clone());
                    connections.spawn(async move {
                        if let Err(e) = forward_connection(connection, &client, &forward).await {
                            debug!("a forwarded connection ended: {e}");
                        }
                    });
                }
                Err(e) => {
                    debug!("accept: {e}");
                    return;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Forwards one connection until either side closes it.
async fn forward_connection(
    mut connection: TcpStream,
    client: &Client,
    forward: &Forward,
) -> Result<(), crate::answer::BoxError> {
    let Forward {
        namespace,
        pod,
        port,
        ..
    } = forward;
    let request = Request::get(format!(
        "/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
    ))
    .header(header::CONNECTION, "Upgrade")
    .header(header::UPGRADE, "websocket")
    .header(header::SEC_WEBSOCKET_VERSION, "13")
    .header(header::SEC_WEBSOCKET_KEY, generate_key())
    .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
    .body(ClientBody::empty())?;
    let mut response = client.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the API server answers {}", response.status()).into());
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    let (mut sink, mut source) = socket.split();
    let (mut read, mut write) = connection.split();
    let up = async {
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let n = read.read(&mut buffer[1..]).await?;
            if n == 0 {
                // The protocol has no half-closed connections: the response may not have arrived
                // yet.
                return std::future::pending::<Result<(), crate::answer::BoxError>>().await;
            }
            buffer[0] = 0;
            let message = Message::binary(bytes::Bytes::copy_from_slice(&buffer[..=n]));
            sink.send(message).await?;
        }
    };
    let down = async {
        // The first message of each channel contains the port, two bytes.
        let mut begun = [false; 2];
        while let Some(message) = source.next().await {
            let Message::Binary(message) = message? else {
                continue;
            };
            let Some((&channel, data)) = message.split_first() else {
                continue;
            };
            let Some(begun) = begun.get_mut(usize::from(channel)) else {
                continue;
            };
            if !std::mem::replace(begun, true) {
                continue;
            }
            if channel == 1 {
                return Err(String::from_utf8_lossy(data).into_owned().into());
            }
            write.write_all(data).await?;
        }
        write.shutdown().await?;
        Ok(())
    };
    tokio::select! {
        result = up => result,
        result = down => result,
    }
}
