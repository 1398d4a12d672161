//! Comparison of a certificate's names with the name of a server.

use std::net::IpAddr;

use crate::Error;
use crate::certificate::{Certificate, Names};

/// Checks that a certificate is valid for a DNS name or an IP address. The common name does not
/// count.
pub(crate) fn check(certificate: &Certificate, host: &str) -> Result<(), Error> {
    let none = Names::default();
    let names = certificate.names.as_ref().unwrap_or(&none);
    let fits = match host.parse::<IpAddr>() {
        Ok(address) => names.addresses.contains(&address.to_canonical()),
        Err(_) => names.dns.iter().any(|pattern| covers(pattern, host)),
    };
    if fits {
        Ok(())
    } else {
        Err(Error::Host(complaint(certificate, names, host)))
    }
}

fn complaint(certificate: &Certificate, names: &Names, host: &str) -> String {
    if certificate.names.is_none() && covers(&certificate.common_name, host) {
        return "certificate relies on legacy Common Name field, use SANs instead".into();
    }
    let valid = if host.parse::<IpAddr>().is_ok() {
        if names.addresses.is_empty() {
            return format!(
                "cannot validate certificate for {host} because it doesn't contain any IP SANs"
            );
        }
        let texts: Vec<String> = names.addresses.iter().map(IpAddr::to_string).collect();
        texts.join(", ")
    } else {
        names.dns.join(", ")
    };
    if valid.is_empty() {
        format!("certificate is not valid for any names, but wanted to match {host}")
    } else {
        format!("certificate is valid for {valid}, not {host}")
    }
}

/// Returns whether a name of a certificate covers a host. Names that are not valid host names
/// must be equal to it.
pub(crate) fn covers(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    if !is_valid(&host, false) || !is_valid(&pattern, true) {
        return !host.is_empty() && host != "." && pattern == host;
    }
    let host = host.strip_suffix('.').unwrap_or(&host);
    match pattern.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
        None => pattern == host,
    }
}

/// Returns whether a text is a host name, or a pattern of one that begins with the label `*`.
/// Underscores are accepted: they are common, though not valid.
fn is_valid(host: &str, is_pattern: bool) -> bool {
    let host = match host.strip_suffix('.') {
        Some(rest) if !is_pattern => rest,
        _ => host,
    };
    if host.is_empty() || host == "*" {
        return false;
    }
    host.split('.').enumerate().all(|(index, label)| {
        if is_pattern && index == 0 && label == "*" {
            return true;
        }
        let fits = |(at, byte): (usize, u8)| {
            byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' && at != 0
        };
        !label.is_empty() && label.bytes().enumerate().all(fits)
    })
}
