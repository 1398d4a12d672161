//! The HTTP client, and the interpretation of responses.

use std::fmt::Display;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, Url};
use rkube_x509::{Roots, ServerVerifier};

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

/// Returns an HTTP client that trusts the node's certificates and `config.extra_roots`.
pub fn client(config: &RuntimeConfig) -> Result<Client, ImageError> {
    build(config, Some(STALL_TIMEOUT))
}

/// Returns a client for requests with long bodies, which [`client`] would take for stalled
/// responses.
pub(super) fn upload_client(config: &RuntimeConfig) -> Result<Client, ImageError> {
    build(config, None)
}

fn build(config: &RuntimeConfig, stall: Option<Duration>) -> Result<Client, ImageError> {
    let failed =
        |e: &dyn std::fmt::Display| ImageError::Malformed(format!("cannot set up HTTPS: {e}"));
    let mut roots = Roots::default();
    // Use the first bundle that exists. A node may have none.
    if let Some(bundle) = ROOTS.iter().find_map(|path| std::fs::read(path).ok()) {
        roots.add_pem(&bundle);
    }
    for bundle in &config.extra_roots {
        if roots.add_pem(bundle) == 0 {
            return Err(failed(&rkube_x509::Error::EmptyBundle));
        }
    }
    let tls =
        rkube_x509::client_config(ServerVerifier::new(roots), None).map_err(|e| failed(&e))?;
    let mut builder = Client::builder();
    if let Some(stall) = stall {
        builder = builder.read_timeout(stall);
    }
    builder
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("rkube/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(Policy::custom(redirect))
        .build()
        .map_err(|e| failed(&e))
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

/// Returns the delay requested by a `Retry-After` header in seconds, at most one minute.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds.min(60)))
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
