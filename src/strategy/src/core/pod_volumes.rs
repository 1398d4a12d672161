//! Validation of a pod's volumes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container_env;
use super::container_types::Volumes;
use crate::errors::{Errors, child, index};
use crate::names;
use crate::quantities;
use crate::tree::{at, has, int, list, text};

/// Validates all volumes of a pod spec and returns the valid names, for the validation of mounts.
pub(crate) fn volumes<'a>(errors: &mut Errors, volumes: &'a [Value], path: &str) -> Volumes<'a> {
    let mut all = Volumes {
        names: BTreeSet::new(),
        claims: BTreeSet::new(),
        empty_dirs: BTreeSet::new(),
    };
    for (i, volume) in volumes.iter().enumerate() {
        let field = index(path, i);
        let name = text(volume, "name");
        source(errors, volume, &field);
        let mut fine = true;
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
            fine = false;
        } else {
            let problems = names::dns1123_label(name);
            fine &= problems.is_empty();
            errors.invalid_each(&child(&field, "name"), name, problems);
        }
        if all.names.contains(name) {
            errors.duplicate(child(&field, "name"), name);
            fine = false;
        }
        if fine {
            all.names.insert(name);
            if has(volume, "persistentVolumeClaim") || has(volume, "ephemeral") {
                all.claims.insert(name);
            }
            if has(volume, "emptyDir") {
                all.empty_dirs.insert(name);
            }
        }
    }
    all
}

fn source(errors: &mut Errors, volume: &Value, path: &str) {
    let Some(fields) = volume.as_object() else {
        return;
    };
    let mut count = 0;
    for (kind, source) in fields {
        if kind == "name" || source.is_null() {
            continue;
        }
        count += 1;
        let field = child(path, kind);
        if count > 1 {
            errors.forbidden(field, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "emptyDir" => {
                let limit = quantities::of(source.get("sizeLimit"));
                if limit.sign() < 0 {
                    errors.forbidden(
                        child(&field, "sizeLimit"),
                        "SizeLimit field must be a valid resource quantity",
                    );
                }
            }
            "hostPath" => host_path(errors, source, &field),
            "secret" => {
                required(errors, source, "secretName", &field);
                mode(errors, source, "defaultMode", &field);
                items(errors, source, &field);
            }
            "configMap" => {
                required(errors, source, "name", &field);
                mode(errors, source, "defaultMode", &field);
                items(errors, source, &field);
            }
            "downwardAPI" => {
                mode(errors, source, "defaultMode", &field);
                downward_items(errors, source, &field);
            }
            "projected" => {
                mode(errors, source, "defaultMode", &field);
                projections(errors, source, &field);
            }
            "persistentVolumeClaim" => required(errors, source, "claimName", &field),
            "ephemeral" => match at(source, "volumeClaimTemplate") {
                Value::Null => errors.required(child(&field, "volumeClaimTemplate"), ""),
                template => super::claims::claim_spec(
                    errors,
                    at(template, "spec"),
                    &format!("{field}.volumeClaimTemplate.spec"),
                ),
            },
            "nfs" => nfs(errors, source, &field),
            "csi" => {
                required(errors, source, "driver", &field);
            }
            "image" => {
                required(errors, source, "reference", &field);
                let policy = text(source, "pullPolicy");
                let known = ["Always", "IfNotPresent", "Never"];
                if !known.contains(&policy) {
                    errors.not_supported(child(&field, "pullPolicy"), policy, &known);
                }
            }
            _ => network_source(errors, kind, source, &field),
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

/// Validates a volume source of a network file system or cloud provider.
fn network_source(errors: &mut Errors, kind: &str, source: &Value, field: &str) {
    match kind {
        "iscsi" => {
            for key in ["targetPortal", "iqn"] {
                required(errors, source, key, field);
            }
            if !(0..=255).contains(&int(source, "lun").unwrap_or(0)) {
                errors.invalid(
                    child(field, "lun"),
                    at(source, "lun").clone(),
                    "must be between 0 and 255, inclusive",
                );
            }
        }
        "rbd" => {
            if list(source, "monitors").is_empty() {
                errors.required(child(field, "monitors"), "");
            }
            required(errors, source, "image", field);
        }
        "cephfs" if list(source, "monitors").is_empty() => {
            errors.required(child(field, "monitors"), "");
        }
        "fc" => {
            let wwids = !list(source, "wwids").is_empty();
            let wwns = !list(source, "targetWWNs").is_empty();
            if !wwids && !wwns {
                errors.required(
                    child(field, "targetWWNs"),
                    "must specify either targetWWNs or wwids, but not both",
                );
            }
            if wwids && wwns {
                errors.invalid(
                    child(field, "targetWWNs"),
                    at(source, "targetWWNs").clone(),
                    "targetWWNs and wwids can not be specified simultaneously",
                );
            }
        }
        "glusterfs" => {
            for key in ["endpoints", "path"] {
                required(errors, source, key, field);
            }
        }
        "gitRepo" => required(errors, source, "repository", field),
        "awsElasticBlockStore" => required(errors, source, "volumeID", field),
        "gcePersistentDisk" => required(errors, source, "pdName", field),
        "cinder" => required(errors, source, "volumeID", field),
        "flexVolume" => required(errors, source, "driver", field),
        "vsphereVolume" => required(errors, source, "volumePath", field),
        "azureFile" => {
            for key in ["secretName", "shareName"] {
                required(errors, source, key, field);
            }
        }
        "azureDisk" => {
            for key in ["diskName", "diskURI"] {
                required(errors, source, key, field);
            }
        }
        "portworxVolume" => required(errors, source, "volumeID", field),
        _ => {}
    }
}

/// Validates that a string field is not empty.
pub(crate) fn required(errors: &mut Errors, source: &Value, key: &str, path: &str) {
    if text(source, key).is_empty() {
        errors.required(child(path, key), "");
    }
}

/// Validates a `hostPath` of a pod or a persistent volume.
pub(crate) fn host_path(errors: &mut Errors, source: &Value, path: &str) {
    let place = text(source, "path");
    if place.is_empty() {
        errors.required(child(path, "path"), "");
        return;
    }
    if names::has_backsteps(place) {
        errors.invalid(child(path, "path"), place, "must not contain '..'");
    }
    let kind = text(source, "type");
    let known = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if !known.contains(&kind) {
        errors.not_supported(child(path, "type"), kind, &known);
    }
}

/// Validates an `nfs` source.
pub(crate) fn nfs(errors: &mut Errors, source: &Value, path: &str) {
    required(errors, source, "server", path);
    required(errors, source, "path", path);
    let place = text(source, "path");
    if !place.is_empty() && !names::is_absolute(place) {
        errors.invalid(child(path, "path"), place, "must be an absolute path");
    }
}

fn mode(errors: &mut Errors, source: &Value, key: &str, path: &str) {
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
pub(super) fn relative_path(errors: &mut Errors, place: &str, field: &str) {
    if names::is_absolute(place) {
        errors.invalid(field, place, "must be a relative path");
    }
    if names::has_backsteps(place) {
        errors.invalid(field, place, "must not contain '..'");
    }
    if place.starts_with("..") && !names::has_backsteps(place) {
        errors.invalid(field, place, "must not start with '..'");
    }
}

fn items(errors: &mut Errors, source: &Value, path: &str) {
    for (i, item) in list(source, "items").iter().enumerate() {
        let field = index(&child(path, "items"), i);
        if text(item, "key").is_empty() {
            errors.required(child(&field, "key"), "");
        }
        let place = text(item, "path");
        if place.is_empty() {
            errors.required(child(&field, "path"), "");
        } else {
            relative_path(errors, place, &child(&field, "path"));
        }
        mode(errors, item, "mode", &field);
    }
}

fn downward_items(errors: &mut Errors, source: &Value, path: &str) {
    for (i, item) in list(source, "items").iter().enumerate() {
        let field = index(&child(path, "items"), i);
        let place = text(item, "path");
        if place.is_empty() {
            errors.required(child(&field, "path"), "");
        } else {
            relative_path(errors, place, &child(&field, "path"));
        }
        match (at(item, "fieldRef"), at(item, "resourceFieldRef")) {
            (Value::Null, Value::Null) => errors.required(
                field.clone(),
                "one of fieldRef and resourceFieldRef is required",
            ),
            (reference, Value::Null) => container_env::field_ref(
                errors,
                reference,
                &[
                    "metadata.name",
                    "metadata.namespace",
                    "metadata.labels",
                    "metadata.annotations",
                    "metadata.uid",
                ],
                &child(&field, "fieldRef"),
            ),
            (Value::Null, reference) => container_env::resource_field_ref(
                errors,
                reference,
                true,
                &child(&field, "resourceFieldRef"),
            ),
            _ => errors.invalid(
                field.clone(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
        }
        mode(errors, item, "mode", &field);
    }
}

fn projections(errors: &mut Errors, source: &Value, path: &str) {
    let mut places = BTreeSet::new();
    for (i, projection) in list(source, "sources").iter().enumerate() {
        let field = index(&child(path, "sources"), i);
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let part = at(projection, kind);
            if part.is_null() {
                continue;
            }
            count += 1;
            let field = child(&field, kind);
            if count > 1 {
                errors.forbidden(field, "may not specify more than 1 volume type");
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    required(errors, part, "name", &field);
                    items(errors, part, &field);
                }
                "downwardAPI" => downward_items(errors, part, &field),
                "serviceAccountToken" => {
                    let seconds = int(part, "expirationSeconds").unwrap_or(0);
                    if seconds < 600 {
                        errors.invalid(
                            child(&field, "expirationSeconds"),
                            seconds,
                            "may not specify a duration less than 10 minutes",
                        );
                    }
                    if seconds > 1 << 32 {
                        errors.invalid(
                            child(&field, "expirationSeconds"),
                            seconds,
                            "may not specify a duration larger than 2^32 seconds",
                        );
                    }
                    required(errors, part, "path", &field);
                }
                _ => required(
                    errors,
                    part,
                    if kind == "podCertificate" {
                        "keyType"
                    } else {
                        "path"
                    },
                    &field,
                ),
            }
            let paths = list(part, "items")
                .iter()
                .map(|item| text(item, "path"))
                .chain(
                    matches!(kind, "serviceAccountToken" | "clusterTrustBundle")
                        .then(|| text(part, "path")),
                );
            for place in paths.filter(|p| !p.is_empty()) {
                if !places.insert(place) {
                    errors.invalid(
                        path,
                        source.clone(),
                        format!("conflicting duplicate paths: {place}"),
                    );
                }
            }
        }
        if count == 0 {
            errors.required(field, "must specify at least one projected volume source");
        }
    }
}
