//! What the proxy does with a request before it asks a backend.

use http::header::{HOST, LOCATION, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use crate::body::Download;
use crate::cors;
use crate::headers::Origin;
use crate::settings::Settings;
use crate::table::{Route, host_name};

/// The path of challenges of certificate authorities, which are sent over HTTP.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// An answer of the proxy's own.
pub struct Answer {
    status: StatusCode,
    text: String,
    headers: Vec<(http::HeaderName, HeaderValue)>,
}

impl Answer {
    /// Creates an answer with a text.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            headers: Vec::new(),
        }
    }

    fn redirect(code: u16, to: &str) -> Self {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND);
        let mut answer = Self::new(status, "");
        match HeaderValue::from_str(to) {
            Ok(to) => answer.headers.push((LOCATION, to)),
            Err(_) => answer.status = StatusCode::BAD_REQUEST,
        }
        answer
    }

    /// Returns the response to a request with this method.
    pub fn into_response(self, method: &Method) -> Response<Download> {
        let text = match (self.text.is_empty(), *method == Method::HEAD) {
            (true, _) | (_, true) => String::new(),
            _ => format!("{} {}\n", self.status.as_u16(), self.text),
        };
        let mut response = Response::new(Download::text(text));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .extend(self.headers.into_iter().map(|(n, v)| (Some(n), v)));
        if !self.text.is_empty() {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, plain);
        }
        response
    }
}

/// Returns the answer to a body that is too large.
pub fn too_large(settings: &Settings) -> Answer {
    let limit = settings.max_body.unwrap_or_default();
    let text = format!("the body is larger than {limit} bytes");
    Answer::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// Returns the request's host: its name, and the header for the backend.
pub fn host_of(request: &Request<Incoming>) -> Result<(String, HeaderValue), &'static str> {
    let mut values = request.headers().get_all(HOST).into_iter();
    let header = values.next();
    if values.next().is_some() {
        return Err("more than one Host header");
    }
    // The target has precedence (RFC 9112, section 3.2.2).
    let text = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(value)) => value.to_str().map_err(|_| "invalid Host header")?,
        (None, None) if request.version() == Version::HTTP_10 => "",
        (None, None) => return Err("no Host header"),
    };
    if !text.is_empty() && (text.contains('@') || text.parse::<Authority>().is_err()) {
        return Err("invalid Host header");
    }
    let value = HeaderValue::from_str(text).map_err(|_| "invalid Host header")?;
    Ok((host_name(text), value))
}

/// Refuses what the proxy does not pass on.
pub fn check(request: &Request<Incoming>) -> Result<(), Answer> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let text = "the method is not allowed";
        return Err(Answer::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    // Codings of the transfer would be lost, and servers differ in what they make of them.
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).into_iter();
    let plain = codings.all(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    let one = request
        .headers()
        .get_all(TRANSFER_ENCODING)
        .into_iter()
        .count()
        <= 1;
    if !plain || !one {
        let text = "the transfer coding is not supported";
        return Err(Answer::new(StatusCode::NOT_IMPLEMENTED, text));
    }
    Ok(())
}

/// Applies the settings that answer a request without its backend.
pub fn admit(
    route: &Route,
    tls: bool,
    origin: &Origin,
    request: &Request<Incoming>,
    path: &str,
    host: &str,
) -> Result<(), Answer> {
    let settings = &route.settings;
    if let Some(why) = &settings.refused {
        return Err(Answer::new(StatusCode::SERVICE_UNAVAILABLE, why.clone()));
    }
    let listed = |list: &[ipnet::IpNet]| list.iter().any(|net| net.contains(&origin.client));
    if listed(&settings.deny) || !(settings.allow.is_empty() || listed(&settings.allow)) {
        let text = "the client's address is not allowed";
        return Err(Answer::new(StatusCode::FORBIDDEN, text));
    }
    let secure = settings.force_ssl_redirect || (settings.ssl_redirect && tls);
    if secure && !origin.tls && !path.starts_with(CHALLENGES) && !host.is_empty() {
        let rest = request
            .uri()
            .path_and_query()
            .map_or("/", PathAndQuery::as_str);
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let to = format!("https://{host}{rest}");
        return Err(Answer::redirect(308, &to));
    }
    if let Some((to, code)) = &settings.redirect {
        return Err(Answer::redirect(*code, to));
    }
    if let Some(root) = settings.app_root.as_deref().filter(|_| path == "/") {
        return Err(Answer::redirect(302, root));
    }
    if let Some(cors) = &settings.cors
        && let Some(headers) = cors::preflight(cors, request)
    {
        let mut answer = Answer::new(StatusCode::NO_CONTENT, "");
        answer.headers = headers;
        return Err(answer);
    }
    let size = http_body::Body::size_hint(request.body()).lower();
    if settings.max_body.is_some_and(|limit| size > limit) {
        return Err(too_large(settings));
    }
    Ok(())
}

/// Returns the target for the backend if the Ingress rewrites it.
pub fn rewrite(route: &Route, uri: &Uri, path: &str) -> Result<Option<PathAndQuery>, Answer> {
    let Some(template) = &route.settings.rewrite else {
        return Ok(None);
    };
    let mut target = String::new();
    match route.pattern.as_ref().and_then(|p| p.captures(path)) {
        Some(groups) => expand(template, &groups, &mut target),
        None => expand_plain(template, &mut target),
    }
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    if let Some(query) = uri.query() {
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(query);
    }
    let target = PathAndQuery::try_from(target);
    target
        .map(Some)
        .map_err(|_| Answer::new(StatusCode::BAD_REQUEST, "invalid path"))
}

/// Replaces `$1` to `$9` by the groups of a pattern.
fn expand(template: &str, groups: &regex::Captures<'_>, target: &mut String) {
    let mut rest = template.chars().peekable();
    while let Some(c) = rest.next() {
        let digit = rest.peek().and_then(|next| next.to_digit(10));
        match digit.filter(|_| c == '$') {
            Some(digit) => {
                rest.next();
                let group = groups.get(digit as usize);
                target.push_str(group.map_or("", |group| group.as_str()));
            }
            None => target.push(c),
        }
    }
}

/// Without a pattern there are no groups: they are empty.
fn expand_plain(template: &str, target: &mut String) {
    let mut rest = template.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '$' && rest.peek().is_some_and(char::is_ascii_digit) {
            rest.next();
        } else {
            target.push(c);
        }
    }
}

/// Sets the target of a request as the backend's protocol needs it.
pub fn address(
    parts: &mut Parts,
    route: &Route,
    target: Option<PathAndQuery>,
) -> Result<(), Answer> {
    let invalid = || Answer::new(StatusCode::BAD_REQUEST, "invalid target");
    let present = parts.uri.path_and_query().cloned();
    let target = target.or(present).unwrap_or(PathAndQuery::from_static("/"));
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(target);
    let protocol = route.backend.protocol;
    if protocol.http2() {
        let host = parts.headers.remove(HOST);
        let host = host
            .as_ref()
            .and_then(|h| h.to_str().ok())
            .unwrap_or_default();
        let host = if host.is_empty() { "localhost" } else { host };
        uri.authority = Some(host.parse().map_err(|_| invalid())?);
        uri.scheme = Some(if protocol.tls() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        parts.version = Version::HTTP_2;
    } else {
        parts.version = Version::HTTP_11;
    }
    parts.uri = Uri::from_parts(uri).map_err(|_| invalid())?;
    Ok(())
}
