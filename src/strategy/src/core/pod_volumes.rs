//! Validation of a pod's volumes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container_types::{Allowances, Holder, Volumes};
use super::volume_projections::{items, mode, pod_file, projections};
use super::volume_sources::{Owner, csi_driver, network, required};
use crate::errors::{Errors, child, index};
use crate::metadata::{annotations, labels};
use crate::names;
use crate::quantities;
use crate::tree::{at, has, list, text};

/// The kinds of volumes in upstream's order: of two, the error is about the latter.
const KINDS: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The properties of a pod that the validation of its volumes needs.
#[derive(Clone, Copy)]
pub(super) struct OfPod<'a> {
    /// The name of the pod; empty in a template.
    pub(super) name: &'a str,
    /// The kind of object that has the pod's spec.
    pub(super) holder: Holder,
    /// The values that the pod had before.
    pub(super) allowed: Allowances,
}

/// Validates all volumes of a pod spec and returns the valid names, for the validation of mounts.
pub(super) fn volumes<'a>(
    errors: &mut Errors,
    volumes: &'a [Value],
    pod: OfPod<'_>,
    path: &str,
) -> Volumes<'a> {
    let mut all = Volumes {
        names: BTreeSet::new(),
        claims: BTreeSet::new(),
    };
    let made: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| has(volume, "ephemeral") && !pod.name.is_empty())
        .map(|volume| format!("{}-{}", pod.name, text(volume, "name")))
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        let field = index(path, i);
        let name = text(volume, "name");
        let before = errors.0.len();
        source(errors, volume, pod, &field);
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
        } else {
            errors.invalid_each(&child(&field, "name"), name, names::dns1123_label(name));
        }
        if all.names.contains(name) {
            errors.duplicate(child(&field, "name"), name);
        }
        // A volume with an error is none for the containers.
        if errors.0.len() == before {
            all.names.insert(name);
            if has(volume, "persistentVolumeClaim") || has(volume, "ephemeral") {
                all.claims.insert(name);
            }
        }
        let claim = text(volume, "persistentVolumeClaim.claimName");
        if has(volume, "persistentVolumeClaim") && made.contains(claim) {
            errors.invalid(
                format!("{field}.persistentVolumeClaim.claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    all
}

fn source(errors: &mut Errors, volume: &Value, pod: OfPod<'_>, path: &str) {
    let mut count = 0;
    for kind in KINDS {
        let source = at(volume, kind);
        if source.is_null() {
            continue;
        }
        count += 1;
        if count > 1 {
            // The spelling of these two fields in the errors is upstream's.
            let shown = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                other => other,
            };
            errors.forbidden(
                child(path, shown),
                "may not specify more than 1 volume type",
            );
            continue;
        }
        one_source(errors, kind, source, volume, pod, path);
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn one_source(
    errors: &mut Errors,
    kind: &str,
    source: &Value,
    volume: &Value,
    pod: OfPod<'_>,
    path: &str,
) {
    let field = child(path, kind);
    let name = text(volume, "name");
    match kind {
        "emptyDir" => {
            if quantities::read(source.get("sizeLimit")).sign() < 0 {
                errors.forbidden(
                    child(&field, "sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                );
            }
        }
        "hostPath" => host_path(errors, source, &field),
        "secret" | "configMap" => {
            let key = match kind {
                "secret" => "secretName",
                _ => "name",
            };
            required(errors, source, key, &field);
            mode(errors, source, "defaultMode", &field);
            items(errors, source, &field);
        }
        "downwardAPI" => {
            mode(errors, source, "defaultMode", &field);
            for item in list(source, "items") {
                pod_file(errors, item, &field);
            }
        }
        "projected" => {
            mode(errors, source, "defaultMode", &field);
            projections(errors, source, pod.allowed.loose_token_paths, &field);
        }
        "persistentVolumeClaim" => required(errors, source, "claimName", &field),
        "ephemeral" => {
            ephemeral(errors, source, &field);
            if !pod.name.is_empty() && !name.is_empty() {
                let claim = format!("{}-{name}", pod.name);
                for problem in names::dns1123_subdomain(&claim) {
                    let detail = format!("PVC name {claim:?}: {problem}");
                    errors.invalid(child(path, "name"), name, detail);
                }
            }
        }
        "csi" => csi(errors, source, &field),
        "image" => {
            if pod.holder == Holder::Pod {
                required(errors, source, "reference", &field);
            }
            let policy = text(source, "pullPolicy");
            super::containers::pull_policy(errors, policy, child(&field, "pullPolicy"));
        }
        _ => network(errors, kind, source, (Owner::Pod, name), path),
    }
}

/// Validates a claim that lives as long as its pod.
fn ephemeral(errors: &mut Errors, source: &Value, field: &str) {
    let template = at(source, "volumeClaimTemplate");
    let field = child(field, "volumeClaimTemplate");
    if template.is_null() {
        errors.required(field, "");
        return;
    }
    let metadata = at(template, "metadata");
    let meta = child(&field, "metadata");
    annotations(errors, metadata, &child(&meta, "annotations"));
    labels(errors, metadata, &child(&meta, "labels"));
    // The fields that must be unset, in upstream's order and spelling.
    for (key, shown) in [
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ] {
        let unset = match at(metadata, key) {
            Value::String(text) => text.is_empty(),
            Value::Number(number) => key == "generation" && number.as_i64() == Some(0),
            value => value.is_null(),
        };
        if !unset {
            errors.forbidden(child(&meta, shown), "cannot be set");
        }
    }
    super::claims::claim_spec(errors, at(template, "spec"), &child(&field, "spec"));
}

/// Validates a volume of a CSI driver. As upstream, the error of a malformed secret's name has
/// the field `name` of the source.
fn csi(errors: &mut Errors, source: &Value, field: &str) {
    csi_driver(errors, source, field);
    if has(source, "nodePublishSecretRef") {
        let name = text(source, "nodePublishSecretRef.name");
        if name.is_empty() {
            errors.required(format!("{field}.nodePublishSecretRef.name"), "");
        } else {
            errors.invalid_each(&child(field, "name"), name, names::dns1123_subdomain(name));
        }
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
