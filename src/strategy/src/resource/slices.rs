//! Validation of slices of the devices that drivers offer.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use super::capacity;
use super::common::{binding_conditions, distinct, label, limited, pool, qualified_name, taint};
use crate::core::pod_affinity;
use crate::errors::{Errors, IMMUTABLE, child, keyed, show_fields, shown_any};
use crate::names;
use crate::tree::{as_map, at, entries, flag, has, int, list, remove, same_at, text};

/// Most devices of a slice.
const MAX_DEVICES: usize = 128;
/// Most devices of a slice with taints or counters.
const MAX_ADVANCED_DEVICES: usize = 64;
/// Most sets of counters of a slice.
const MAX_COUNTER_SETS: usize = 8;
/// Most counters of a set, or of what a device takes from it.
const MAX_COUNTERS: usize = 32;
/// Most sets of counters that a device takes from.
const MAX_CONSUMED_SETS: usize = 2;
/// Most attributes and capacities of a device.
const MAX_PROPERTIES: usize = 32;
/// Most values of attributes of a device.
const MAX_VALUES: usize = 48;
/// Longest value of an attribute, in bytes.
const MAX_VALUE: usize = 64;
/// Most taints of a device.
const MAX_TAINTS: usize = 16;
/// Lists of values of an attribute; their feature gate is off in v1.36.
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// Removes the fields of a device whose feature gates are off in v1.36.
pub(super) fn drop_disabled(device: &mut Value) {
    remove(device, "nodeAllocatableResourceMappings");
    if let Some(attributes) = crate::tree::at_mut(device, "attributes") {
        for attribute in as_map(attributes).values_mut() {
            for list in LISTS {
                remove(attribute, list);
            }
        }
    }
}

/// Validates a slice, or the update of one.
pub(super) fn validate(obj: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    names::csi_driver(&mut errors, text(obj, "spec.driver"), "spec.driver");
    pool(&mut errors, text(obj, "spec.pool.name"), "spec.pool.name");
    let slices = int(obj, "spec.pool.resourceSliceCount").unwrap_or(0);
    if slices <= 0 {
        let field = "spec.pool.resourceSliceCount";
        errors.invalid(field, slices, "must be greater than zero");
    }
    let generation = int(obj, "spec.pool.generation").unwrap_or(0);
    if generation < 0 {
        let why = "must be greater than or equal to zero";
        errors.invalid("spec.pool.generation", generation, why);
    }
    if let Some(old) = old {
        for path in ["spec.pool.name", "spec.driver", "spec.nodeName"] {
            if !same_at(obj, old, path) {
                errors.invalid(path, at(obj, path).clone(), IMMUTABLE);
            }
        }
    }
    place_of_slice(&mut errors, obj);
    if has(obj, "spec.sharedCounters") && has(obj, "spec.devices") {
        let why = "only one of `sharedCounters` or `devices` is allowed";
        errors.invalid("spec", "", why);
    }
    let devices = list(obj, "spec.devices");
    let advanced = |device: &Value| {
        !list(device, "taints").is_empty() || !list(device, "consumesCounters").is_empty()
    };
    let max = match devices.iter().any(advanced) {
        true => MAX_ADVANCED_DEVICES,
        false => MAX_DEVICES,
    };
    let per_device = flag(obj, "spec.perDeviceNodeSelection");
    let item = |errors: &mut Errors, item: &Value, field: &str| {
        let before = old.and_then(|old| {
            let same = |d: &&Value| text(d, "name") == text(item, "name");
            list(old, "spec.devices").iter().find(same)
        });
        device(errors, item, before, per_device, field);
    };
    let name = |value| text(value, "name");
    distinct(
        &mut errors,
        at(obj, "spec.devices"),
        max,
        "spec.devices",
        item,
        name,
    );
    let sets = at(obj, "spec.sharedCounters");
    let field = "spec.sharedCounters";
    distinct(
        &mut errors,
        sets,
        MAX_COUNTER_SETS,
        field,
        |errors, set, field| {
            counters(errors, set, "name", field);
        },
        name,
    );
    errors.0
}

/// Validates where the devices of a slice are.
fn place_of_slice(errors: &mut Errors, obj: &Object) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut set = Vec::new();
    let node = text(obj, "spec.nodeName");
    if has(obj, "spec.nodeName") {
        if node.is_empty() {
            let why = "must be either unset or set to a non-empty string";
            errors.invalid("spec.nodeName", node, why);
        } else {
            set.push("`nodeName`");
            errors.invalid_each("spec.nodeName", node, names::dns1123_subdomain(node));
        }
    }
    if has(obj, "spec.nodeSelector") {
        set.push("`nodeSelector`");
        let selector = at(obj, "spec.nodeSelector");
        pod_affinity::node_selector_with(errors, selector, true, "spec.nodeSelector");
        if list(selector, "nodeSelectorTerms").len() != 1 {
            errors.invalid(
                "spec.nodeSelector.nodeSelectorTerms",
                at(selector, "nodeSelectorTerms").clone(),
                "must have exactly one node selector term",
            );
        }
    }
    for key in ["allNodes", "perDeviceNodeSelection"] {
        let path = child("spec", key);
        if flag(obj, &path) {
            set.push(if key == "allNodes" {
                "`allNodes`"
            } else {
                "`perDeviceNodeSelection`"
            });
        } else if has(obj, &path) {
            errors.invalid(path, false, "must be either unset or set to true");
        }
    }
    match set.len() {
        0 => errors.required("spec", ONE),
        1 => {}
        _ => errors.invalid(
            "spec",
            format!("{{{}}}", set.join(", ")),
            format!("{ONE}, but multiple fields are set"),
        ),
    }
}

/// Validates a set of counters, or what a device takes from it; `key` is the field of its name.
fn counters(errors: &mut Errors, set: &Value, key: &str, field: &str) {
    let name = text(set, key);
    if name.is_empty() {
        errors.required(child(field, key), "");
    } else {
        label(errors, name, &child(field, key));
    }
    let path = child(field, "counters");
    let count = entries(set, "counters").count();
    if count == 0 {
        errors.required(path, "");
    } else if count > MAX_COUNTERS {
        errors.too_many(path, count, MAX_COUNTERS);
    } else {
        for (name, _) in entries(set, "counters") {
            label(errors, name, &path);
        }
    }
}

fn device(errors: &mut Errors, device: &Value, old: Option<&Value>, per_device: bool, field: &str) {
    label(errors, text(device, "name"), &child(field, "name"));
    let count = |key: &str| entries(device, key).count();
    let properties = count("attributes") + count("capacity");
    if properties > MAX_PROPERTIES {
        let why = format!(
            "the total number of attributes and capacities must not exceed {MAX_PROPERTIES}"
        );
        errors.invalid(field, properties, why);
    }
    let values = values_of(device);
    if values > MAX_VALUES {
        let why = format!("the total number of attribute values must not exceed {MAX_VALUES}");
        errors.invalid(field, values, why);
    }
    let path = child(field, "attributes");
    for (name, value) in entries(device, "attributes") {
        qualified_name(errors, name, &path);
        attribute(errors, value, &keyed(&path, &cut(name)));
    }
    let path = child(field, "capacity");
    for (name, value) in entries(device, "capacity") {
        qualified_name(errors, name, &path);
        let path = keyed(&path, &cut(name));
        capacity::validate(
            errors,
            value,
            flag(device, "allowMultipleAllocations"),
            &path,
        );
    }
    if !old.is_some_and(|old| same_at(old, device, "taints")) {
        limited(
            errors,
            at(device, "taints"),
            MAX_TAINTS,
            &child(field, "taints"),
            taint,
        );
    }
    let path = child(field, "consumesCounters");
    let consumed = at(device, "consumesCounters");
    distinct(
        errors,
        consumed,
        MAX_CONSUMED_SETS,
        &path,
        |errors, set, field| {
            counters(errors, set, "counterSet", field);
        },
        |set| text(set, "counterSet"),
    );
    place_of_device(errors, device, per_device, field);
    binding_conditions(errors, device, field);
}

/// Validates where a device is, if the slice leaves that to its devices.
fn place_of_device(errors: &mut Errors, device: &Value, per_device: bool, field: &str) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !per_device {
        let places = ["nodeName", "nodeSelector", "allNodes"];
        if places.iter().any(|key| has(device, key)) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(field, Value::Null, why);
        }
        return;
    }
    let mut set = Vec::new();
    if has(device, "nodeName") {
        let node = text(device, "nodeName");
        let path = child(field, "nodeName");
        if node.is_empty() {
            errors.invalid(path, node, "must not be empty");
        } else {
            set.push("`nodeName`");
            errors.invalid_each(&path, node, names::dns1123_subdomain(node));
        }
    }
    if has(device, "nodeSelector") {
        set.push("`nodeSelector`");
        let selector = at(device, "nodeSelector");
        pod_affinity::node_selector_with(errors, selector, true, &child(field, "nodeSelector"));
    }
    if flag(device, "allNodes") {
        set.push("`allNodes`");
    } else if has(device, "allNodes") {
        let why = "must be either unset or set to true";
        errors.invalid(child(field, "allNodes"), false, why);
    }
    match set.len() {
        0 => errors.required(field, ONE),
        1 => {}
        _ => errors.invalid(field, format!("{{{}}}", set.join(", ")), ONE),
    }
}

/// Returns the number of values of a device's attributes.
fn values_of(device: &Value) -> usize {
    let of = |attribute: &Value| {
        let listed: usize = LISTS.iter().map(|key| list(attribute, key).len()).sum();
        listed.max(1)
    };
    entries(device, "attributes")
        .map(|(_, value)| of(value))
        .sum()
}

/// Shortens the key of a map for the path of a field.
fn cut(key: &str) -> String {
    const MAX: usize = 63 + 1 + 32;
    if key.len() <= MAX {
        return key.to_owned();
    }
    let rest = MAX - 3;
    let bytes = key.as_bytes();
    let head = String::from_utf8_lossy(&bytes[..rest.div_ceil(2)]);
    let tail = String::from_utf8_lossy(&bytes[bytes.len() - rest / 2..]);
    format!("{head}...{tail}")
}

/// Validates that an attribute has one value, which is short and of its type.
fn attribute(errors: &mut Errors, attribute: &Value, field: &str) {
    const ONE: &str = "exactly one value must be specified";
    if let Some(value) = at(attribute, "string").as_str()
        && value.len() > MAX_VALUE
    {
        errors.too_long(child(field, "string"), MAX_VALUE);
    }
    if let Some(value) = at(attribute, "version").as_str() {
        let field = child(field, "version");
        if !is_semver(value) {
            let why = "must be a string compatible with semver.org spec 2.0.0";
            errors.invalid(field.clone(), value, why);
        }
        if value.len() > MAX_VALUE {
            errors.too_long(field, MAX_VALUE);
        }
    }
    let set = ["bool", "int", "string", "version"];
    match set.iter().filter(|key| has(attribute, key)).count() {
        0 => errors.invalid(field, "", ONE),
        1 => {}
        _ => {
            let value = |key: &str| shown_any(attribute, key);
            let none = || "null".to_owned();
            let all = show_fields(&[
                ("IntValue", value("int")),
                ("BoolValue", value("bool")),
                ("StringValue", value("string")),
                ("VersionValue", value("version")),
                ("IntValues", none()),
                ("BoolValues", none()),
                ("StringValues", none()),
                ("VersionValues", none()),
            ]);
            errors.invalid_shown(field, &all, ONE);
        }
    }
}

/// Returns whether a text is a version by semver.org 2.0.0.
fn is_semver(text: &str) -> bool {
    let number = |part: &str| {
        part.bytes().all(|b| b.is_ascii_digit())
            && !part.is_empty()
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let release = |part: &str| {
        let digits = part.bytes().all(|b| b.is_ascii_digit());
        word(part) && (!digits || number(part))
    };
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, pre) = match rest.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (rest, None),
    };
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(release))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::{cut, is_semver};

    #[test]
    fn versions() {
        for (text, valid) in [
            ("1.2.3", true),
            ("1.2.3-alpha.1+b.2", true),
            ("0.0.0", true),
            ("1.2", false),
            ("01.2.3", false),
            ("1.2.3-01", false),
            ("1.2.3-", false),
            ("1.2.3+", false),
            ("", false),
        ] {
            assert_eq!(is_semver(text), valid, "{text}");
        }
    }

    #[test]
    fn long_keys_are_cut_in_the_middle() {
        let key = format!("{}{}", "a".repeat(60), "b".repeat(60));
        let shown = cut(&key);
        assert_eq!(shown.len(), 96);
        assert!(shown.starts_with("aaa") && shown.contains("...") && shown.ends_with("bbb"));
    }
}
