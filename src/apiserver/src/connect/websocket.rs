//! Container logs over WebSocket, for clients that cannot read a streaming HTTP response. Sends
//! binary messages, or base64 text messages if the client requests that subprotocol.

use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use rkube_api::status::Status;
use rkube_streams::websocket::Message;
use tokio_util::sync::CancellationToken;

use super::forward::is_upgrade;
use crate::body::Body;
use crate::call::{Call, Incoming};
use crate::websocket;

/// The supported subprotocols. Without one, messages are binary.
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", BASE64];
const BASE64: &str = "base64.binary.k8s.io";

/// A WebSocket handshake requested by a client.
pub struct Handshake {
    handshake: websocket::Handshake,
    base64: bool,
}

impl Handshake {
    /// Returns the handshake that a request asks for; `None` for requests without an upgrade.
    ///
    /// # Errors
    ///
    /// 400 for an upgrade to something else, and if no offered subprotocol is supported.
    pub fn of(call: &Call, request: &mut Incoming) -> Result<Option<Self>, Status> {
        if !is_upgrade(&call.headers) {
            return Ok(None);
        }
        let protocol = chosen(&websocket::offered(&call.headers))?;
        Ok(Some(Self {
            handshake: websocket::Handshake::of(call, &mut request.extensions, protocol)?,
            base64: protocol == BASE64,
        }))
    }

    /// Completes the handshake and sends the body of a successful response as messages. Error
    /// responses are returned unchanged.
    pub fn serve(self, response: Response<Body>, stop: CancellationToken) -> Response<Body> {
        if response.status() != StatusCode::OK {
            return response;
        }
        let base64 = self.base64;
        // As upstream, an empty message signals that the log is open.
        let opened = futures::stream::once(async { Bytes::new() });
        let chunks = response
            .into_body()
            .into_data_stream()
            .take_while(|chunk| std::future::ready(chunk.is_ok()))
            .filter_map(|chunk| std::future::ready(chunk.ok().filter(|data| !data.is_empty())));
        let messages = opened.chain(chunks).map(move |data| message(data, base64));
        self.handshake.serve(messages, stop)
    }
}

/// Returns the first supported of the offered subprotocols; empty if none is offered.
fn chosen<'a>(offered: &[&'a str]) -> Result<&'a str, Status> {
    if offered.is_empty() {
        return Ok("");
    }
    let known = offered.iter().find(|name| PROTOCOLS.contains(name));
    known.copied().ok_or_else(|| {
        Status::bad_request(format!(
            "requested protocol(s) are not supported: [{}]; supports [{}]",
            offered.join(" "),
            PROTOCOLS.join(" ")
        ))
    })
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
    fn a_supported_protocol_is_chosen() {
        assert_eq!(chosen(&[]).unwrap(), "");
        assert_eq!(chosen(&["x", BASE64]).unwrap(), BASE64);
        assert_eq!(
            chosen(&["x", "y"]).unwrap_err().message,
            "requested protocol(s) are not supported: [x y]; supports [binary.k8s.io base64.binary.k8s.io]"
        );
    }
}
