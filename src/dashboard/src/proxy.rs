//! Forwards requests to an API server.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body as ClientBody;
use tracing::debug;

use crate::answer::{self, Body};
use crate::paths;

/// Maximum size of a request's body in bytes, as in the API server.
const MAX_BODY_BYTES: usize = 3 << 20;

/// Request headers that are forwarded. None of them contains a credential.
const REQUEST_HEADERS: [HeaderName; 3] =
    [header::ACCEPT, header::CONTENT_TYPE, header::IF_NONE_MATCH];

/// Additional headers of WebSocket handshakes that are forwarded.
const HANDSHAKE_HEADERS: [HeaderName; 5] = [
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::CONNECTION,
    header::UPGRADE,
];

/// Response headers that are forwarded.
const RESPONSE_HEADERS: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::ETAG,
    header::RETRY_AFTER,
    header::WARNING,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Whether the request opens a WebSocket.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Sends the request to `path` of the API server and returns its response.
pub async fn forward_request(
    client: &Client,
    path: &str,
    query: Option<&str>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if let Err(why) = paths::check(path) {
        return answer::failure(StatusCode::BAD_REQUEST, why);
    }
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let Ok(target) = target.parse::<Uri>() else {
        return answer::failure(StatusCode::BAD_REQUEST, "the path is malformed");
    };
    let upgrade = is_upgrade(request.headers());
    let mut headers = HeaderMap::new();
    let names = REQUEST_HEADERS
        .iter()
        .chain(HANDSHAKE_HEADERS.iter().filter(|_| upgrade));
    for name in names {
        for value in request.headers().get_all(name) {
            headers.append(name, value.clone());
        }
    }
    let method = request.method().clone();
    let browser = upgrade.then(|| hyper::upgrade::on(&mut request));
    let body = match Limited::new(request.into_body(), MAX_BODY_BYTES)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(e) => return answer::failure(StatusCode::PAYLOAD_TOO_LARGE, e.to_string()),
    };
    let mut onward = Request::new(ClientBody::from(body));
    *onward.method_mut() = method;
    *onward.uri_mut() = target;
    *onward.headers_mut() = headers;
    let mut response = match client.send(onward).await {
        Ok(response) => response,
        Err(e) => return unreachable_server(&e),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(browser) = browser
    {
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let Err(e) = copy_both_ways(browser, server).await {
                debug!("a stream ended: {e}");
            }
        });
        let mut answer = copy_head(&response);
        let headers = answer.headers_mut();
        for name in HANDSHAKE_HEADERS
            .iter()
            .chain([&header::SEC_WEBSOCKET_ACCEPT])
        {
            if let Some(value) = response.headers().get(name) {
                headers.insert(name, value.clone());
            }
        }
        return answer;
    }
    let mut answer = copy_head(&response);
    let kind = content_type(response.headers());
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    *answer.body_mut() = response
        .into_body()
        .map_err(|e| -> answer::BoxError { Box::new(e) })
        .boxed_unsync();
    answer
}

/// Returns the response for a server that cannot be reached.
pub fn unreachable_server(e: &kube::Error) -> Response<Body> {
    answer::failure(
        StatusCode::BAD_GATEWAY,
        format!("the API server cannot be reached: {e}"),
    )
}

/// Copies data between two upgraded connections until either ends.
async fn copy_both_ways(
    browser: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
) -> Result<(), answer::BoxError> {
    let (browser, server) = (browser.await?, server.await?);
    let (mut browser, mut server) = (TokioIo::new(browser), TokioIo::new(server));
    tokio::io::copy_bidirectional(&mut browser, &mut server).await?;
    Ok(())
}

/// Returns a response with the status and the permitted headers of another.
fn copy_head(response: &Response<ClientBody>) -> Response<Body> {
    let mut answer = Response::new(answer::full(""));
    *answer.status_mut() = response.status();
    for name in &RESPONSE_HEADERS {
        for value in response.headers().get_all(name) {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

/// Returns the content type of a response. Types that a browser could execute are replaced by plain
/// text.
fn content_type(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(header::CONTENT_TYPE);
    let harmless = given.and_then(|v| v.to_str().ok()).is_some_and(|v| {
        let kind = v.split(';').next().unwrap_or_default().trim();
        kind == "application/json" || kind == "application/yaml" || kind == "text/plain"
    });
    match given {
        Some(value) if harmless => value.clone(),
        _ => HeaderValue::from_static("text/plain; charset=utf-8"),
    }
}
