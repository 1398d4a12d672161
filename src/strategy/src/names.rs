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
    let wrong = |why: &str| vec![why.to_owned()];
    let plain = without_leading_zeros(s);
    let Ok(net) = plain.parse::<ipnet::IpNet>() else {
        return wrong("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    };
    if plain != s {
        return wrong("must not have leading 0s in IP or prefix length");
    }
    if let std::net::IpAddr::V6(address) = net.addr()
        && address.to_ipv4_mapped().is_some()
    {
        return wrong("must not have an IPv4-mapped IPv6 address");
    }
    if net.addr() != net.trunc().addr() {
        return wrong("must not have bits set beyond the prefix length");
    }
    Vec::new()
}

/// Removes the leading zeros of an IPv4 address and of the length of its prefix.
fn without_leading_zeros(s: &str) -> String {
    let number = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let address = |text: &str| match text.contains(':') {
        true => text.to_owned(),
        false => text.split('.').map(number).collect::<Vec<_>>().join("."),
    };
    match s.split_once('/') {
        Some((ip, length)) => format!("{}/{}", address(ip), number(length)),
        None => s.to_owned(),
    }
}

/// Validates the name of a CSI driver: at most 63 bytes, a DNS subdomain in letters of either
/// case. An empty name is both missing and malformed, as upstream's.
pub(crate) fn csi_driver(errors: &mut Errors, name: &str, field: &str) {
    if name.is_empty() {
        errors.required(field, "");
    }
    if name.len() > 63 {
        errors.too_long(field, 63);
    }
    errors.invalid_each(field, name, dns1123_subdomain(&name.to_lowercase()));
}

/// Replaces the trailing hyphen of a `generateName`, which is valid because the server appends
/// a suffix. The character before it goes too, so that a prefix may be one longer than a name.
pub(crate) fn mask_trailing_dash(s: &str) -> String {
    match s.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut masked: String = rest.to_owned();
            masked.pop();
            masked.push('a');
            masked
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_strict() {
        for (text, why) in [
            ("10.0.0.0/8", ""),
            ("2001:db8::/64", ""),
            ("0.0.0.0/0", ""),
            (
                "10.0.0.1/8",
                "must not have bits set beyond the prefix length",
            ),
            (
                "2001:db8::1/64",
                "must not have bits set beyond the prefix length",
            ),
            (
                "10.0.0.0/08",
                "must not have leading 0s in IP or prefix length",
            ),
            (
                "010.0.0.0/8",
                "must not have leading 0s in IP or prefix length",
            ),
            (
                "::ffff:10.0.0.0/104",
                "must not have an IPv4-mapped IPv6 address",
            ),
            (
                "10.0.0.0",
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                "300.0.0.0/8",
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
        ] {
            assert_eq!(cidr(text).join(" "), why, "{text}");
        }
    }

    #[test]
    fn generated_names_may_be_longer_by_a_dash() {
        assert_eq!(mask_trailing_dash("ab-"), "aa");
        assert_eq!(mask_trailing_dash("-"), "-");
        assert_eq!(
            mask_trailing_dash(&format!("{}-", "x".repeat(253))).len(),
            253
        );
    }
}
