//! Forwarding of requests to remote API servers, as a front proxy.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming as Received;
use rkube_api::status::Status;
use rkube_auth::UserInfo;
use rkube_request::{RequestInfo, encode_path};

use super::remote::Remote;
use crate::backend::Backend;
use crate::body::{self, Body};
use crate::cache::Cache;
use crate::call::{Call, Incoming};
use crate::connect;
use crate::connect::location::service_address;

impl Remote {
    /// Returns host and port of the server.
    pub(super) fn resolve(&self, cache: &Cache) -> Result<String, Status> {
        let service = &self.reference;
        service_address(cache, &service.namespace, &service.name, service.port)
    }

    /// Sends a request without a body on behalf of `user`, made by this server itself.
    pub(super) async fn ask(
        &self,
        authority: &str,
        method: Method,
        path_and_query: &str,
        user: &UserInfo,
        mut headers: HeaderMap,
    ) -> Result<Response<Received>, String> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        assert_user(&mut headers, user);
        let mut request = Request::new(body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = uri(authority, path_and_query)?;
        *request.headers_mut() = headers;
        client
            .request(request)
            .await
            .map_err(|error| reason(&error, authority))
    }

    /// Forwards a client's request and returns the response; supports streams and upgrades.
    pub async fn forward(
        &self,
        backend: &Backend,
        call: &Call,
        mut incoming: Incoming,
    ) -> Response<Body> {
        if !self.is_available() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        }
        let client = match &self.client {
            Ok(client) => client,
            Err(why) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
        };
        let Ok(authority) = self.resolve(&backend.cache) else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        };
        let uri = match uri(&authority, &path_and_query(&call.info)) {
            Ok(uri) => uri,
            Err(why) => return text(StatusCode::BAD_REQUEST, &why),
        };
        let upgrade = connect::is_upgrade(&call.headers);
        let mut headers = connect::forwarded_headers(call, &incoming, upgrade);
        assert_user(&mut headers, &call.user);
        if let Ok(value) = HeaderValue::from_str(&call.audit_id) {
            headers.insert("audit-id", value);
        }
        let mut request = Request::new(if upgrade {
            body::empty()
        } else {
            std::mem::replace(&mut incoming.body, body::empty())
        });
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        let response = match client.request(request).await {
            Ok(response) => response,
            Err(error) => {
                let why = reason(&error, &authority);
                // The server may have become unavailable: check it before the next request.
                self.wake.notify_one();
                return text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &format!("error trying to reach service: {why}"),
                );
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS && upgrade {
            return match connect::join(&backend.shutdown, incoming, response) {
                Ok(response) => response,
                Err(status) => crate::respond::status(call, &status),
            };
        }
        connect::returned(response)
    }
}

fn uri(authority: &str, path_and_query: &str) -> Result<Uri, String> {
    format!("https://{authority}{path_and_query}")
        .parse()
        .map_err(|e| format!("the location is not valid: {e}"))
}

/// Returns path and query to forward: those that were authorized, so that the other server cannot
/// read an ambiguous encoding differently.
fn path_and_query(info: &RequestInfo) -> String {
    let query = info.query.encoded();
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{}{separator}{query}", encode_path(&info.path))
}

/// Returns a plain-text error response, as Go's `http.Error`.
fn text(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(body::full(format!("{message}\n")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Returns the root cause for which a request could not be sent.
fn reason(error: &hyper_util::client::legacy::Error, authority: &str) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = match cause.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connect: connection refused".to_owned()
        }
        _ => cause.to_string(),
    };
    if error.is_connect() {
        format!("dial tcp {authority}: {text}")
    } else {
        text
    }
}

/// Replaces the user in the headers by `user`. Removes all `X-Remote-*` headers of the client.
fn assert_user(headers: &mut HeaderMap, user: &UserInfo) {
    let stale: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in stale {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape_key(key));
        for value in values {
            add(&name, value);
        }
    }
}

/// Percent-encodes the characters of `key` that are not allowed in header names.
fn escape_key(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for b in key.bytes() {
        let legal = b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
        if legal {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_judged_is_forwarded() {
        for (sent, forwarded) in [
            ("/apis/g%2Fv1%2fnodes?x=a%2Fb", "/apis/g/v1/nodes?x=a%2Fb"),
            ("/apis/g/v1/a%20b%3F%25", "/apis/g/v1/a%20b%3F%25"),
        ] {
            let (path, query) = sent.split_once('?').unwrap_or((sent, ""));
            let info = RequestInfo::parse(&Method::GET, path, query);
            assert_eq!(path_and_query(&info), forwarded);
        }
    }

    #[test]
    fn only_the_real_user_is_asserted() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("root"));
        headers.insert("x-remote-extra-a", HeaderValue::from_static("b"));
        let mut user = UserInfo::authenticated("jane", &["devs"]);
        user.extra
            .insert("example.com/scope".into(), vec!["x".into()]);
        assert_user(&mut headers, &user);
        assert_eq!(headers["x-remote-user"], "jane");
        assert!(!headers.contains_key("x-remote-extra-a"));
        assert_eq!(headers["x-remote-extra-example.com%2fscope"], "x");
        let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["devs", "system:authenticated"]);
    }
}
