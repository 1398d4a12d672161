//! Syntax of names, addresses and paths: re-exports the API crate's functions and adds those
//! that only strategies need.

pub(crate) use rkube_api::names::*;

use crate::errors::Errors;

/// Returns whether a path is absolute.
pub(crate) fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
}

/// Returns whether a path has the segment `..`.
pub(crate) fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|step| step == "..")
}

/// Returns the errors of an IPv4 or IPv6 address.
pub(crate) fn ip(s: &str) -> Vec<String> {
    match s.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// Returns the errors of a CIDR.
pub(crate) fn cidr(s: &str) -> Vec<String> {
    match s.parse::<ipnet::IpNet>() {
        Ok(_) => Vec::new(),
        Err(_) => {
            vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
        }
    }
}

/// Replaces the trailing hyphen of a `generateName`, which is valid because the server appends
/// a suffix.
pub(crate) fn mask_trailing_dash(s: &str) -> String {
    match s.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => s.to_owned(),
    }
}

/// Validates a path with a domain prefix, such as `example.com/controller` (upstream:
/// `IsDomainPrefixedPath`).
pub(crate) fn domain_prefixed_path(errors: &mut Errors, value: &str, field: &str) {
    if value.is_empty() {
        errors.required(field, "");
        return;
    }
    let (host, path) = match value.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => (host, path),
        _ => {
            errors.invalid(
                field,
                value,
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            );
            return;
        }
    };
    errors.invalid_each(field, host, dns1123_subdomain(host));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !path.chars().all(allowed) {
        errors.invalid(
            field,
            path,
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
        );
    }
}
