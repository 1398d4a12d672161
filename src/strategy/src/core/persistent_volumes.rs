//! Persistent volumes.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use super::claims::{class_name, known_modes, not_negative, positive, volume_mode};
use super::pod_affinity::node_selector_with;
use super::shown::{Field, Form, show};
use super::volume_sources::{Owner, csi_driver, network, required};
use super::{claims, pod_volumes, pod_warnings};
use crate::errors::{Errors, IMMUTABLE, child, keyed};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, entries, has, keep, list, list_mut, put, remove, same,
    same_at, text,
};
use crate::{Context, Strategy, names, quantities};

/// The annotation with mount options from before there was a field.
const OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

/// The kinds of volumes in upstream's order: of two, the error is about the latter.
const KINDS: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The strategy of kind `PersistentVolume`.
pub(crate) struct Volume;

impl Strategy for Volume {
    fn default(&self, obj: &mut Object) {
        if text(obj, "status.phase").is_empty() {
            put(obj, "status.phase", "Pending");
        }
        let Some(spec) = at_mut(obj, "spec") else {
            return;
        };
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_value(spec, "volumeMode", "Filesystem");
        quantities::normalize(spec, "capacity");
        if let Some(path) = at_mut(spec, "hostPath") {
            default_value(path, "type", "");
        }
        if let Some(iscsi) = at_mut(spec, "iscsi") {
            default_text(iscsi, "iscsiInterface", "default");
        }
        if let Some(rbd) = at_mut(spec, "rbd") {
            default_text(rbd, "pool", "rbd");
            default_text(rbd, "user", "admin");
            default_text(rbd, "keyring", "/etc/ceph/keyring");
        }
        if let Some(disk) = at_mut(spec, "azureDisk") {
            super::pod_defaults::azure_disk(disk);
        }
        if let Some(io) = at_mut(spec, "scaleIO") {
            default_text(io, "storageMode", "ThinProvisioned");
            default_text(io, "fsType", "xfs");
        }
    }

    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        put(
            obj,
            "status",
            json!({"phase": "Pending", "lastPhaseTransitionTime": rkube_api::meta::rfc3339(ctx.now)}),
        );
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
    }

    fn prepare_status_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
        if text(new, "status.phase") != text(old, "status.phase") {
            if at(new, "status.lastPhaseTransitionTime")
                == at(old, "status.lastPhaseTransitionTime")
            {
                put(
                    new,
                    "status.lastPhaseTransitionTime",
                    rkube_api::meta::rfc3339(ctx.now),
                );
            }
        } else if !has(new, "status.lastPhaseTransitionTime") {
            keep(new, old, "status.lastPhaseTransitionTime");
        }
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        volume(&mut errors, obj, true);
        mount_options(&mut errors, obj);
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let values = !has_bad_node_value(old);
        volume(&mut errors, new, values);
        mount_options(&mut errors, new);
        // As upstream, all is validated twice.
        volume(&mut errors, new, values);
        volume_update(&mut errors, new, old);
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        warnings_of(new)
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "name" => Some(text(obj, "metadata.name").to_owned()),
            _ => generic::field_value(obj, field),
        }
    }
}

/// Validates a volume, and the values of its node affinity if `check_values` is true.
fn volume(errors: &mut Errors, obj: &Object, check_values: bool) {
    let spec = at(obj, "spec");
    if list(spec, "accessModes").is_empty() {
        errors.required("spec.accessModes", "");
    }
    known_modes(errors, spec, "spec.accessModes");
    capacity(errors, spec);
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    let known = ["Delete", "Recycle", "Retain"];
    if !policy.is_empty() && !known.contains(&policy) {
        errors.not_supported("spec.persistentVolumeReclaimPolicy", policy, &known);
    }
    if has(spec, "nodeAffinity") {
        let field = "spec.nodeAffinity.required";
        match at(spec, "nodeAffinity.required") {
            Value::Null => errors.required(field, "must specify required node constraints"),
            required => node_selector_with(errors, required, check_values, field),
        }
    }
    sources(errors, spec, text(obj, "metadata.name"));
    if is_root(text(spec, "hostPath.path")) && policy == "Recycle" {
        errors.forbidden(
            "spec.persistentVolumeReclaimPolicy",
            "may not be 'recycle' for a hostPath mount of '/'",
        );
    }
    class_name(errors, spec, "storageClassName", "spec");
    volume_mode(errors, spec, "spec.volumeMode");
    if has(spec, "volumeAttributesClassName") {
        if text(spec, "volumeAttributesClassName").is_empty() {
            errors.required(
                "spec.volumeAttributesClassName",
                "an empty string is disallowed",
            );
        }
        class_name(errors, spec, "volumeAttributesClassName", "spec");
        if !has(spec, "csi") {
            errors.required(
                "spec.csi",
                "has to be specified when using volumeAttributesClassName",
            );
        }
    }
}

/// Returns whether an absolute path is that of the root directory.
fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

/// Validates the capacity of a volume, which must have only `storage`.
fn capacity(errors: &mut Errors, spec: &Value) {
    let capacity = at(spec, "capacity");
    let count = entries(spec, "capacity").count();
    if count == 0 {
        errors.required("spec.capacity", "");
    }
    if count != 1 || capacity.get("storage").is_none() {
        errors.value_not_supported("spec.capacity", capacity.clone(), &["storage"]);
    }
    for (name, amount) in entries(spec, "capacity") {
        let field = keyed("spec.capacity", name);
        not_negative(errors, amount, &field);
        positive(errors, amount, &field);
    }
}

/// Validates that a volume has exactly one source, and the source.
fn sources(errors: &mut Errors, spec: &Value, name: &str) {
    let mut count = 0;
    for kind in KINDS {
        let source = at(spec, kind);
        if source.is_null() {
            continue;
        }
        count += 1;
        // As upstream, a flex volume is never one too many.
        if count > 1 && kind != "flexVolume" {
            // The spelling of this field in the error is upstream's.
            let shown = match kind {
                "cephfs" => "cephFS",
                other => other,
            };
            errors.forbidden(
                child("spec", shown),
                "may not specify more than 1 volume type",
            );
            continue;
        }
        let field = child("spec", kind);
        match kind {
            "hostPath" => pod_volumes::host_path(errors, source, &field),
            "local" => {
                let place = text(source, "path");
                required(errors, source, "path", &field);
                if names::has_backsteps(place) {
                    errors.invalid(child(&field, "path"), place, "must not contain '..'");
                }
                if !has(spec, "nodeAffinity") {
                    errors.required("spec.nodeAffinity", "Local volume requires node affinity");
                }
            }
            "csi" => csi(errors, source, &field),
            _ => network(
                errors,
                kind,
                source,
                (Owner::PersistentVolume, name),
                "spec",
            ),
        }
    }
    if count == 0 {
        errors.required("spec", "must specify a volume type");
    }
}

/// Validates a volume of a CSI driver, and where its secrets are.
fn csi(errors: &mut Errors, source: &Value, field: &str) {
    csi_driver(errors, source, field);
    required(errors, source, "volumeHandle", field);
    for key in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let reference = at(source, key);
        if reference.is_null() {
            continue;
        }
        let field = child(field, key);
        let name = text(reference, "name");
        required(errors, reference, "name", &field);
        if !name.is_empty() {
            errors.invalid_each(&child(&field, "name"), name, names::dns1123_subdomain(name));
        }
        let namespace = text(reference, "namespace");
        required(errors, reference, "namespace", &field);
        if !namespace.is_empty() {
            let problems = names::dns1123_label(namespace);
            errors.invalid_each(&child(&field, "namespace"), namespace, problems);
        }
    }
}

/// Validates that the annotation with mount options is only at volumes that are mounted with them.
fn mount_options(errors: &mut Errors, obj: &Object) {
    let mounted = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "photonPersistentDisk",
    ];
    let annotated = at(obj, "metadata.annotations").get(OPTIONS_ANNOTATION);
    if annotated.is_some() && !mounted.iter().any(|kind| has(at(obj, "spec"), kind)) {
        errors.forbidden(
            format!("metadata.annotations.{OPTIONS_ANNOTATION}"),
            "may not specify mount options for this volume type",
        );
    }
}

/// Returns whether the node affinity of a volume has values that are none of labels.
fn has_bad_node_value(volume: &Object) -> bool {
    list(volume, "spec.nodeAffinity.required.nodeSelectorTerms")
        .iter()
        .flat_map(|term| list(term, "matchExpressions"))
        .flat_map(|expression| list(expression, "values"))
        .any(|value| !names::label_value(value.as_str().unwrap_or_default()).is_empty())
}

fn volume_update(errors: &mut Errors, new: &Object, old: &Object) {
    const EXPAND: &str = "spec.csi.controllerExpandSecretRef";
    const ATTRIBUTES: &str = "spec.volumeAttributesClassName";
    let mut normal = new.clone();
    if has(old, "spec.csi") && !has(old, EXPAND) {
        remove(&mut normal, EXPAND);
    }
    let unchanged = KINDS
        .iter()
        .all(|kind| same(at(at(&normal, "spec"), kind), at(at(old, "spec"), kind)));
    if !unchanged {
        errors.forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    // Upstream's field paths lack the prefix `spec` here.
    if !same_at(new, old, "spec.volumeMode") {
        errors.invalid("volumeMode", at(new, "spec.volumeMode").clone(), IMMUTABLE);
    }
    if has(old, "spec.nodeAffinity") && !same_affinity(new, old) {
        let shown = match at(new, "spec.nodeAffinity") {
            Value::Null => "null".to_owned(),
            affinity => show(affinity, AFFINITY),
        };
        errors.invalid_shown(
            "nodeAffinity",
            &shown,
            "field is immutable, except for updating from beta label to GA",
        );
    }
    if has(old, ATTRIBUTES) && !has(new, ATTRIBUTES) {
        errors.forbidden(ATTRIBUTES, "update from non-nil value to nil is forbidden");
    }
}

const REQUIREMENT: &[Field] = &[
    Field("key", "Key", Form::Text),
    Field("operator", "Operator", Form::Text),
    Field("values", "Values", Form::Optional),
];

/// The fields of the node affinity of a volume.
const AFFINITY: &[Field] = &[Field(
    "required",
    "Required",
    Form::Fields(&[Field(
        "nodeSelectorTerms",
        "NodeSelectorTerms",
        Form::Items(&[
            Field(
                "matchExpressions",
                "MatchExpressions",
                Form::Items(REQUIREMENT),
            ),
            Field("matchFields", "MatchFields", Form::Items(REQUIREMENT)),
        ]),
    )]),
)];

/// Returns whether the node affinity of a volume is as before, but for labels that got new names.
fn same_affinity(new: &Object, old: &Object) -> bool {
    let path = "spec.nodeAffinity.required.nodeSelectorTerms";
    let mut renamed = old.clone();
    let now = list(new, path);
    for (term, wanted) in list_mut(&mut renamed, path).iter_mut().zip(now) {
        for key in ["matchExpressions", "matchFields"] {
            let wanted = list(wanted, key);
            for (requirement, wanted) in list_mut(term, key).iter_mut().zip(wanted) {
                let label = match text(requirement, "key") {
                    "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
                    "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
                    "beta.kubernetes.io/os" => "kubernetes.io/os",
                    "beta.kubernetes.io/arch" => "kubernetes.io/arch",
                    "beta.kubernetes.io/instance-type" => "node.kubernetes.io/instance-type",
                    _ => continue,
                };
                if text(wanted, "key") == label {
                    put(requirement, "key", label);
                }
            }
        }
    }
    same_at(new, &renamed, "spec.nodeAffinity")
}

fn warnings_of(obj: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, message) in [
        (
            claims::CLASS_ANNOTATION,
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            OPTIONS_ANNOTATION,
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if at(obj, "metadata.annotations").get(key).is_some() {
            warnings.push(format!("{}: {message}", keyed("metadata.annotations", key)));
        }
    }
    if text(obj, "spec.persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let path = "spec.nodeAffinity.required.nodeSelectorTerms";
    for (i, term) in list(obj, path).iter().enumerate() {
        let field = crate::errors::index(path, i);
        pod_warnings::node_selector_term(term, false, &field, &mut warnings);
    }
    for (kind, shown, message) in [
        (
            "cephfs",
            "cephfs",
            "deprecated in v1.28, non-functional in v1.31+",
        ),
        (
            "photonPersistentDisk",
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (
            "scaleIO",
            "scaleIO",
            "deprecated in v1.16, non-functional in v1.22+",
        ),
        (
            "storageos",
            "storageOS",
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "glusterfs",
            "glusterfs",
            "deprecated in v1.25, non-functional in v1.26+",
        ),
        (
            "rbd",
            "rbd",
            "deprecated in v1.28, non-functional in v1.31+",
        ),
    ] {
        if has(at(obj, "spec"), kind) {
            warnings.push(format!("spec.{shown}: {message}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let v = json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}});
        assert!(Volume.validate_create(&v).is_empty());
        let mut w = v.clone();
        w["spec"]["hostPath"]["path"] = json!("/y");
        assert_eq!(
            Volume.validate_update(&w, &v)[0].field,
            "spec.persistentvolumesource"
        );
    }

    #[test]
    fn root_directories() {
        for (path, root) in [
            ("/", true),
            ("//.", true),
            ("/a/..", true),
            ("/..", true),
            ("/a", false),
            ("", false),
            ("a/..", false),
        ] {
            assert_eq!(is_root(path), root, "{path}");
        }
    }
}
