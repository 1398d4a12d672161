//! WebSockets that the dashboard itself serves.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::debug;

use crate::answer::{self, Body};

/// A WebSocket to a browser.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Maximum size of a message from a browser, in bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Responds to the handshake, with `protocol` if there is one, and calls `serve` when the socket is
/// open.
pub fn accept<F>(
    mut request: Request<Incoming>,
    protocol: Option<&'static str>,
    serve: impl FnOnce(Socket) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send,
{
    let Some(key) = handshake(request.headers()) else {
        return answer::failure(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let config = WebSocketConfig::default()
                    .max_message_size(Some(MAX_MESSAGE_BYTES))
                    .max_frame_size(Some(MAX_MESSAGE_BYTES));
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                serve(socket).await;
            }
            Err(e) => debug!("a WebSocket was not opened: {e}"),
        }
    });
    let mut response = Response::new(answer::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if let Some(protocol) = protocol {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
    }
    response
}

/// Returns the value of `Sec-WebSocket-Accept`, or `None` if the request is not a handshake.
fn handshake(headers: &HeaderMap) -> Option<HeaderValue> {
    if !crate::proxy::is_upgrade(headers) {
        return None;
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}
