//! Persistent volumes and persistent volume claims.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use super::pod_volumes;
use crate::errors::{Errors, IMMUTABLE, child, index, keyed};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, entries, has, keep, list, put, remove, same, text,
};
use crate::{Context, Strategy, names, quantities, selectors};

const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

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
            data_source(spec);
        }
        quantities::normalize(obj, "status.capacity");
        quantities::normalize(obj, "status.allocatedResources");
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        put(obj, "status", json!({"phase": "Pending"}));
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
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
        claim_spec(&mut errors, at(new, "spec"), "spec");
        claim_update(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if list(new, "spec.accessModes").is_empty() {
            errors.required("Spec.accessModes", "");
        }
        for (name, value) in entries(new, "status.capacity") {
            let field = keyed("status.capacity", name);
            quantities::validate_quantity(&mut errors, name, value, &field);
        }
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        let class = |o: &Object| {
            has(o, "metadata.annotations")
                && at(o, "metadata.annotations")
                    .get("volume.beta.kubernetes.io/storage-class")
                    .is_some()
        };
        if class(new) && !old.is_some_and(class) {
            warnings.push("metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead".to_owned());
        }
        for kind in ["requests", "limits"] {
            let amount = quantities::of(at(new, &format!("spec.resources.{kind}")).get("storage"));
            if amount.milli_value() % 1000 != 0 {
                warnings.push(format!(
                    "spec.resources.{kind}[storage]: fractional byte value {:?} is invalid, must be an integer",
                    amount.to_string()
                ));
            }
        }
        warnings
    }
}

/// Copies `dataSource` and `dataSourceRef` to each other, unless the reference has a namespace.
fn data_source(spec: &mut Value) {
    if has(spec, "dataSource") && !has(spec, "dataSourceRef") {
        let source = at(spec, "dataSource").clone();
        put(spec, "dataSourceRef", source);
    } else if has(spec, "dataSourceRef")
        && !has(spec, "dataSource")
        && text(spec, "dataSourceRef.namespace").is_empty()
    {
        let source = at(spec, "dataSourceRef").clone();
        put(spec, "dataSource", source);
    }
}

fn access_modes(errors: &mut Errors, spec: &Value, field: &str) {
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(field, "at least 1 access mode is required");
    }
    let mut single = false;
    let mut other = false;
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        single |= mode == "ReadWriteOncePod";
        other |= mode != "ReadWriteOncePod";
        if !ACCESS_MODES.contains(&mode) {
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

/// Validates the spec of a claim, also within the template of an ephemeral volume.
pub(crate) fn claim_spec(errors: &mut Errors, spec: &Value, path: &str) {
    access_modes(errors, spec, &child(path, "accessModes"));
    if has(spec, "selector") {
        selectors::validate(errors, at(spec, "selector"), &child(path, "selector"));
    }
    let storage = format!("{path}.resources[storage]");
    match at(spec, "resources.requests").get("storage") {
        None => errors.required(storage, ""),
        Some(value) => {
            if quantities::of(Some(value)).sign() <= 0 {
                errors.invalid(
                    storage,
                    quantities::of(Some(value)).to_string(),
                    "must be greater than zero",
                );
            } else {
                quantities::validate_quantity(errors, "storage", value, &storage);
            }
        }
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        errors.invalid_each(
            &child(path, "storageClassName"),
            class,
            names::dns1123_subdomain(class),
        );
    }
    volume_mode(errors, spec, &child(path, "volumeMode"));
    for key in ["dataSource", "dataSourceRef"] {
        let source = at(spec, key);
        if source.is_null() {
            continue;
        }
        let field = child(path, key);
        pod_volumes::required(errors, source, "name", &field);
        pod_volumes::required(errors, source, "kind", &field);
        if text(source, "apiGroup").is_empty() && text(source, "kind") != "PersistentVolumeClaim" {
            errors.invalid(field, text(source, "kind"), "");
        }
    }
}

fn volume_mode(errors: &mut Errors, spec: &Value, field: &str) {
    match text(spec, "volumeMode") {
        "" | "Block" | "Filesystem" => {}
        other => errors.not_supported(field, other, &["Block", "Filesystem"]),
    }
}

fn claim_update(errors: &mut Errors, new: &Object, old: &Object) {
    let mut normal = new.clone();
    // The volume name may be set once, by the binder.
    if text(old, "spec.volumeName").is_empty() {
        keep(&mut normal, old, "spec.volumeName");
    }
    // The class may be set later, once a default class exists.
    if !has(old, "spec.storageClassName") && has(new, "spec.storageClassName") {
        keep(&mut normal, old, "spec.storageClassName");
    }
    if has(new, "spec.volumeAttributesClassName") || !has(old, "spec.volumeAttributesClassName") {
        keep(&mut normal, old, "spec.volumeAttributesClassName");
    }
    let bound = text(old, "status.phase") == "Bound";
    if bound {
        keep(&mut normal, old, "spec.resources.requests");
    }
    let amounts = quantities::same_list(
        at(&normal, "spec.resources.requests"),
        at(old, "spec.resources.requests"),
    );
    if amounts {
        keep(&mut normal, old, "spec.resources.requests");
    }
    if !same(at(&normal, "spec"), at(old, "spec")) {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |o: &Object| quantities::of(at(o, "spec.resources.requests").get("storage"));
    if size(new) < size(old) {
        let floor = quantities::of(at(old, "status.capacity").get("storage"));
        // A failed expansion may be reverted to a size above the current capacity.
        if size(new) <= floor || !bound {
            errors.forbidden(
                "spec.resources.requests.storage",
                "field can not be less than status.capacity",
            );
        }
    }
}

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
        volume(&mut errors, obj);
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        volume(&mut errors, new);
        let sources = |o: &Object| {
            let mut spec = at(o, "spec").clone();
            for key in [
                "capacity",
                "accessModes",
                "claimRef",
                "persistentVolumeReclaimPolicy",
                "storageClassName",
                "mountOptions",
                "volumeMode",
                "nodeAffinity",
                "volumeAttributesClassName",
            ] {
                remove(&mut spec, key);
            }
            for source in ["csi"] {
                for secret in [
                    "controllerPublishSecretRef",
                    "nodePublishSecretRef",
                    "controllerExpandSecretRef",
                    "nodeExpandSecretRef",
                ] {
                    remove(&mut spec, &format!("{source}.{secret}"));
                }
            }
            spec
        };
        if !same(&sources(new), &sources(old)) {
            errors.forbidden(
                "spec.persistentvolumesource",
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        // Upstream's field paths lack the prefix `spec` here.
        for key in ["volumeMode", "nodeAffinity"] {
            let path = child("spec", key);
            let fixed = key == "volumeMode" || has(old, &path);
            if fixed && !same(at(new, &path), at(old, &path)) {
                errors.invalid(key, at(new, &path).clone(), IMMUTABLE);
            }
        }
        errors.0
    }
}

fn volume(errors: &mut Errors, obj: &Object) {
    let spec = at(obj, "spec");
    access_modes(errors, spec, "spec.accessModes");
    capacity(errors, spec);
    match text(spec, "persistentVolumeReclaimPolicy") {
        "" | "Delete" | "Recycle" | "Retain" => {}
        other => errors.not_supported(
            "spec.persistentVolumeReclaimPolicy",
            other,
            &["Delete", "Recycle", "Retain"],
        ),
    }
    if has(spec, "nodeAffinity") {
        match at(spec, "nodeAffinity.required") {
            Value::Null => errors.required(
                "spec.nodeAffinity.required",
                "must specify required node constraints",
            ),
            required => {
                super::pod_affinity::node_selector(errors, required, "spec.nodeAffinity.required")
            }
        }
    }
    volume_source(errors, spec);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        errors.invalid_each(
            "spec.storageClassName",
            class,
            names::dns1123_subdomain(class),
        );
    }
    volume_mode(errors, spec, "spec.volumeMode");
    for (i, option) in list(spec, "mountOptions").iter().enumerate() {
        if option.as_str().is_none_or(str::is_empty) {
            errors.required(index("spec.mountOptions", i), "");
        }
    }
}

/// Validates the capacity of a volume, which must have only `storage`.
fn capacity(errors: &mut Errors, spec: &Value) {
    match at(spec, "capacity") {
        capacity if crate::tree::is_empty(capacity) => errors.required("spec.capacity", ""),
        capacity => {
            let others: Vec<&String> = capacity
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, _)| k)
                .filter(|k| *k != "storage")
                .collect();
            if capacity.get("storage").is_none() || !others.is_empty() {
                errors.not_supported("spec.capacity", &capacity.to_string(), &["storage"]);
            }
            for (name, value) in capacity.as_object().into_iter().flatten() {
                let field = keyed("spec.capacity", name);
                quantities::validate_quantity(errors, name, value, &field);
                if quantities::of(Some(value)).sign() <= 0 {
                    errors.invalid(
                        field,
                        quantities::of(Some(value)).to_string(),
                        "must be greater than zero",
                    );
                }
            }
        }
    }
}

/// Validates that a volume has exactly one source, and the source.
fn volume_source(errors: &mut Errors, spec: &Value) {
    const NOT_SOURCES: [&str; 9] = [
        "capacity",
        "accessModes",
        "claimRef",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "mountOptions",
        "volumeMode",
        "nodeAffinity",
        "volumeAttributesClassName",
    ];
    let mut count = 0;
    for (kind, source) in spec.as_object().into_iter().flatten() {
        if NOT_SOURCES.contains(&kind.as_str()) || source.is_null() {
            continue;
        }
        count += 1;
        let field = child("spec", kind);
        if count > 1 {
            errors.forbidden(field, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "hostPath" => {
                pod_volumes::host_path(errors, source, &field);
                if text(source, "path") == "/"
                    && text(spec, "persistentVolumeReclaimPolicy") == "Recycle"
                {
                    errors.forbidden(
                        "spec.persistentVolumeReclaimPolicy",
                        "may not be 'recycle' for a hostPath mount of '/'",
                    );
                }
            }
            "nfs" => pod_volumes::nfs(errors, source, &field),
            "local" => {
                pod_volumes::required(errors, source, "path", &field);
                if !has(spec, "nodeAffinity") {
                    errors.required("spec.nodeAffinity", "Local volume requires node affinity");
                }
            }
            "csi" => {
                pod_volumes::required(errors, source, "driver", &field);
                pod_volumes::required(errors, source, "volumeHandle", &field);
            }
            _ => {}
        }
    }
    if count == 0 {
        errors.required("spec", "must specify a volume type");
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
}
