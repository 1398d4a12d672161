//! SPDY/3.1, as much of it as `kubectl` speaks: framed streams on one connection.
//!
//! `kubectl port-forward` sends these frames through a WebSocket; older clients
//! send them, for commands too, over a connection that was upgraded to SPDY.

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{Answer, full, text, websocket};

pub(crate) mod command;
mod dictionary;
mod frame;
mod headers;
pub(crate) mod session;

/// The protocol's name in an upgrade.
const PROTOCOL: &str = "SPDY/3.1";
/// Versions of what is spoken inside the streams.
const VERSION_HEADER: &str = "x-stream-protocol-version";

/// Whether the request wants to become SPDY.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    websocket::lists(headers, header::UPGRADE, PROTOCOL)
        && websocket::lists(headers, header::CONNECTION, "upgrade")
}

/// The first of `known` that the client offers; the last of them when it offers none.
fn version(headers: &HeaderMap, known: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = headers
        .get_all(VERSION_HEADER)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    if offered.is_empty() {
        return known.last().copied();
    }
    known.iter().find(|k| offered.contains(*k)).copied()
}

/// Makes the connection SPDY and hands its streams to `work`.
pub(crate) fn upgrade<F>(
    mut request: Request<Incoming>,
    known: &[&'static str],
    work: impl FnOnce(session::Streams, &'static str) -> F,
) -> Answer
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(version) = version(request.headers(), known) else {
        return text(
            StatusCode::FORBIDDEN,
            format!("unable to negotiate protocol: server supports {known:?}"),
        );
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (streams, connect) = session::prepare();
    let work = work(streams, version);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                connect.start(hyper_util::rt::TokioIo::new(upgraded));
                work.await;
            }
            Err(e) => tracing::debug!("upgrade: {e}"),
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, PROTOCOL)
        .header(header::CONNECTION, "Upgrade")
        .header(VERSION_HEADER, version)
        .body(full(""))
        .unwrap_or_else(|e| text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}
