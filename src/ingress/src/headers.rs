//! Headers of requests and responses that a proxy changes.

use std::net::IpAddr;

use http::header::{
    CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub client: IpAddr,
    /// The port that it connected to.
    pub port: u16,
    /// Whether it uses TLS.
    pub tls: bool,
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const ORIGINAL_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");

/// Headers that tell backends about the client. Only the proxy's own values reach them.
const OWN: [HeaderName; 8] = [
    FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-scheme"),
    HeaderName::from_static("x-real-ip"),
    REQUEST_ID,
];

/// Returns the protocol that a request or response changes to, if it does. HTTP/2 without TLS is
/// not among them: its requests would pass the proxy's rules.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| asked)?;
    let text = protocol.to_str().ok()?;
    (!text.to_ascii_lowercase().contains("h2c")).then(|| protocol.clone())
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',').map(str::trim))
}

/// Removes the headers that are for one connection only (RFC 9110, section 7.6.1).
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|token| token.parse().ok())
            .filter(|name| *name != HOST)
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        TRANSFER_ENCODING,
        UPGRADE,
        TE,
    ] {
        headers.remove(name);
    }
}

/// Prepares the headers of a request for its backend. Returns the request's ID.
pub fn prepare(headers: &mut HeaderMap, host: &HeaderValue, origin: &Origin) -> HeaderValue {
    let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    remove_hop_by_hop(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(PROXY_AUTHORIZATION);
    // The body is sent at once, and the client has been told to continue.
    headers.remove(EXPECT);
    headers.remove(FORWARDED);
    // Some servers take `X_Real_IP` for `X-Real-IP`.
    let disguised: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .filter(|name| {
            let plain = name.as_str().replace('_', "-");
            OWN.iter().any(|own| own.as_str() == plain)
        })
        .cloned()
        .collect();
    for name in disguised {
        headers.remove(name);
    }
    let id = match headers.remove(REQUEST_ID) {
        Some(id) if !id.is_empty() && id.len() <= 256 => id,
        _ => new_id(),
    };
    if let Some(original) = headers.remove(FORWARDED_FOR) {
        headers.insert(ORIGINAL_FOR, original);
    }
    let client = HeaderValue::try_from(origin.client.to_string());
    let client = client.unwrap_or(HeaderValue::from_static("unknown"));
    let scheme = HeaderValue::from_static(if origin.tls { "https" } else { "http" });
    let values = [
        client.clone(),
        host.clone(),
        HeaderValue::from(origin.port),
        scheme.clone(),
        scheme.clone(),
        scheme,
        client,
        id.clone(),
    ];
    for (name, value) in OWN.into_iter().zip(values) {
        headers.insert(name, value);
    }
    headers.insert(HOST, host.clone());
    join_cookies(headers);
    id
}

/// HTTP/2 may split cookies, which HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(COOKIE).into_iter();
    if all.nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn new_id() -> HeaderValue {
    let text = format!("{:032x}", rand::random::<u128>());
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"))
}

/// Returns the value of a cookie of a request.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(COOKIE).into_iter();
    let mut pairs = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}
