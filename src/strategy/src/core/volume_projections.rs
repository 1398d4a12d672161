//! Validation of the files of a pod's volumes: items of config maps, secrets and pods, and
//! projections.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container_env;
use super::volume_sources::{descending_path, required};
use crate::errors::{Errors, child, index};
use crate::tree::{at, int, list, text};

/// Validates the mode of files.
pub(super) fn mode(errors: &mut Errors, source: &Value, key: &str, path: &str) {
    if let Some(mode) = int(source, key)
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(
            child(path, key),
            mode,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

/// Validates a path below a volume, which must not begin like the names that the node uses.
fn local_path(errors: &mut Errors, place: &str, field: &str) {
    descending_path(errors, place, field);
    if place.starts_with("..") && !place.starts_with("../") {
        errors.invalid(field, place, "must not start with '..'");
    }
}

/// Validates the `items` of a config map or secret.
pub(super) fn items(errors: &mut Errors, source: &Value, path: &str) {
    for (i, item) in list(source, "items").iter().enumerate() {
        item_of_data(errors, item, &index(&child(path, "items"), i));
    }
}

fn item_of_data(errors: &mut Errors, item: &Value, field: &str) {
    required(errors, item, "key", field);
    required(errors, item, "path", field);
    local_path(errors, text(item, "path"), &child(field, "path"));
    mode(errors, item, "mode", field);
}

/// Validates a file with a field of the pod. As upstream, its errors have the field of the
/// volume, not of the file.
pub(super) fn pod_file(errors: &mut Errors, item: &Value, field: &str) {
    required(errors, item, "path", field);
    local_path(errors, text(item, "path"), &child(field, "path"));
    let (reference, resource) = (at(item, "fieldRef"), at(item, "resourceFieldRef"));
    if !reference.is_null() {
        container_env::field_ref(
            errors,
            reference,
            &[
                "metadata.annotations",
                "metadata.labels",
                "metadata.name",
                "metadata.namespace",
                "metadata.uid",
            ],
            &child(field, "fieldRef"),
        );
        if !resource.is_null() {
            errors.invalid(
                field,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        }
    } else if !resource.is_null() {
        let field = child(field, "resourceFieldRef");
        container_env::resource_field_ref(errors, resource, true, &field);
    } else {
        errors.required(field, "one of fieldRef and resourceFieldRef is required");
    }
    mode(errors, item, "mode", field);
}

/// The paths of a projected volume so far, and the field of the volume.
struct Places<'a> {
    seen: BTreeSet<&'a str>,
    field: &'a str,
}

impl<'a> Places<'a> {
    /// Adds a path. The error of a repeated one shows `value`.
    fn add(&mut self, errors: &mut Errors, place: &'a str, value: &str) {
        if !place.is_empty() && !self.seen.insert(place) {
            errors.invalid(self.field, value, "conflicting duplicate paths");
        }
    }
}

/// Validates the sources of a projected volume; `loose_tokens` permits paths of tokens that lead
/// out of the volume, for pods that have such.
pub(super) fn projections(errors: &mut Errors, source: &Value, loose_tokens: bool, path: &str) {
    let mut places = Places {
        seen: BTreeSet::new(),
        field: path,
    };
    for (i, projection) in list(source, "sources").iter().enumerate() {
        let field = index(&child(path, "sources"), i);
        let mut count = 0;
        for kind in ["secret", "configMap", "downwardAPI", "serviceAccountToken"] {
            let part = at(projection, kind);
            if part.is_null() {
                continue;
            }
            count += 1;
            let field = child(&field, kind);
            match kind {
                "secret" | "configMap" => {
                    required(errors, part, "name", &field);
                    for (i, item) in list(part, "items").iter().enumerate() {
                        item_of_data(errors, item, &index(&child(&field, "items"), i));
                        places.add(errors, text(item, "path"), text(part, "name"));
                    }
                }
                "downwardAPI" => {
                    for item in list(part, "items") {
                        pod_file(errors, item, &field);
                        let place = text(item, "path");
                        places.add(errors, place, place);
                    }
                }
                _ => token(errors, part, loose_tokens, &field, path),
            }
        }
        if count > 1 {
            errors.forbidden(field, "may not specify more than 1 volume type per source");
        }
    }
}

/// Validates a token. As upstream, the errors of its path have the volume's field.
fn token(errors: &mut Errors, token: &Value, loose: bool, field: &str, volume: &str) {
    let seconds = int(token, "expirationSeconds").unwrap_or(0);
    let field = child(field, "expirationSeconds");
    if seconds < 600 {
        errors.invalid(
            field,
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    } else if seconds > 1 << 32 {
        errors.invalid(
            field,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    match text(token, "path") {
        "" => errors.required(child(volume, "path"), ""),
        _ if loose => {}
        place => local_path(errors, place, &child(volume, "path")),
    }
}

/// Returns whether the path of a token leads out of its volume.
pub(super) fn is_loose_token(projection: &Value) -> bool {
    let mut errors = Errors::new();
    local_path(
        &mut errors,
        text(projection, "serviceAccountToken.path"),
        "",
    );
    !errors.0.is_empty()
}
