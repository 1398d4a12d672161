//! The HTTP client, and the interpretation of responses.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, NoProxy, Proxy, Url};
use rkube_config::registries::{Endpoint, at_host};
use rkube_x509::{AnyServer, Identity, Roots, ServerVerifier};

use crate::error::ImageError;
use crate::spec::RuntimeConfig;

/// Bundles of trusted certificates on Linux distributions, in order of preference.
const ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// The text of rustls's error for a response that is no TLS record.
const NOT_TLS: &str = "InvalidContentType";
/// The characters that are not unreserved in a URI (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Maximum number of attempts of a request or download.
pub(super) const MAX_ATTEMPTS: u32 = 5;
/// Maximum number of redirections of a request.
const MAX_REDIRECTS: usize = 10;
/// Timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of a download or upload without progress, which is then retried.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns an HTTP client that trusts the node's certificates and those of the settings.
pub fn client(config: &RuntimeConfig) -> Result<Client, ImageError> {
    build(config, &Endpoint::default(), Some(STALL_TIMEOUT))
}

/// Returns the client of an endpoint, and one for requests with long bodies, which the first would
/// take for stalled responses.
pub(super) fn endpoint_clients(
    config: &RuntimeConfig,
    endpoint: &Endpoint,
) -> Result<(Client, Client), ImageError> {
    Ok((
        build(config, endpoint, Some(STALL_TIMEOUT))?,
        build(config, endpoint, None)?,
    ))
}

/// Returns the TLS settings of an endpoint.
fn tls(config: &RuntimeConfig, endpoint: &Endpoint) -> Result<rustls::ClientConfig, String> {
    let identity = match &endpoint.identity {
        Some((certificate, key)) => {
            Some(Identity::from_pem(certificate.as_bytes(), key.as_bytes())?)
        }
        None => None,
    };
    if endpoint.passes_login {
        // It gets secrets, so it must be the one that was started.
        let pinned = super::pin::Pinned::from_pem(&endpoint.ca)?;
        return rkube_x509::client_config(Arc::new(pinned), identity).map_err(|e| e.to_string());
    }
    if endpoint.skip_verify {
        return rkube_x509::client_config(Arc::new(AnyServer), identity).map_err(|e| e.to_string());
    }
    let mut roots = Roots::default();
    // Use the first bundle that exists. A node may have none.
    if let Some(bundle) = ROOTS.iter().find_map(|path| std::fs::read(path).ok()) {
        roots.add_pem(&bundle);
    }
    for bundle in config.registries.roots.iter().chain(&endpoint.ca) {
        if roots.add_pem(bundle.as_bytes()) == 0 {
            return Err(rkube_x509::Error::EmptyBundle.to_string());
        }
    }
    rkube_x509::client_config(ServerVerifier::new(roots), identity).map_err(|e| e.to_string())
}

fn build(
    config: &RuntimeConfig,
    endpoint: &Endpoint,
    stall: Option<Duration>,
) -> Result<Client, ImageError> {
    let failed =
        |e: &dyn std::fmt::Display| ImageError::Malformed(format!("cannot set up HTTPS: {e}"));
    // Only the settings count, not the environment of this process.
    let mut builder = Client::builder().no_proxy();
    let proxies = &config.registries.proxies;
    let excluded = NoProxy::from_string(&excluded(config));
    if !proxies.http.is_empty() && !endpoint.passes_login {
        let url = at_host(&proxies.http, config.loopback_gateway);
        let proxy = Proxy::http(url).map_err(|e| failed(&e))?;
        builder = builder.proxy(proxy.no_proxy(excluded.clone()));
    }
    if !proxies.https.is_empty() && !endpoint.passes_login {
        let url = at_host(&proxies.https, config.loopback_gateway);
        let proxy = Proxy::https(url).map_err(|e| failed(&e))?;
        builder = builder.proxy(proxy.no_proxy(excluded));
    }
    if let Some(stall) = stall {
        builder = builder.read_timeout(stall);
    }
    let dial = endpoint.dial_timeout_millis.map(Duration::from_millis);
    builder
        .tls_backend_preconfigured(tls(config, endpoint).map_err(|e| failed(&e))?)
        .user_agent(concat!("rkube/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(dial.unwrap_or(CONNECT_TIMEOUT))
        .redirect(Policy::custom(redirect))
        .build()
        .map_err(|e| failed(&e))
}

/// Returns what no proxy reaches: what the settings say, the node itself and its host.
fn excluded(config: &RuntimeConfig) -> String {
    let mut all = config.registries.proxies.no_proxy.clone();
    for near in ["localhost", "127.0.0.0/8", "::1"] {
        all += &format!(",{near}");
    }
    if let Some(host) = config.loopback_gateway {
        all += &format!(",{host}");
    }
    all
}

/// Follows the redirections that [`check_redirect`] permits.
fn redirect(attempt: Attempt<'_>) -> Action {
    match check_redirect(attempt.previous(), attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(reason) => attempt.error(reason),
    }
}

/// Checks a redirection. Fails if it leads from HTTPS to plain HTTP, where headers and content
/// could be read and changed, or if it is one too many.
fn check_redirect(previous: &[Url], next: &Url) -> Result<(), &'static str> {
    let encrypted = previous.last().is_some_and(|url| url.scheme() == "https");
    if encrypted && next.scheme() != "https" {
        return Err("it redirects from HTTPS to plain HTTP");
    }
    if previous.len() > MAX_REDIRECTS {
        return Err("it redirects too often");
    }
    Ok(())
}

/// Returns whether a registry's host is a loopback address.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => registry.split(':').next().unwrap_or(""),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Returns the first message of a registry's error response.
pub(super) fn registry_error(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let error = value.get("errors")?.get(0)?;
    let part = |key: &str| {
        error
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or("")
    };
    match (part("code"), part("message")) {
        ("", "") => None,
        (code, "") => Some(code.to_string()),
        (_, message) => Some(message.to_string()),
    }
}

/// Returns the delay requested by a `Retry-After` header: seconds, or until a time.
pub(super) fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = time.duration_since(now).as_secs();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Returns the delay before a retry: 0.5 s, doubled with each attempt up to 16 s, plus up to 50 %
/// jitter.
pub(super) fn backoff(attempt: u32) -> Duration {
    let base = 250u64 << attempt.min(6);
    Duration::from_millis(base + rand::random_range(0..=base / 2))
}

/// Returns the root cause of an HTTP error, without the URL.
pub(super) fn describe(error: &reqwest::Error) -> String {
    if let Some(reason) = rkube_x509::reason(error) {
        return reason;
    }
    let mut causes: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    if error.is_timeout() {
        return "it does not answer in time".into();
    }
    match causes.pop() {
        Some(last) if last.contains(NOT_TLS) => "it does not speak TLS".into(),
        Some(last) => last,
        None => error.to_string(),
    }
}

/// Percent-encodes a form value.
pub(super) fn percent_encode(text: &str) -> impl Display + '_ {
    percent_encoding::utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_stay_encrypted_and_end() {
        let url = |text: &str| Url::parse(text).unwrap();
        let (plain, tls) = (url("http://a.example/v2/"), url("https://b.example/x"));
        assert_eq!(check_redirect(std::slice::from_ref(&tls), &tls), Ok(()));
        assert_eq!(check_redirect(std::slice::from_ref(&plain), &tls), Ok(()));
        assert_eq!(check_redirect(std::slice::from_ref(&plain), &plain), Ok(()));
        assert!(check_redirect(std::slice::from_ref(&tls), &plain).is_err());
        assert!(check_redirect(&[plain.clone(), tls.clone()], &plain).is_err());
        assert_eq!(
            check_redirect(&vec![tls.clone(); MAX_REDIRECTS], &tls),
            Ok(())
        );
        assert!(check_redirect(&vec![tls.clone(); MAX_REDIRECTS + 1], &tls).is_err());
    }

    #[test]
    fn the_host_is_reached_without_a_proxy() {
        let mut config = RuntimeConfig::new("/r", "/i", "/u", "/b");
        config.registries.proxies.no_proxy = "a.example".into();
        config.loopback_gateway = Some([192, 0, 2, 2].into());
        let all = excluded(&config);
        assert_eq!(all, "a.example,localhost,127.0.0.0/8,::1,192.0.2.2");
        assert!(NoProxy::from_string(&all).is_some());
    }

    #[test]
    fn delays_are_seconds_or_times() {
        let now: jiff::Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        for (text, seconds) in [
            ("7", Some(7)),
            (" 3600 ", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            let found = retry_after(&headers, now).map(|d| d.as_secs());
            assert_eq!(found, seconds, "{text}");
        }
    }

    #[test]
    fn loopback() {
        for host in [
            "localhost:5000",
            "127.0.0.1",
            "127.0.0.1:5000",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(!is_loopback("localhost.example.com"));
        assert_eq!(percent_encode("a b/é").to_string(), "a%20b%2F%C3%A9");
    }
}
