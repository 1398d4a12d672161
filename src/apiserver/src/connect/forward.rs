//! Forwarding of a request to another server, and of its response.

use std::io::Read as _;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use rkube_api::status::Status;
use rkube_auth::{authn, impersonation};
use tokio_util::sync::CancellationToken;

use super::target::Target;
use super::transport::Transports;
use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::server::Peer;

/// The type of a forwarded request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// An upgrade to a stream (exec, attach, port-forward).
    Stream,
    /// A read of a container's log.
    Log,
    /// An arbitrary request, as for a reverse proxy.
    Proxy,
}

/// Maximum number of bytes of a peer's error response that are quoted in a `Status`.
const MAX_ERROR_BYTES: usize = 4096;

/// Maximum size in bytes of a page that is buffered to rewrite its links.
const MAX_PAGE_BYTES: usize = 8 << 20;

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Returns whether the request asks for a protocol upgrade.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Sends the request to `target` and returns its response. If both sides agree on an upgrade, joins
/// the two connections until either ends.
pub async fn forward(
    transports: &Transports,
    shutdown: &CancellationToken,
    call: &Call,
    mut incoming: Incoming,
    target: Target,
    style: Style,
) -> Result<Response<Body>, Status> {
    // For logs over WebSocket, this server is the WebSocket endpoint; the node agent sends plain
    // HTTP.
    let upgrade = style != Style::Log && is_upgrade(&call.headers);
    if style == Style::Stream && !upgrade {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let uri: Uri = format!(
        "{}://{}{}",
        target.scheme, target.authority, target.path_and_query
    )
    .parse()
    .map_err(|e| Status::bad_request(format!("the location is not valid: {e}")))?;
    let mut request = Request::new(if upgrade || style == Style::Log {
        body::empty()
    } else {
        std::mem::replace(&mut incoming.body, body::empty())
    });
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() =
        passed_headers(call, incoming.extensions.get::<Peer>(), upgrade, style);

    let peer = || format!("{}://{}", target.scheme, target.authority);
    let response = transports
        .client(target.trust)
        .request(request)
        .await
        .map_err(|error| {
            tracing::debug!(%error, target = peer(), "a proxied request failed");
            let reason = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            match style {
                Style::Proxy => Status::service_unavailable(format!(
                    "error trying to reach service: {reason} ({})",
                    target.authority
                )),
                _ => Status::internal(format!(
                    "error dialing backend: {reason} ({})",
                    target.authority
                )),
            }
        })?;

    if response.status() == StatusCode::SWITCHING_PROTOCOLS && upgrade {
        return join(shutdown, incoming, response);
    }

    let failed = !response.status().is_success();
    if style != Style::Proxy && failed {
        return Err(peer_status(response).await);
    }
    let (mut parts, body) = response.into_parts();
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    parts.version = Version::default();
    if style == Style::Log {
        parts.headers.remove(header::CONTENT_LENGTH);
        parts
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    } else {
        rewrite_location(&mut parts.headers, call, &target);
        if style == Style::Proxy && is_page(&parts.headers) && call.method != http::Method::HEAD {
            return rewrite_page(parts, body, call, &target).await;
        }
    }
    Ok(Response::from_parts(parts, body::boxed(body)))
}

/// Upgrades the client's and the peer's connections and copies between them until either ends.
/// Returns the response that completes the client's upgrade.
pub fn join(
    shutdown: &CancellationToken,
    mut incoming: Incoming,
    mut response: Response<hyper::body::Incoming>,
) -> Result<Response<Body>, Status> {
    let Some(client) = incoming.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
        return Err(Status::bad_request("this connection cannot be upgraded"));
    };
    let backend = hyper::upgrade::on(&mut response);
    let headers = response.headers().clone();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let joined = async {
            let (client, backend) = tokio::try_join!(client, backend)?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                tracing::debug!(%error, "a stream ended");
            }
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            result = joined => if let Err(error) = result {
                tracing::debug!(%error, "an upgrade failed");
            },
            () = stop.cancelled() => {}
        }
    });
    let mut answer = Response::new(body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Returns a peer's response without hop-by-hop headers.
pub fn returned(response: Response<hyper::body::Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    parts.version = Version::default();
    Response::from_parts(parts, body::boxed(body))
}

/// Returns the headers of a client's request to forward to another server.
pub fn forwarded_headers(call: &Call, incoming: &Incoming, upgrade: bool) -> HeaderMap {
    let mut headers = passed_headers(
        call,
        incoming.extensions.get::<Peer>(),
        upgrade,
        Style::Proxy,
    );
    headers.remove("x-forwarded-uri");
    headers
}

/// Returns the headers to forward. Never includes the client's credentials.
fn passed_headers(call: &Call, peer: Option<&Peer>, upgrade: bool, style: Style) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(call.headers.len() + 4);
    let named: Vec<String> = call
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|token| token.trim().to_ascii_lowercase())
        .collect();
    let mut given = call.headers.clone();
    authn::remove_credentials(&mut given);
    for (name, value) in &given {
        let dropped = HOP_BY_HOP.contains(name)
            || named.iter().any(|n| n == name.as_str())
            || name == header::HOST
            || impersonation::is_impersonation_header(name.as_str());
        if !dropped {
            headers.append(name, value.clone());
        }
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Some(value) = call.headers.get(header::UPGRADE) {
            headers.insert(header::UPGRADE, value.clone());
        }
    }
    if style == Style::Log {
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::ACCEPT_ENCODING);
    }
    if style == Style::Proxy {
        let forwarded = [
            (
                "x-forwarded-uri",
                Some(proxy_prefix(call) + &call.info.rest),
            ),
            (
                "x-forwarded-host",
                call.headers
                    .get(header::HOST)
                    .and_then(|v| v.to_str().ok())
                    .map(str::to_owned),
            ),
            ("x-forwarded-proto", Some("https".to_owned())),
            (
                "x-forwarded-for",
                peer.map(|p| p.address.ip().to_canonical().to_string()),
            ),
        ];
        for (name, value) in forwarded {
            if let Some(value) = value.and_then(|v| HeaderValue::from_str(&v).ok()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
    headers
}

/// Returns the request's path up to and including `/proxy`.
fn proxy_prefix(call: &Call) -> String {
    let rest = rkube_request::decode(&call.info.rest, false);
    call.info
        .path
        .strip_suffix(&*rest)
        .unwrap_or(&call.info.path)
        .to_owned()
}

/// Returns a peer's link as a path through the proxy. Returns `None` if the link is relative, leads
/// to another host, or already leads through the proxy.
fn through_proxy(link: &str, prefix: &str, call: &Call, target: &Target) -> Option<String> {
    let host = call.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    let after_scheme = link
        .strip_prefix("http:")
        .or_else(|| link.strip_prefix("https:"))
        .unwrap_or(link);
    let path = match after_scheme.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if authority != target.authority && Some(authority) != host {
                return None;
            }
            if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            }
        }
        None if after_scheme.len() == link.len() => link.to_owned(),
        None => return None,
    };
    (path.starts_with('/') && !path.starts_with(prefix)).then(|| format!("{prefix}{path}"))
}

/// Rewrites redirects to the peer itself, so that they lead through the proxy.
fn rewrite_location(headers: &mut HeaderMap, call: &Call, target: &Target) {
    let Some(place) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) else {
        return;
    };
    let moved = through_proxy(place, &proxy_prefix(call), call, target);
    if let Some(Ok(value)) = moved.map(|place| HeaderValue::from_str(&place)) {
        headers.insert(header::LOCATION, value);
    }
}

/// Returns whether a response is an HTML page whose links must be rewritten. Only unencoded and
/// gzip-encoded pages can be.
fn is_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/html")
        && matches!(text(header::CONTENT_ENCODING), None | Some("" | "gzip"))
}

/// Rewrites the links of a page so that they lead through the proxy. Pages that are too large to
/// buffer are returned unchanged.
async fn rewrite_page(
    mut parts: http::response::Parts,
    mut body: hyper::body::Incoming,
    call: &Call,
    target: &Target,
) -> Result<Response<Body>, Status> {
    let mut held = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            Status::service_unavailable(format!("the page of {} broke off: {e}", target.authority))
        })?;
        if let Some(data) = frame.data_ref() {
            held.extend_from_slice(data);
        }
        if held.len() > MAX_PAGE_BYTES {
            let rest = http_body_util::BodyDataStream::new(body);
            let head = futures::stream::once(async { Ok(bytes::Bytes::from(held)) });
            let rest = futures::StreamExt::map(rest, |chunk| chunk.map_err(Into::into));
            let whole = futures::StreamExt::chain(head, rest);
            return Ok(Response::from_parts(parts, body::stream(whole)));
        }
    }
    // Encode the prefix so that it cannot end an attribute, quoted or not.
    let prefix: String = proxy_prefix(call)
        .bytes()
        .map(|b| match b {
            b'&' => "&amp;".to_owned(),
            b'"' | b'\'' | b'<' | b'>' | b'`' | b'=' => format!("%{b:02X}"),
            0x21..=0x7e => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    let gzipped = parts.headers.contains_key(header::CONTENT_ENCODING);
    if gzipped {
        let mut page = Vec::new();
        let packed = std::mem::take(&mut held);
        let mut reader = flate2::read::MultiGzDecoder::new(&*packed).take(MAX_PAGE_BYTES as u64);
        if reader.read_to_end(&mut page).is_err() || page.len() == MAX_PAGE_BYTES {
            return Ok(Response::from_parts(parts, body::full(packed)));
        }
        held = page;
        parts.headers.remove(header::CONTENT_ENCODING);
    }
    let page = super::html::rewrite(&held, |link| through_proxy(link, &prefix, call, target));
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, body::full(page)))
}

/// Returns a peer's error response as a `Status`: the one it sent, or one with its text.
async fn peer_status(response: Response<hyper::body::Incoming>) -> Status {
    let code = response.status().as_u16();
    let bytes = match Limited::new(response.into_body(), MAX_ERROR_BYTES)
        .collect()
        .await
    {
        Ok(collected) => collected.to_bytes(),
        Err(_) => bytes::Bytes::new(),
    };
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes)
        && value["kind"] == "Status"
        && value["code"].is_u64()
    {
        return Status::from_value(&value);
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    };
    let message = if text.is_empty() {
        format!("the server answered {code}")
    } else {
        text.to_owned()
    };
    Status::new(code, reason, message)
}
