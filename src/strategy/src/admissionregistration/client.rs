//! Validation of where a webhook is (upstream: `ValidateWebhookURL`, `ValidateWebhookService`).

use serde_json::Value;

use crate::errors::{Errors, child};
use crate::names;
use crate::tree::{at, has, int, text};

const FORM: &str = "; desired format: https://host[/path]";

/// Validates a webhook's URL: `https`, with a host, without user, query and fragment.
pub(crate) fn url(errors: &mut Errors, url: &str, field: &str) {
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once(':').unwrap_or(("", rest));
    if !scheme.eq_ignore_ascii_case("https") {
        let why = format!("'https' is the only allowed URL scheme{FORM}");
        errors.invalid(field, scheme, why);
    }
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let authority = authority.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.invalid(field, host, format!("host must be specified{FORM}"));
    }
    for (part, what) in [
        (user, "user information is"),
        (fragment, "fragments are"),
        (query, "query parameters are"),
    ] {
        if !part.is_empty() {
            errors.invalid(field, part, format!("{what} not permitted in the URL"));
        }
    }
}

/// Validates a webhook's service.
pub(crate) fn service(errors: &mut Errors, service: &Value, field: &str) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            errors.required(child(field, key), format!("service {key} is required"));
        }
    }
    let port = int(service, "port").unwrap_or(443);
    let problems = names::port_number(port);
    if !problems.is_empty() {
        let why = format!("port is not valid: {}", problems.join(", "));
        errors.invalid(child(field, "port"), port, why);
    }
    if has(service, "path") {
        path(errors, at(service, "path"), &child(field, "path"));
    }
}

/// Validates the path of a service: segments that are DNS subdomains.
fn path(errors: &mut Errors, path: &Value, field: &str) {
    let path = path.as_str().unwrap_or_default();
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        errors.invalid(field, path, "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        errors.invalid(field, path, "must start with a '/'");
    }
    // As upstream, the first character goes whether it is a slash or not.
    let mut rest: String = path.chars().skip(1).collect();
    if rest.ends_with('/') {
        rest.pop();
    }
    for (i, segment) in rest.split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(field, path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in names::dns1123_subdomain(segment) {
            errors.invalid(field, path, format!("segment[{i}]: {why}"));
        }
    }
}
