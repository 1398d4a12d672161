//! The status of claims: what is allocated, to whom, and how the devices are.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use super::claims::{MAX_REQUESTS, Requests};
use super::common::{
    MAX_PARAMETERS, as_text, binding_conditions, configuration, distinct, label, limited, pool, raw,
};
use crate::core::pod_affinity;
use crate::core::service::immutable;
use crate::errors::{Errors, child, show_fields, shown_text};
use crate::generic::deleting;
use crate::tree::{at, has, list, put, remove, same, text};
use crate::{conditions, names};

/// Most users of a claim.
const MAX_USERS: usize = 256;
/// Most conditions of a device.
const MAX_CONDITIONS: usize = 8;
/// Most addresses of a device.
const MAX_ADDRESSES: usize = 16;

/// The identity of a device, or of the share of one.
type Id<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

fn id(device: &Value) -> Id<'_> {
    (
        text(device, "driver"),
        text(device, "pool"),
        text(device, "device"),
        at(device, "shareID").as_str(),
    )
}

fn allocated(obj: &Object) -> BTreeSet<Id<'_>> {
    let results = list(obj, "status.allocation.devices.results");
    results.iter().map(id).collect()
}

/// Removes the status of devices that are no longer allocated.
pub(super) fn drop_deallocated(new: &mut Object, old: &Object) {
    let now = allocated(new);
    let gone: BTreeSet<Id<'_>> = allocated(old).difference(&now).copied().collect();
    let left: Vec<Value> = list(new, "status.devices")
        .iter()
        .filter(|device| !gone.contains(&id(device)))
        .cloned()
        .collect();
    if left.is_empty() {
        remove(new, "status.devices");
    } else {
        put(new, "status.devices", left);
    }
}

/// Validates the status of a claim (upstream: `validateResourceClaimStatusUpdate`).
pub(super) fn validate(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let users = "status.reservedFor";
    distinct(
        &mut errors,
        at(new, users),
        MAX_USERS,
        users,
        user,
        |user| text(user, "uid"),
    );
    devices(&mut errors, new);
    let reserved = list(new, users);
    let allocation = "status.allocation";
    if !reserved.is_empty() {
        if !has(new, allocation) {
            let why = "may not be specified when `allocated` is not set";
            errors.forbidden(users, why);
        } else if deleting(new) {
            let before = list(old, users);
            if reserved
                .iter()
                .any(|user| !before.iter().any(|b| same(b, user)))
            {
                let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
                errors.forbidden(users, why);
            }
        }
    }
    if has(new, allocation) {
        if has(old, allocation) {
            immutable(&mut errors, new, old, allocation);
        } else {
            allocation_result(&mut errors, new);
        }
    }
    errors.0
}

fn user(errors: &mut Errors, user: &Value, field: &str) {
    for key in ["resource", "name", "uid"] {
        if text(user, key).is_empty() {
            errors.required(child(field, key), "");
        }
    }
}

fn allocation_result(errors: &mut Errors, obj: &Object) {
    let requests = Requests::of(at(obj, "spec.devices"));
    let results = "status.allocation.devices.results";
    limited(
        errors,
        at(obj, results),
        MAX_REQUESTS,
        results,
        |errors, result, field| {
            let request = text(result, "request");
            requests.reference(errors, request, &child(field, "request"));
            device_name(errors, result, field);
            binding_conditions(errors, result, field);
            share(errors, result, field);
        },
    );
    let configs = "status.allocation.devices.config";
    limited(
        errors,
        at(obj, configs),
        2 * MAX_REQUESTS,
        configs,
        |errors, config, field| {
            let known = ["FromClaim", "FromClass"];
            match text(config, "source") {
                "" => errors.required(child(field, "source"), ""),
                source if known.contains(&source) => {}
                other => errors.not_supported(child(field, "source"), other, &known),
            }
            requests.references(errors, at(config, "requests"), &child(field, "requests"));
            configuration(errors, config, field);
        },
    );
    let selector = "status.allocation.nodeSelector";
    if has(obj, selector) {
        pod_affinity::node_selector_with(errors, at(obj, selector), true, selector);
    }
}

fn device_name(errors: &mut Errors, device: &Value, field: &str) {
    names::csi_driver(errors, text(device, "driver"), &child(field, "driver"));
    pool(errors, text(device, "pool"), &child(field, "pool"));
    label(errors, text(device, "device"), &child(field, "device"));
}

/// Validates the identifier of a share: a UUID in its usual notation.
fn share(errors: &mut Errors, device: &Value, field: &str) {
    let Some(uid) = at(device, "shareID").as_str() else {
        return;
    };
    let field = child(field, "shareID");
    if let Some(why) = uuid_problem(uid) {
        errors.invalid(field, uid, format!("error validating uid: {why}"));
    } else if uid.len() != 36 || uid != uid.to_lowercase() {
        let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errors.invalid(field, uid, why);
    }
}

/// Returns what is wrong with a UUID, which may be without hyphens, in braces, or a URN.
fn uuid_problem(uid: &str) -> Option<String> {
    const FORMAT: &str = "invalid UUID format";
    let text = match uid.len() {
        36 => uid,
        45 => match uid.get(..9) {
            Some(prefix) if prefix.eq_ignore_ascii_case("urn:uuid:") => &uid[9..],
            _ => {
                return Some(format!(
                    "invalid urn prefix: {:?}",
                    uid.get(..9).unwrap_or(uid)
                ));
            }
        },
        38 => match uid.strip_prefix('{').and_then(|uid| uid.strip_suffix('}')) {
            Some(uid) => uid,
            None => return Some("invalid bracketed UUID format".to_owned()),
        },
        32 => {
            let hex = uid.bytes().all(|b| b.is_ascii_hexdigit());
            return (!hex).then(|| FORMAT.to_owned());
        }
        length => return Some(format!("invalid UUID length: {length}")),
    };
    let fits = text.bytes().enumerate().all(|(i, b)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    });
    (!fits).then(|| FORMAT.to_owned())
}

/// Validates what drivers tell about the allocated devices.
fn devices(errors: &mut Errors, obj: &Object) {
    let known = allocated(obj);
    let path = "status.devices";
    limited(
        errors,
        at(obj, path),
        usize::MAX,
        path,
        |errors, device, field| {
            device_name(errors, device, field);
            share(errors, device, field);
            if !known.contains(&id(device)) {
                let why = "must be an allocated device in the claim";
                errors.invalid_shown(field, &shown_id(device), why);
            }
            let conditions = list(device, "conditions");
            let path = child(field, "conditions");
            if conditions.len() > MAX_CONDITIONS {
                errors.too_many(path.clone(), conditions.len(), MAX_CONDITIONS);
            }
            conditions::validate(errors, conditions, &path);
            if has(device, "data") {
                raw(
                    errors,
                    at(device, "data"),
                    MAX_PARAMETERS,
                    &child(field, "data"),
                );
            }
            network(
                errors,
                at(device, "networkData"),
                &child(field, "networkData"),
            );
        },
    );
    let mut seen = BTreeSet::new();
    for (i, device) in list(obj, path).iter().enumerate() {
        if !seen.insert(id(device)) {
            errors.duplicate_shown(crate::errors::index(path, i), &shown_id(device));
        }
    }
}

fn shown_id(device: &Value) -> String {
    show_fields(&[
        ("Driver", shown_text(device, "driver")),
        ("Pool", shown_text(device, "pool")),
        ("Device", shown_text(device, "device")),
        ("ShareID", shown_text(device, "shareID")),
    ])
}

fn network(errors: &mut Errors, data: &Value, field: &str) {
    for (key, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(data, key).len() > max {
            errors.too_long(child(field, key), max);
        }
    }
    let item = |errors: &mut Errors, address: &Value, field: &str| {
        address_of_interface(errors, as_text(address), field);
    };
    distinct(
        errors,
        at(data, "ips"),
        MAX_ADDRESSES,
        &child(field, "ips"),
        item,
        as_text,
    );
}

/// Validates an address with the length of its network, in canonical form.
fn address_of_interface(errors: &mut Errors, address: &str, field: &str) {
    let Some(net) = names::parse_cidr(address) else {
        let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        errors.invalid(field, address, why);
        return;
    };
    let canonical = match net {
        ipnet::IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some() => {
            let address = net.addr().to_ipv4_mapped();
            let address = address.map(|a| a.to_string()).unwrap_or_default();
            let length = net.prefix_len();
            let length = if length > 32 {
                length.saturating_sub(96)
            } else {
                length
            };
            format!("{address}/{length}")
        }
        net => net.to_string(),
    };
    if canonical != address {
        errors.invalid(
            field,
            address,
            format!("must be in canonical form ({canonical:?})"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::uuid_problem;

    #[test]
    fn uuids() {
        for (text, want) in [
            ("4bf36933-5939-483a-8ff0-31b4a3612fbc", None),
            ("{4bf36933-5939-483a-8ff0-31b4a3612fbc}", None),
            ("urn:uuid:4bf36933-5939-483a-8ff0-31b4a3612fbc", None),
            ("4bf369335939483a8ff031b4a3612fbc", None),
            (
                "4bf36933-5939-483a-8ff0+31b4a3612fbc",
                Some("invalid UUID format"),
            ),
            ("a", Some("invalid UUID length: 1")),
        ] {
            assert_eq!(uuid_problem(text).as_deref(), want, "{text}");
        }
    }
}
