//! Endpoint slices.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::core::service::{immutable, non_special_ip};
use crate::errors::{Errors, child, index};
use crate::generic::Rules;
use crate::names;
use crate::tree::{default_text, default_value, int, list, list_mut, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "EndpointSlice").then_some(&ENDPOINT_SLICE)
}

static ENDPOINT_SLICE: Rules = Rules {
    default: |obj| {
        for port in list_mut(obj, "ports") {
            default_value(port, "name", "");
            default_text(port, "protocol", "TCP");
        }
    },
    validate,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "addressType");
        errors.0
    },
    generation: true,
    create_on_update: false,
    ..Rules::PLAIN
};

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let kind = text(obj, "addressType");
    match kind {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => errors.required("addressType", ""),
        other => errors.not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
    }
    let endpoints = list(obj, "endpoints");
    if endpoints.len() > 1000 {
        errors.too_many("endpoints", endpoints.len(), 1000);
        return errors.0;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let field = index("endpoints", i);
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() {
            errors.required(
                child(&field, "addresses"),
                "must contain at least 1 address",
            );
        } else if addresses.len() > 100 {
            errors.too_many(child(&field, "addresses"), addresses.len(), 100);
        }
        for (j, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let field = index(&child(&field, "addresses"), j);
            match kind {
                "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                    errors.invalid(field, address, "must be an IPv4 address");
                }
                "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                    errors.invalid(field, address, "must be an IPv6 address");
                }
                "IPv4" | "IPv6" => non_special_ip(&mut errors, address, &field),
                "FQDN" => errors.invalid_each(&field, address, names::dns1123_subdomain(address)),
                _ => {}
            }
        }
        let host = text(endpoint, "hostname");
        if !host.is_empty() {
            errors.invalid_each(&child(&field, "hostname"), host, names::dns1123_label(host));
        }
    }
    let ports = list(obj, "ports");
    if ports.len() > 20_000 {
        errors.too_many("ports", ports.len(), 20_000);
        return errors.0;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let field = index("ports", i);
        let name = text(port, "name");
        if !name.is_empty() {
            errors.invalid_each(&child(&field, "name"), name, names::dns1123_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(child(&field, "name"), name);
        }
        if let Some(number) = int(port, "port")
            && !(1..=65535).contains(&number)
        {
            errors.invalid(
                child(&field, "port"),
                number,
                "must be between 1 and 65535, inclusive",
            );
        }
        crate::core::containers::protocol(
            &mut errors,
            text(port, "protocol"),
            &child(&field, "protocol"),
        );
    }
    errors.0
}
