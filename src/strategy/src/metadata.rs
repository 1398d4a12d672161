//! Validation of `metadata`, common to all kinds.

use rkube_api::status::FieldError;
use serde_json::Value;

use crate::errors::{Errors, IMMUTABLE, child, index};
use crate::tree::{at, entries, flag, int, list, same, text};
use crate::{Object, names};

/// Maximum total size of the keys and values of an object's annotations, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Syntax of the names of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// DNS subdomain (RFC 1123); most kinds.
    Dns1123Subdomain,
    /// DNS label (RFC 1123); namespaces and kinds whose names become part of host names.
    Dns1123Label,
    /// DNS label that begins with a letter (RFC 1035).
    Dns1035Label,
    /// Any segment of a URL path; RBAC.
    PathSegment,
}

impl NameRule {
    /// Returns the errors of a name, or of the prefix of a generated name if `prefix` is true.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = if prefix && self != NameRule::PathSegment {
            masked = names::mask_trailing_dash(name);
            &masked
        } else {
            name
        };
        match self {
            NameRule::Dns1123Subdomain => names::dns1123_subdomain(name),
            NameRule::Dns1123Label => names::dns1123_label(name),
            NameRule::Dns1035Label => names::dns1035_label(name),
            NameRule::PathSegment => names::path_segment_name(name),
        }
    }
}

/// Validates the metadata of a new object, or of the new state of an updated one.
pub fn validate_metadata(obj: &Object, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    validate_metadata_at(at(obj, "metadata"), namespaced, rule, "metadata")
}

/// Validates metadata at a field path, such as that of a template.
pub(crate) fn validate_metadata_at(
    meta: &Value,
    namespaced: bool,
    rule: NameRule,
    path: &str,
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let generate_name = text(meta, "generateName");
    if !generate_name.is_empty() {
        let field = child(path, "generateName");
        errors.invalid_each(&field, generate_name, rule.check(generate_name, true));
    }
    let name = text(meta, "name");
    if name.is_empty() {
        errors.required(child(path, "name"), "name or generateName is required");
    } else {
        errors.invalid_each(&child(path, "name"), name, rule.check(name, false));
    }
    let namespace = text(meta, "namespace");
    let field = child(path, "namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.required(field, ""),
        (true, false) => errors.invalid_each(&field, namespace, names::dns1123_label(namespace)),
        (false, false) => errors.forbidden(field, "not allowed on this type"),
        (false, true) => {}
    }
    if let Some(generation) = int(meta, "generation")
        && generation < 0
    {
        errors.invalid(
            child(path, "generation"),
            generation,
            crate::errors::NOT_NEGATIVE,
        );
    }
    labels(&mut errors, meta, &child(path, "labels"));
    annotations(&mut errors, meta, &child(path, "annotations"));
    owner_references(&mut errors, meta, &child(path, "ownerReferences"));
    finalizers(&mut errors, meta, &child(path, "finalizers"));
    managed_fields(&mut errors, meta, &child(path, "managedFields"));
    standard_finalizers(&mut errors, meta, &child(path, "finalizers"));
    errors.0
}

/// Validates the label keys and values of `value.labels`.
pub(crate) fn labels(errors: &mut Errors, value: &Value, field: &str) {
    label_map(errors, at(value, "labels"), field);
}

/// Validates the keys and values of a map of labels.
pub(crate) fn label_map(errors: &mut Errors, labels: &Value, field: &str) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.invalid_each(field, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(field, value, names::label_value(value));
    }
}

/// Validates the keys and the total size of `value.annotations`.
pub(crate) fn annotations(errors: &mut Errors, value: &Value, field: &str) {
    let mut size = 0;
    for (key, value) in entries(value, "annotations") {
        // Upstream ignores the case of annotation keys.
        errors.invalid_each(field, key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(field, ANNOTATIONS_MAX);
    }
}

fn owner_references(errors: &mut Errors, meta: &Value, path: &str) {
    let mut controller: Option<String> = None;
    // As upstream, the paths do not tell which of the references is wrong.
    for owner in list(meta, "ownerReferences") {
        let field = path;
        let api_version = text(owner, "apiVersion");
        let kind = text(owner, "kind");
        let name = text(owner, "name");
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        if version.is_empty() {
            errors.invalid(
                child(field, "apiVersion"),
                api_version,
                "version must not be empty",
            );
        }
        for (key, value) in [("kind", kind), ("name", name), ("uid", text(owner, "uid"))] {
            if value.is_empty() {
                errors.invalid(child(field, key), value, "must not be empty");
            }
        }
        if group.is_empty() && version == "v1" && kind == "Event" {
            errors.invalid(
                field,
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if flag(owner, "controller") {
            match &controller {
                Some(first) => errors.invalid(
                    path,
                    at(meta, "ownerReferences").clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {kind}/{name}"
                    ),
                ),
                None => controller = Some(format!("{kind}/{name}")),
            }
        }
    }
}

fn finalizers(errors: &mut Errors, meta: &Value, path: &str) {
    let mut orphan = false;
    let mut foreground = false;
    for finalizer in list(meta, "finalizers") {
        let name = finalizer.as_str().unwrap_or_default();
        errors.invalid_each(path, name, names::qualified_name(name));
        orphan |= name == "orphan";
        foreground |= name == "foregroundDeletion";
    }
    if orphan && foreground {
        errors.invalid(
            path,
            at(meta, "finalizers").clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

/// Validates that finalizers without a domain are those that upstream uses.
fn standard_finalizers(errors: &mut Errors, meta: &Value, path: &str) {
    for (i, finalizer) in list(meta, "finalizers").iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        standard_finalizer(errors, name, &index(path, i));
    }
}

/// Validates a finalizer: a qualified name or one of the unqualified names that upstream uses.
pub(crate) fn finalizer_name(errors: &mut Errors, name: &str, field: &str) {
    errors.invalid_each(field, name, names::qualified_name(name));
    standard_finalizer(errors, name, field);
}

fn standard_finalizer(errors: &mut Errors, name: &str, field: &str) {
    if !name.contains('/') && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
        errors.invalid(
            field,
            name,
            "name is neither a standard finalizer name nor is it fully qualified",
        );
    }
}

fn managed_fields(errors: &mut Errors, meta: &Value, path: &str) {
    for (i, entry) in list(meta, "managedFields").iter().enumerate() {
        let field = index(path, i);
        match text(entry, "operation") {
            "Apply" | "Update" => {}
            other => errors.invalid(
                child(&field, "operation"),
                other,
                "must be `Apply` or `Update`",
            ),
        }
        match text(entry, "fieldsType") {
            "" | "FieldsV1" => {}
            other => errors.invalid(child(&field, "fieldsType"), other, "must be `FieldsV1`"),
        }
        let manager = text(entry, "manager");
        if manager.len() > 128 {
            errors.too_long(child(&field, "manager"), 128);
        }
        for c in manager.chars().filter(|c| c.is_control()) {
            errors.invalid(
                child(&field, "manager"),
                manager,
                format!("invalid character {c:?}: should only contain printable characters"),
            );
        }
    }
}

/// Validates a change of metadata.
pub fn validate_metadata_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let path = "metadata";
    let (new, old) = (at(new, path), at(old, path));
    let mut errors = Errors::new();
    if !at(old, "deletionTimestamp").is_null() {
        let before = list(old, "finalizers");
        let added: Vec<String> = list(new, "finalizers")
            .iter()
            .filter(|f| !before.contains(f))
            .map(|f| format!("{:?}", f.as_str().unwrap_or_default()))
            .collect();
        if !added.is_empty() {
            errors.forbidden(
                child(path, "finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    if int(new, "generation").unwrap_or(0) < int(old, "generation").unwrap_or(0) {
        errors.invalid(
            child(path, "generation"),
            at(new, "generation").clone(),
            "must not be decremented",
        );
    }
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if !same(at(new, key), at(old, key)) {
            errors.invalid(child(path, key), at(new, key).clone(), IMMUTABLE);
        }
    }
    labels(&mut errors, new, &child(path, "labels"));
    annotations(&mut errors, new, &child(path, "annotations"));
    owner_references(&mut errors, new, &child(path, "ownerReferences"));
    managed_fields(&mut errors, new, &child(path, "managedFields"));
    errors.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(errors: &[FieldError]) -> Vec<&str> {
        errors.iter().map(|e| e.field.as_str()).collect()
    }

    #[test]
    fn names_and_namespaces() {
        let rule = NameRule::Dns1123Subdomain;
        let ok = json!({"metadata": {"name": "a", "namespace": "b", "finalizers": ["x.io/y"]}});
        assert!(validate_metadata(&ok, true, rule).is_empty());
        assert_eq!(
            fields(&validate_metadata(&ok, false, rule)),
            ["metadata.namespace"]
        );
        let none = json!({"metadata": {}});
        assert_eq!(
            fields(&validate_metadata(&none, true, rule)),
            ["metadata.name", "metadata.namespace"]
        );
        let bad =
            json!({"metadata": {"name": "a_b", "labels": {"-": "x y"}, "finalizers": ["bare"]}});
        assert_eq!(
            fields(&validate_metadata(&bad, false, rule)),
            [
                "metadata.name",
                "metadata.labels",
                "metadata.labels",
                "metadata.finalizers[0]"
            ]
        );
    }

    #[test]
    fn generated_names_may_end_in_a_dash() {
        assert!(NameRule::Dns1123Label.check("kubia-", true).is_empty());
        assert!(!NameRule::Dns1123Label.check("kubia-", false).is_empty());
    }

    #[test]
    fn identity_is_immutable() {
        let old = json!({"metadata": {"name": "a", "uid": "1"}});
        let new = json!({"metadata": {"name": "b", "uid": "1"}});
        let errors = validate_metadata_update(&new, &old);
        assert_eq!(fields(&errors), ["metadata.name"]);
        assert_eq!(errors[0].detail, IMMUTABLE);
    }

    #[test]
    fn no_new_finalizers_while_deleting() {
        let old = json!({"metadata": {"deletionTimestamp": "x", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"deletionTimestamp": "x", "finalizers": ["a/b", "c/d"]}});
        assert!(
            validate_metadata_update(&new, &old)[0]
                .detail
                .ends_with("[]string{\"c/d\"}")
        );
    }
}
