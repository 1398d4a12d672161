//! WebSockets (RFC 6455) that carry the data of a response to the client: watches and container
//! logs.

use std::time::Duration;

use futures::{SinkExt as _, Stream, StreamExt as _};
use http::{Extensions, HeaderMap, Response, header};
use hyper::upgrade::OnUpgrade;
use rkube_api::status::Status;
use rkube_streams::websocket::{self, Message, Socket, normal_close};
use tokio_util::sync::CancellationToken;

use crate::body::{self, Body};
use crate::call::Call;

/// Prefix of a pseudo-subprotocol that carries a bearer token.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// The largest message of a client in bytes. Clients have nothing to say but pings and a close.
const MAX_RECEIVED: usize = 4096;
/// The time limit for the client's answer to the server's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A handshake that a client has asked for.
pub struct Handshake {
    answer: Response<()>,
    client: OnUpgrade,
}

/// Returns the subprotocols that a client offers, not counting bearer tokens.
pub fn offered(headers: &HeaderMap) -> Vec<&str> {
    let mut offered = websocket::offered_protocols(headers);
    offered.retain(|name| !name.starts_with(TOKEN_PROTOCOL));
    offered
}

impl Handshake {
    /// Reads the handshake of a request, and answers it with `protocol`; empty for none.
    ///
    /// # Errors
    ///
    /// 400 if it is no handshake of version 13, or if the connection cannot be upgraded.
    pub fn of(call: &Call, extensions: &mut Extensions, protocol: &str) -> Result<Self, Status> {
        let headers = &call.headers;
        let version = headers.get(header::SEC_WEBSOCKET_VERSION);
        if !websocket::is_upgrade(headers) || version.is_none_or(|v| v != "13") {
            return Err(Status::bad_request(
                "only WebSocket version 13 is understood here",
            ));
        }
        let answer = websocket::accept(headers, protocol)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let client = extensions
            .remove::<OnUpgrade>()
            .ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
        Ok(Self { answer, client })
    }

    /// Completes the handshake. Sends the messages, and then a close frame, until the client closes
    /// the connection or `stop` is cancelled.
    pub fn serve<M>(self, messages: M, stop: CancellationToken) -> Response<Body>
    where
        M: Stream<Item = Message> + Send + 'static,
    {
        let client = self.client;
        tokio::spawn(async move {
            let upgraded = match client.await {
                Ok(upgraded) => upgraded,
                Err(error) => return tracing::debug!(%error, "an upgrade failed"),
            };
            let mut socket = websocket::open_limited(upgraded, MAX_RECEIVED).await;
            tokio::select! {
                () = send_all(&mut socket, messages) => {}
                () = stop.cancelled() => {}
            }
            // The close frame reaches the client only if the connection is not reset, so its answer
            // is read. All of this fails if the client has gone, which is fine.
            let closed = async {
                let _ = socket.send(normal_close()).await;
                while let Some(Ok(_)) = socket.next().await {}
            };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
        });
        self.answer.map(|()| body::empty())
    }
}

/// Sends messages until they or the connection end. Reads what the client sends, which answers its
/// pings.
async fn send_all(socket: &mut Socket, messages: impl Stream<Item = Message>) {
    let mut messages = std::pin::pin!(messages);
    loop {
        tokio::select! {
            said = socket.next() => match said {
                None | Some(Err(_) | Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
            },
            message = messages.next() => {
                let Some(message) = message else { return };
                if let Err(error) = socket.send(message).await {
                    return tracing::debug!(%error, "a WebSocket ended");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_token_is_not_a_protocol() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(
                "base64url.bearer.authorization.k8s.io.dA, base64.binary.k8s.io",
            ),
        );
        assert_eq!(offered(&headers), ["base64.binary.k8s.io"]);
        assert!(offered(&HeaderMap::new()).is_empty());
    }
}
