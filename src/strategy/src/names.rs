//! Syntax of names, addresses and paths: re-exports the API crate's functions and adds those
//! that only strategies need.

pub(crate) use rkube_api::names::*;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::errors::Errors;

/// Returns whether a path is absolute.
pub(crate) fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
}

/// Returns whether a path has the segment `..`.
pub(crate) fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|step| step == "..")
}

/// Messages about addresses that were valid before their notation became strict.
const STRICTNESS: [&str; 5] = [
    "must not have leading 0s",
    "must not be an IPv4-mapped IPv6 address",
    "must not have leading 0s in IP or prefix length",
    "must not have an IPv4-mapped IPv6 address",
    "must not have bits set beyond the prefix length",
];

/// Returns whether an error's detail is about the strict notation of addresses.
pub(crate) fn is_strictness(detail: &str) -> bool {
    STRICTNESS.contains(&detail)
}

/// Parses an address, whose IPv4 numbers may have leading zeros (Go: `ParseIPSloppy`).
pub(crate) fn parse_ip(s: &str) -> Option<IpAddr> {
    without_leading_zeros(s).parse().ok()
}

/// Parses a CIDR, whose numbers may have leading zeros (Go: `ParseCIDRSloppy`).
pub(crate) fn parse_cidr(s: &str) -> Option<IpNet> {
    without_leading_zeros(s).parse().ok()
}

/// Returns the errors of an IPv4 or IPv6 address, which need not be canonical.
pub(crate) fn ip(s: &str) -> Vec<String> {
    let why = match parse_ip(s) {
        None => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        Some(_) if s.parse::<IpAddr>().is_err() => STRICTNESS[0],
        Some(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => STRICTNESS[1],
        Some(_) => return Vec::new(),
    };
    vec![why.to_owned()]
}

/// Returns the errors of an address, which must be canonical (upstream: `IsValidIP`).
pub(crate) fn canonical_ip(s: &str) -> Vec<String> {
    let errors = ip(s);
    match parse_ip(s) {
        Some(address) if errors.is_empty() && address.to_string() != s => {
            vec![format!("must be in canonical form (\"{address}\")")]
        }
        _ => errors,
    }
}

/// Returns the errors of a CIDR, which need not be canonical.
pub(crate) fn cidr(s: &str) -> Vec<String> {
    let why = match parse_cidr(s) {
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        Some(_) if without_leading_zeros(s) != s => STRICTNESS[2],
        Some(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => STRICTNESS[3],
        Some(net) if net != net.trunc() => STRICTNESS[4],
        Some(_) => return Vec::new(),
    };
    vec![why.to_owned()]
}

/// Returns the errors of a CIDR, which must be canonical (upstream: `IsValidCIDR`).
pub(crate) fn canonical_cidr(s: &str) -> Vec<String> {
    let errors = cidr(s);
    match parse_cidr(s) {
        Some(net) if errors.is_empty() && net.to_string() != s => {
            vec![format!("must be in canonical form (\"{net}\")")]
        }
        _ => errors,
    }
}

/// Returns warnings about an address that is not canonical (upstream: `GetWarningsForIP`).
pub(crate) fn ip_warnings(s: &str, field: &str) -> Vec<String> {
    let Some(address) = parse_ip(s) else {
        return Vec::new();
    };
    if !ip(s).is_empty() {
        let address = address.to_canonical();
        vec![format!(
            "{field}: non-standard IP address {s:?} will be considered invalid in a future Kubernetes release: use \"{address}\""
        )]
    } else if address.is_ipv6() && address.to_string() != s {
        vec![format!(
            "{field}: IPv6 address {s:?} should be in RFC 5952 canonical format (\"{address}\")"
        )]
    } else {
        Vec::new()
    }
}

/// Returns warnings about a CIDR that is not canonical (upstream: `GetWarningsForCIDR`).
pub(crate) fn cidr_warnings(s: &str, field: &str) -> Vec<String> {
    let Some(net) = parse_cidr(s) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    let clean = net.trunc();
    if net != clean {
        let (address, bits) = (net.addr(), net.max_prefix_len());
        warnings.push(format!(
            "{field}: CIDR value {s:?} is ambiguous in this context (should be \"{clean}\" or \"{address}/{bits}\"?)"
        ));
    }
    let mapped = matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some());
    if mapped || without_leading_zeros(s) != s {
        warnings.push(format!(
            "{field}: non-standard CIDR value {s:?} will be considered invalid in a future Kubernetes release: use \"{clean}\""
        ));
    }
    if warnings.is_empty() && net.addr().is_ipv6() && net.to_string() != s {
        warnings.push(format!(
            "{field}: IPv6 CIDR value {s:?} should be in RFC 5952 canonical format (\"{net}\")"
        ));
    }
    warnings
}

/// Removes the leading zeros of IPv4 numbers, and of the length of a prefix.
fn without_leading_zeros(s: &str) -> String {
    let number = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let dotted = |text: &str| text.split('.').map(number).collect::<Vec<_>>().join(".");
    let address = |text: &str| match text.rfind(':') {
        // An IPv6 address may end in an IPv4 address.
        Some(colon) if text.contains('.') => {
            format!("{}{}", &text[..=colon], dotted(&text[colon + 1..]))
        }
        Some(_) => text.to_owned(),
        None => dotted(text),
    };
    match s.split_once('/') {
        Some((ip, length)) => format!("{}/{}", address(ip), number(length)),
        None => address(s),
    }
}

/// Validates a domain of at least `segments` labels; an optional trailing dot is not part of it.
pub(crate) fn qualified_domain(errors: &mut Errors, name: &str, segments: usize, field: &str) {
    if name.is_empty() {
        errors.required(field, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let problems = dns1123_subdomain(name);
    let labels: Vec<&str> = name.split('.').collect();
    if !problems.is_empty() {
        errors.invalid(field, name, problems.join(","));
    } else if labels.len() < segments {
        let number = if segments == 2 { "two" } else { "three" };
        let why = format!("should be a domain with at least {number} segments separated by dots");
        errors.invalid(field, name, why);
    }
}

/// Validates the name of a CSI driver: at most 63 bytes, a DNS subdomain in letters of either
/// case.
pub(crate) fn csi_driver(errors: &mut Errors, name: &str, field: &str) {
    if name.is_empty() {
        errors.required(field, "");
        return;
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
    fn addresses_are_strict() {
        let invalid = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        let zeros = "must not have leading 0s";
        let mapped = "must not be an IPv4-mapped IPv6 address";
        for (text, why) in [
            ("1.2.3.4", ""),
            ("0.0.0.0", ""),
            ("2001:db8::1", ""),
            ("::1.2.3.4", ""),
            ("FE80:0:0:0:0:0:0:0ABC", ""),
            ("1.2.3.04", zeros),
            ("010.002.003.004", zeros),
            ("::ffff:1.2.3.04", zeros),
            ("::ffff:1.2.3.4", mapped),
            ("::ffff:0102:0304", mapped),
            ("", invalid),
            ("1.2.3", invalid),
            ("1.2.3.4.5", invalid),
            ("256.2.3.4", invalid),
            ("1.2.3.4/8", invalid),
            ("fe80::1%eth0", invalid),
            ("a.example.com", invalid),
        ] {
            assert_eq!(ip(text).join(" "), why, "{text}");
        }
    }

    #[test]
    fn canonical_addresses() {
        for (text, why) in [
            ("1.2.3.4", ""),
            ("2001:db8::1", ""),
            ("2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"),
            (
                "2001:db8:0:0::1",
                "must be in canonical form (\"2001:db8::1\")",
            ),
            ("01.2.3.4", "must not have leading 0s"),
        ] {
            assert_eq!(canonical_ip(text).join(" "), why, "{text}");
        }
        for (text, why) in [
            ("10.0.0.0/8", ""),
            ("2001:db8::/64", ""),
            (
                "2001:DB8::/64",
                "must be in canonical form (\"2001:db8::/64\")",
            ),
            (
                "10.0.0.1/8",
                "must not have bits set beyond the prefix length",
            ),
        ] {
            assert_eq!(canonical_cidr(text).join(" "), why, "{text}");
        }
    }

    #[test]
    fn warnings_about_notation() {
        for (text, want) in [
            ("1.2.3.4", ""),
            ("2001:db8::1", ""),
            ("nonsense", ""),
            (
                "01.2.3.4",
                r#"f: non-standard IP address "01.2.3.4" will be considered invalid in a future Kubernetes release: use "1.2.3.4""#,
            ),
            (
                "::ffff:1.2.3.4",
                r#"f: non-standard IP address "::ffff:1.2.3.4" will be considered invalid in a future Kubernetes release: use "1.2.3.4""#,
            ),
            (
                "2001:DB8::1",
                r#"f: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#,
            ),
        ] {
            assert_eq!(ip_warnings(text, "f").join(" "), want, "{text}");
        }
        for (text, want) in [
            ("10.0.0.0/8", ""),
            ("2001:db8::/64", ""),
            ("nonsense/8", ""),
            (
                "10.0.0.5/8",
                r#"f: CIDR value "10.0.0.5/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.5/32"?)"#,
            ),
            (
                "10.0.0.0/08",
                r#"f: non-standard CIDR value "10.0.0.0/08" will be considered invalid in a future Kubernetes release: use "10.0.0.0/8""#,
            ),
            (
                "2001:DB8::/64",
                r#"f: IPv6 CIDR value "2001:DB8::/64" should be in RFC 5952 canonical format ("2001:db8::/64")"#,
            ),
        ] {
            assert_eq!(cidr_warnings(text, "f").join(" "), want, "{text}");
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
