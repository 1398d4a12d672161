//! Container logs over WebSocket (RFC 6455), for clients that cannot read a streaming HTTP
//! response. Sends binary messages, or base64 text messages if the client requests that
//! subprotocol.

use base64::Engine as _;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rkube_api::status::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::forward::is_upgrade;
use crate::body::{self, Body};
use crate::call::{Call, Incoming};

/// Prefix of a pseudo-subprotocol that carries a bearer token.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
const BASE64: &str = "base64.binary.k8s.io";

/// A WebSocket handshake requested by a client.
pub struct Handshake {
    accept: String,
    protocol: Option<HeaderValue>,
    base64: bool,
    client: OnUpgrade,
}

impl Handshake {
    /// Returns the handshake that a request asks for; `None` for requests without a WebSocket
    /// upgrade.
    pub fn of(call: &Call, request: &mut Incoming) -> Result<Option<Self>, Status> {
        let headers = &call.headers;
        if !is_upgrade(headers) {
            return Ok(None);
        }
        let websocket = headers
            .get(header::UPGRADE)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        let version = headers.get(header::SEC_WEBSOCKET_VERSION);
        let (Some(key), true) = (key, websocket && version.is_some_and(|v| v == "13")) else {
            return Err(Status::bad_request(
                "only WebSocket version 13 is understood here",
            ));
        };
        let protocol = protocol(headers);
        let base64 = protocol.as_ref().is_some_and(|p| p == BASE64);
        let client = request
            .extensions
            .remove::<OnUpgrade>()
            .ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
        Ok(Some(Self {
            accept: derive_accept_key(key.as_bytes()),
            protocol,
            base64,
            client,
        }))
    }

    /// Completes the handshake and sends the body of a successful response as messages. Error
    /// responses are returned unchanged.
    pub fn serve(self, response: Response<Body>, stop: CancellationToken) -> Response<Body> {
        if response.status() != StatusCode::OK {
            return response;
        }
        let mut answer = Response::new(body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let (client, base64) = (self.client, self.base64);
        tokio::spawn(async move {
            let io = match client.await {
                Ok(io) => TokioIo::new(io),
                Err(error) => return tracing::debug!(%error, "an upgrade failed"),
            };
            let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            tokio::select! {
                result = pump(&mut socket, response.into_body(), base64) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a WebSocket ended");
                    }
                }
                () = stop.cancelled() => {}
            }
            // Closing fails if the peer has already disconnected, which is fine.
            let _ = socket.close(None).await;
        });
        answer
    }
}

/// Returns the first subprotocol that the client offers, not counting bearer tokens.
fn protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .find(|p| !p.is_empty() && !p.starts_with(TOKEN_PROTOCOL))
        .and_then(|p| HeaderValue::from_str(p).ok())
}

async fn pump<S>(socket: &mut WebSocketStream<S>, mut body: Body, base64: bool) -> Result<(), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // As upstream, an empty message signals that the log is open.
    socket.send(message(Bytes::new(), base64)).await?;
    loop {
        tokio::select! {
            // Messages of the client are ignored, but reading them answers pings.
            said = socket.next() => match said {
                None | Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            },
            frame = body.frame() => {
                let Some(Ok(frame)) = frame else { return Ok(()) };
                if let Ok(data) = frame.into_data() && !data.is_empty() {
                    socket.send(message(data, base64)).await?;
                }
            }
        }
    }
}

fn message(data: Bytes, base64: bool) -> Message {
    if base64 {
        Message::text(base64::engine::general_purpose::STANDARD.encode(&data))
    } else {
        Message::binary(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_or_base64() {
        let data = Bytes::from("hi\n");
        assert_eq!(message(data.clone(), false), Message::binary(&b"hi\n"[..]));
        assert_eq!(message(data, true), Message::text("aGkK"));
    }

    #[test]
    fn a_token_is_not_a_protocol() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(
                "base64url.bearer.authorization.k8s.io.dA, base64.binary.k8s.io",
            ),
        );
        assert_eq!(protocol(&headers).unwrap(), BASE64);
        assert!(protocol(&HeaderMap::new()).is_none());
    }
}
