//! Persistent volume claims.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use super::volume_sources::required;
use crate::errors::{Errors, IMMUTABLE, child, keyed};
use crate::generic;
use crate::tree::{at, at_mut, default_value, entries, has, keep, list, put, remove, same, text};
use crate::{Context, Strategy, names, quantities, selectors};

const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// The annotation with the class of a claim or volume from before there was a field.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The strategy of kind `PersistentVolumeClaim`.
pub(crate) struct Claim;

impl Strategy for Claim {
    fn default(&self, obj: &mut Object) {
        if text(obj, "status.phase").is_empty() {
            put(obj, "status.phase", "Pending");
        }
        if let Some(spec) = at_mut(obj, "spec") {
            default_value(spec, "volumeMode", "Filesystem");
            quantities::normalize(spec, "resources.requests");
            quantities::normalize(spec, "resources.limits");
        }
        quantities::normalize(obj, "status.capacity");
        quantities::normalize(obj, "status.allocatedResources");
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        put(obj, "status", json!({"phase": "Pending"}));
        data_sources(obj, &Value::Null);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
        data_sources(new, old);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        claim_spec(&mut errors, at(obj, "spec"), "spec");
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let before = at(old, "spec");
        let mut selector = Errors::new();
        selectors::validate(&mut selector, at(before, "selector"), "");
        let allowed = Allowed {
            groups: has(before, "dataSource.apiGroup") || has(before, "dataSourceRef.apiGroup"),
            selector_values: !selector.0.is_empty(),
        };
        next_spec(&mut errors, at(new, "spec"), allowed, "spec");
        claim_update(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if list(new, "spec.accessModes").is_empty() {
            errors.required("Spec.accessModes", "");
        }
        for (name, amount) in entries(new, "status.capacity") {
            not_negative(&mut errors, amount, &keyed("status.capacity", name));
        }
        resizes(&mut errors, new);
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if at(new, "metadata.annotations")
            .get(CLASS_ANNOTATION)
            .is_some()
        {
            let field = keyed("metadata.annotations", CLASS_ANNOTATION);
            warnings.push(format!(
                "{field}: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        spec_warnings(at(new, "spec"), "spec", &mut warnings);
        warnings
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "name" => Some(text(obj, "metadata.name").to_owned()),
            _ => generic::field_value(obj, field),
        }
    }
}

/// Warns about parts of a byte in the spec of a claim.
pub(super) fn spec_warnings(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    for side in ["requests", "limits"] {
        let field = format!("{path}.resources.{side}");
        let amounts = at(at(spec, "resources"), side);
        fractional_bytes(amounts, "storage", &field, warnings);
    }
}

/// Warns about a part of a byte: `100m` of memory is a tenth of one.
pub(super) fn fractional_bytes(
    amounts: &Value,
    name: &str,
    path: &str,
    warnings: &mut Vec<String>,
) {
    let amount = quantities::read(amounts.get(name));
    if amount.milli_value() % 1000 != 0 {
        warnings.push(format!(
            "{}: fractional byte value \"{amount}\" is invalid, must be an integer",
            keyed(path, name)
        ));
    }
}

/// Settles what a claim's volume begins with. `dataSource` is the older of two fields, in which
/// other kinds than claims and snapshots were ignored.
fn data_sources(new: &mut Object, old: &Object) {
    let Some(spec) = at_mut(new, "spec") else {
        return;
    };
    let had = has(old, "spec.dataSource") || has(old, "spec.dataSourceRef");
    // Sources in other namespaces are off by default.
    if !text(spec, "dataSourceRef.namespace").is_empty() && !has(old, "spec.dataSourceRef") {
        remove(spec, "dataSourceRef");
    }
    if !had && !has(spec, "dataSourceRef") {
        let source = (
            text(spec, "dataSource.apiGroup"),
            text(spec, "dataSource.kind"),
        );
        if !matches!(
            source,
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        ) {
            remove(spec, "dataSource");
        }
    }
    let (from, to) = match (has(spec, "dataSource"), has(spec, "dataSourceRef")) {
        (true, false) => ("dataSource", "dataSourceRef"),
        (false, true) if text(spec, "dataSourceRef.namespace").is_empty() => {
            ("dataSourceRef", "dataSource")
        }
        _ => return,
    };
    let mut source = at(spec, from).clone();
    remove(&mut source, "namespace");
    put(spec, to, source);
}

/// Validates the access modes of a claim or volume.
pub(super) fn known_modes(errors: &mut Errors, spec: &Value, field: &str) {
    let (mut single, mut other) = (false, false);
    for mode in list(spec, "accessModes") {
        let mode = mode.as_str().unwrap_or_default();
        let known = ACCESS_MODES.contains(&mode);
        single |= mode == "ReadWriteOncePod";
        other |= mode != "ReadWriteOncePod" && known;
        if !known {
            errors.not_supported(field, mode, &ACCESS_MODES);
        }
    }
    if single && other {
        errors.forbidden(
            field,
            "may not use ReadWriteOncePod with other access modes",
        );
    }
}

/// Values that a claim may keep because it has them already.
#[derive(Clone, Copy, Default)]
struct Allowed {
    /// Malformed API groups of data sources.
    groups: bool,
    /// Malformed values in the selector.
    selector_values: bool,
}

/// Validates the spec of a claim, also within the template of an ephemeral volume.
pub(crate) fn claim_spec(errors: &mut Errors, spec: &Value, path: &str) {
    next_spec(errors, spec, Allowed::default(), path);
}

fn next_spec(errors: &mut Errors, spec: &Value, allowed: Allowed, path: &str) {
    let modes = child(path, "accessModes");
    if list(spec, "accessModes").is_empty() {
        errors.required(modes.clone(), "at least 1 access mode is required");
    }
    let values = !allowed.selector_values;
    selectors::validate_with(
        errors,
        at(spec, "selector"),
        values,
        &child(path, "selector"),
    );
    known_modes(errors, spec, &modes);
    let storage = format!("{path}.resources[storage]");
    match at(spec, "resources.requests").get("storage") {
        None => errors.required(storage, ""),
        Some(amount) => positive(errors, amount, &storage),
    }
    class_name(errors, spec, "storageClassName", path);
    volume_mode(errors, spec, &child(path, "volumeMode"));
    for key in ["dataSource", "dataSourceRef"] {
        data_source(errors, at(spec, key), allowed, &child(path, key));
    }
    let foreign = !text(spec, "dataSourceRef.namespace").is_empty();
    let both = has(spec, "dataSource") && has(spec, "dataSourceRef");
    let agree = ["apiGroup", "kind", "name"]
        .iter()
        .all(|key| at(at(spec, "dataSource"), key) == at(at(spec, "dataSourceRef"), key));
    if both && foreign {
        errors.invalid(
            path,
            json!({}),
            "may not be specified when dataSourceRef.namespace is specified",
        );
    } else if both && !agree {
        errors.invalid(path, json!({}), "must match dataSourceRef");
    }
    class_name(errors, spec, "volumeAttributesClassName", path);
}

/// Validates that a quantity is above zero.
pub(super) fn positive(errors: &mut Errors, amount: &Value, field: &str) {
    let amount = quantities::read(Some(amount));
    if amount.sign() <= 0 {
        errors.invalid(field, amount.to_string(), "must be greater than zero");
    }
}

/// Validates that a quantity is not below zero, where the error shows a number.
pub(super) fn not_negative(errors: &mut Errors, amount: &Value, field: &str) {
    let amount = quantities::read(Some(amount)).value();
    if amount < 0 {
        errors.invalid(field, amount, "must be a valid resource quantity");
    }
}

/// Validates the name of a class, which may be empty.
pub(super) fn class_name(errors: &mut Errors, spec: &Value, key: &str, path: &str) {
    let class = text(spec, key);
    if !class.is_empty() {
        errors.invalid_each(&child(path, key), class, names::dns1123_subdomain(class));
    }
}

fn data_source(errors: &mut Errors, source: &Value, allowed: Allowed, field: &str) {
    if source.is_null() {
        return;
    }
    required(errors, source, "name", field);
    required(errors, source, "kind", field);
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(
            field,
            kind,
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        );
    }
    if !group.is_empty() && !allowed.groups {
        let field = child(field, "apiGroup");
        errors.invalid_each(&field, group, names::dns1123_subdomain(group));
    }
    let namespace = text(source, "namespace");
    if !namespace.is_empty() {
        let field = child(field, "namespace");
        errors.invalid_each(&field, namespace, names::dns1123_label(namespace));
    }
}

/// Validates whether a volume has files or blocks.
pub(super) fn volume_mode(errors: &mut Errors, spec: &Value, field: &str) {
    let mode = text(spec, "volumeMode");
    if has(spec, "volumeMode") && !matches!(mode, "Block" | "Filesystem") {
        errors.not_supported(field, mode, &["Block", "Filesystem"]);
    }
}

/// Validates what is left of a change of the size of a claim's volume.
fn resizes(errors: &mut Errors, new: &Object) {
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizePending",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    let name_is_valid = |errors: &mut Errors, name: &str, field: &str| {
        let problems = names::qualified_name(name);
        if !problems.is_empty() {
            errors.invalid_each(field, name, problems);
            return false;
        }
        let known = name == "storage" || !rkube_component_helpers::resource::is_native(name);
        if !known {
            errors.not_supported(field, name, &["storage"]);
        }
        known
    };
    let path = "status.allocatedResourceStatuses";
    for (name, state) in entries(new, path) {
        name_is_valid(errors, name, path);
        if !STATES.contains(&state.as_str().unwrap_or_default()) {
            let mut sorted = STATES;
            sorted.sort_unstable();
            errors.not_supported(path, name, &sorted);
        }
    }
    let path = "status.allocatedResources";
    for (name, amount) in entries(new, path) {
        if name_is_valid(errors, name, path) {
            not_negative(errors, amount, &keyed(path, name));
        }
    }
}

fn claim_update(errors: &mut Errors, new: &Object, old: &Object) {
    const CLASS: &str = "spec.storageClassName";
    const ATTRIBUTES: &str = "spec.volumeAttributesClassName";
    const REQUESTS: &str = "spec.resources.requests";
    let mut normal = new.clone();
    // The volume name may be set once, by the binder.
    if text(old, "spec.volumeName").is_empty() {
        keep(&mut normal, old, "spec.volumeName");
    }
    let annotated = |o: &Object| {
        let annotations = at(o, "metadata.annotations");
        annotations
            .get(CLASS_ANNOTATION)
            .cloned()
            .unwrap_or(Value::Null)
    };
    let (was, is) = (annotated(old), annotated(new));
    let set_now = !has(old, CLASS) && has(new, CLASS);
    if set_now && !was.is_null() && *at(new, CLASS) == was && (is.is_null() || is == was) {
        // The annotation becomes a field.
        remove(&mut normal, CLASS);
    } else {
        if was.as_str().unwrap_or_default() != is.as_str().unwrap_or_default() {
            errors.invalid(
                format!("metadata.annotations.{CLASS_ANNOTATION}"),
                is.as_str().unwrap_or_default(),
                IMMUTABLE,
            );
        }
        // The class may be set later, once a default class exists.
        if set_now && (was.is_null() || *at(new, CLASS) == was) {
            remove(&mut normal, CLASS);
        }
    }
    let size = |o: &Object| at(at(o, REQUESTS), "storage").clone();
    if text(new, "status.phase") == "Bound" {
        if has(new, REQUESTS) {
            put(&mut normal, "spec.resources.requests.storage", size(old));
        }
        keep(&mut normal, old, ATTRIBUTES);
    }
    for amounts in [REQUESTS, "spec.resources.limits"] {
        if quantities::same_list(at(&normal, amounts), at(old, amounts)) {
            keep(&mut normal, old, amounts);
        }
    }
    if !same(at(&normal, "spec"), at(old, "spec")) {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let amount = |o: &Object| quantities::read(Some(&size(o)));
    if amount(new) < amount(old) {
        // A failed expansion may be reverted to a size above the current capacity.
        let floor = quantities::read(at(old, "status.capacity").get("storage"));
        if amount(new) <= floor {
            errors.forbidden(
                "spec.resources.requests.storage",
                "field can not be less than status.capacity",
            );
        }
    }
    if !same(at(new, "spec.volumeMode"), at(old, "spec.volumeMode")) {
        errors.invalid("volumeMode", at(new, "spec.volumeMode").clone(), IMMUTABLE);
    }
    let changed = at(new, ATTRIBUTES) != at(old, ATTRIBUTES);
    if changed && has(old, "status.currentVolumeAttributesClassName") {
        let what = match at(new, ATTRIBUTES) {
            Value::Null => "nil",
            Value::String(text) if text.is_empty() => "empty string",
            _ => return,
        };
        errors.forbidden(
            ATTRIBUTES,
            format!(
                "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(size: &str) -> Object {
        let mut c = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
        Claim.default(&mut c);
        c
    }

    #[test]
    fn claims() {
        let c = claim("1Gi");
        assert_eq!(c["status"]["phase"], "Pending");
        assert_eq!(c["spec"]["volumeMode"], "Filesystem");
        assert!(Claim.validate_create(&c).is_empty());
        assert_eq!(Claim.validate_create(&json!({"spec": {}})).len(), 2);
        let mut bound = c.clone();
        bound["spec"]["volumeName"] = json!("v");
        assert!(Claim.validate_update(&bound, &c).is_empty());
        let mut other = c.clone();
        other["spec"]["accessModes"] = json!(["ReadWriteMany"]);
        assert!(
            Claim.validate_update(&other, &c)[0]
                .detail
                .starts_with("spec is immutable after creation")
        );
        bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let mut more = bound.clone();
        more["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        assert!(Claim.validate_update(&more, &bound).is_empty());
        assert_eq!(Claim.validate_update(&bound, &more).len(), 1);
    }
}
