//! Remote commands: `exec` and `attach` over WebSocket or SPDY.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use rkube_runtime::Runtime;
use tracing::debug;

mod command;
mod spdy;
mod websocket;

use super::answer::{Answer, text, upgraded};
use super::query::Query;
use command::Command;

/// Serves `/exec` and `/attach` for the container with this ID.
pub(crate) fn serve(
    runtime: Runtime,
    attach: bool,
    id: String,
    query: &Query,
    mut request: Request<Incoming>,
) -> Answer {
    let command = match Command::from_query(attach, id, query) {
        Ok(command) => command,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let headers = request.headers().clone();
    if rkube_streams::websocket::is_upgrade(&headers) {
        let Some(version) = rkube_streams::websocket::negotiate(&headers) else {
            return text(
                StatusCode::FORBIDDEN,
                "none of the offered WebSocket protocols is known here",
            );
        };
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(connection) => {
                    let socket = rkube_streams::websocket::open(connection).await;
                    websocket::run(&runtime, command, socket, version).await;
                }
                Err(e) => debug!("upgrade: {e}"),
            }
        });
        return upgraded(rkube_streams::websocket::accept(&headers, version.name));
    }
    if rkube_streams::spdy::is_upgrade(&headers) {
        return upgraded(spdy::serve(runtime, command, request));
    }
    text(
        StatusCode::BAD_REQUEST,
        "unable to upgrade: no upgrade was asked for",
    )
}
