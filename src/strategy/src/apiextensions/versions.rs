//! The versions of a definition, and what they have in common.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::{FieldError, FieldErrorKind};
use serde_json::Value;

use super::version_schema;
use crate::errors::{Errors, child, index, show_fields, shown_any, shown_text};
use crate::names;
use crate::tree::{flag, list, same_at, text};

pub(super) fn definition_versions(errors: &mut Errors, obj: &Object) {
    let versions = list(obj, "spec.versions");
    let mut seen = BTreeSet::new();
    let (mut storage, mut is_twice) = (0, false);
    for (i, version) in versions.iter().enumerate() {
        let field = index("spec.versions", i);
        let name = text(version, "name");
        errors.invalid_each(&child(&field, "name"), name, names::dns1035_label(name));
        is_twice |= !seen.insert(name);
        storage += usize::from(flag(version, "storage"));
        version_schema(errors, version, &field);
    }
    let mut all = |why| errors.invalid_shown("spec.versions", &shown_versions(versions), why);
    if is_twice {
        all("must contain unique version names");
    }
    if storage != 1 {
        all("must have exactly one version marked as storage version");
    }
    if let Some(name) = versions.first().map(|version| text(version, "name")) {
        // Upstream keeps the name of the first version as that of the definition, too.
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.invalid("spec.version", name, wrong.join(","));
        }
    }
}

/// Returns the versions as upstream's messages show them, without what they share.
fn shown_versions(versions: &[Value]) -> String {
    let version = |version: &Value| {
        let own = |key: &str| match is_shared(versions, key) {
            true => "null".to_owned(),
            false => shown_any(version, key),
        };
        show_fields(&[
            ("Name", shown_text(version, "name")),
            ("Served", flag(version, "served").to_string()),
            ("Storage", flag(version, "storage").to_string()),
            ("Deprecated", flag(version, "deprecated").to_string()),
            (
                "DeprecationWarning",
                shown_any(version, "deprecationWarning"),
            ),
            ("Schema", own("schema")),
            ("Subresources", own("subresources")),
            ("AdditionalPrinterColumns", own("additionalPrinterColumns")),
            ("SelectableFields", own("selectableFields")),
        ])
    };
    let versions: Vec<String> = versions.iter().map(version).collect();
    format!("[{}]", versions.join(","))
}

/// Validates the versions that objects may be stored in.
pub(super) fn stored_versions(errors: &mut Errors, obj: &Object) {
    const FIELD: &str = "status.storedVersions";
    let all = list(obj, FIELD);
    if all.is_empty() {
        let why = "must have at least one stored version";
        errors.invalid(FIELD, Value::Null, why);
        return;
    }
    let versions = list(obj, "spec.versions");
    for version in versions.iter().filter(|version| flag(version, "storage")) {
        let name = text(version, "name");
        if !all.iter().any(|stored| stored == name) {
            let why = format!("must have the storage version {name}");
            errors.invalid(FIELD, all.to_vec(), why);
        }
    }
    for (i, stored) in all.iter().enumerate() {
        let stored = stored.as_str().unwrap_or_default();
        if !versions
            .iter()
            .any(|version| text(version, "name") == stored)
        {
            errors.invalid(
                index(FIELD, i),
                stored,
                format!(
                    "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
                ),
            );
        }
    }
}

/// Fields that upstream has once for the definition if it is equal in all versions, with the path
/// there.
const SHARED: [(&str, &str); 4] = [
    ("schema", "spec.validation"),
    ("subresources", "spec.subresources"),
    ("additionalPrinterColumns", "spec.additionalPrinterColumns"),
    ("selectableFields", "spec.selectableFields"),
];

/// Returns whether all versions have an equal value of a field.
fn is_shared(versions: &[Value], key: &str) -> bool {
    versions
        .iter()
        .all(|version| same_at(version, &versions[0], key))
}

/// Moves errors about what all versions have in common to where upstream's messages have it:
/// once, in the definition instead of its versions.
pub fn hoist(definition: &Object, errors: &mut Vec<FieldError>) {
    let versions = list(definition, "spec.versions");
    for (key, to) in SHARED.iter().filter(|(key, _)| is_shared(versions, key)) {
        for i in 0..versions.len() {
            let from = format!("spec.versions[{i}].{key}");
            // A missing schema is reported for the version.
            let is_of = |error: &FieldError| {
                error.field.strip_prefix(&from).is_some_and(|rest| {
                    rest.starts_with(['.', '['])
                        && (error.kind != FieldErrorKind::Required || rest != ".openAPIV3Schema")
                })
            };
            if i > 0 {
                errors.retain(|error| !is_of(error));
                continue;
            }
            for error in errors.iter_mut().filter(|error| is_of(error)) {
                error.field = error.field.replacen(&from, to, 1);
                error.detail = error.detail.replace(&from, to);
            }
        }
    }
}
