//! WebSockets that end here.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::debug;

use crate::answer::{self, Body};

/// A browser's end of a WebSocket.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The largest message that a browser sends here.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Answers the handshake, taking `protocol` if one is named, and hands the
/// socket to `serve` when it is open.
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
                    .max_message_size(Some(MESSAGE_LIMIT))
                    .max_frame_size(Some(MESSAGE_LIMIT));
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

fn handshake(headers: &HeaderMap) -> Option<HeaderValue> {
    if !crate::proxy::is_upgrade(headers) {
        return None;
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}
