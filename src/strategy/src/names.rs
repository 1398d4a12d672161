//! The syntax of names, addresses and paths: the API crate's rules, and those
//! that only strategies need.

pub(crate) use rkube_api::names::*;

use crate::errors::Errors;

/// An absolute path.
pub(crate) fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
}

/// `..` as a step of a path?
pub(crate) fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|step| step == "..")
}

/// An IPv4 or IPv6 address.
pub(crate) fn ip(s: &str) -> Vec<String> {
    match s.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An address range.
pub(crate) fn cidr(s: &str) -> Vec<String> {
    match s.parse::<ipnet::IpNet>() {
        Ok(_) => Vec::new(),
        Err(_) => {
            vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
        }
    }
}

/// The name to check of a `generateName`: a trailing hyphen is fine, the
/// server's suffix follows it.
pub(crate) fn mask_trailing_dash(s: &str) -> String {
    match s.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => s.to_owned(),
    }
}

/// Reports what is wrong with a path that a domain precedes, such as
/// `example.com/controller` (upstream: `IsDomainPrefixedPath`).
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
