//! Builds responses of the node's endpoint.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use rkube_streams::UpgradeError;

/// Body of a response; may be streamed.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// A response of the endpoint.
pub(crate) type Answer = Response<Body>;

/// Returns a body with these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Returns a plain-text response.
pub(crate) fn text(status: StatusCode, message: impl Into<String>) -> Answer {
    let mut response = Response::new(full(message.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Returns a JSON response; status 500 if the value cannot be serialized.
pub(crate) fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(full(bytes));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("application/json"),
            );
            response
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Returns the response to an upgrade request; an error becomes plain text.
pub(crate) fn upgraded(result: Result<Response<()>, UpgradeError>) -> Answer {
    match result {
        Ok(response) => response.map(|()| full("")),
        Err(e) => text(e.status_code(), e.to_string()),
    }
}

/// Returns the 404 response for an unknown path.
pub(crate) fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Returns the 404 response for a pod that is not on this node.
pub(crate) fn no_pod(namespace: &str, pod: &str) -> Answer {
    text(
        StatusCode::NOT_FOUND,
        format!("pod does not exist: {namespace}/{pod}"),
    )
}
