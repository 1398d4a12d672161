//! Storage classes, CSI objects and volume attachments.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::json;

use crate::core::service::immutable;
use crate::errors::{Errors, child, index, keyed};
use crate::generic::Rules;
use crate::tree::{at, at_mut, default_text, default_value, entries, has, list, same_at, text};
use crate::{NameRule, Strategy, names};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "StorageClass" => &STORAGE_CLASS,
        "VolumeAttachment" => &VOLUME_ATTACHMENT,
        "CSIDriver" => &CSI_DRIVER,
        "CSINode" => &CSI_NODE,
        "CSIStorageCapacity" => &CSI_STORAGE_CAPACITY,
        "VolumeAttributesClass" => &VOLUME_ATTRIBUTES_CLASS,
        _ => return None,
    })
}

static STORAGE_CLASS: Rules = Rules {
    default: |obj| {
        default_value(obj, "reclaimPolicy", "Delete");
        default_value(obj, "volumeBindingMode", "Immediate");
    },
    validate: storage_class,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        for (path, message) in [
            ("parameters", "updates to parameters are forbidden."),
            ("provisioner", "updates to provisioner are forbidden."),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
        ] {
            if !same_at(new, old, path) {
                errors.forbidden(path, message);
            }
        }
        immutable(&mut errors, new, old, "volumeBindingMode");
        errors.0
    },
    ..Rules::PLAIN
};

fn storage_class(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let provisioner = text(obj, "provisioner");
    if provisioner.is_empty() {
        errors.required("provisioner", "");
    } else {
        let lower = provisioner.to_lowercase();
        errors.invalid_each("provisioner", provisioner, names::qualified_name(&lower));
    }
    let parameters: Vec<_> = entries(obj, "parameters").collect();
    if parameters.len() > 512 {
        errors.too_long("parameters", 512);
    }
    for (key, _) in parameters {
        if key.is_empty() {
            errors.invalid("parameters", "", "field can not be empty.");
        }
    }
    match text(obj, "reclaimPolicy") {
        "" | "Delete" | "Retain" => {}
        other => errors.not_supported("reclaimPolicy", other, &["Delete", "Retain"]),
    }
    match text(obj, "volumeBindingMode") {
        "Immediate" | "WaitForFirstConsumer" => {}
        "" => errors.required("volumeBindingMode", ""),
        other => errors.not_supported(
            "volumeBindingMode",
            other,
            &["Immediate", "WaitForFirstConsumer"],
        ),
    }
    for (i, term) in list(obj, "allowedTopologies").iter().enumerate() {
        for (j, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
            let field = index(&format!("allowedTopologies[{i}].matchLabelExpressions"), j);
            if list(expression, "values").is_empty() {
                errors.required(child(&field, "values"), "");
            }
        }
    }
    errors.0
}

static VOLUME_ATTACHMENT: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        for key in ["attacher", "nodeName"] {
            let path = child("spec", key);
            if text(obj, &path).is_empty() {
                errors.required(path, "");
            }
        }
        let (name, inline) = (
            has(obj, "spec.source.persistentVolumeName"),
            has(obj, "spec.source.inlineVolumeSpec"),
        );
        if !name && !inline {
            errors.required(
                "spec.source",
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            );
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        if !same_at(new, old, "spec") {
            errors.invalid("spec", at(new, "spec").clone(), crate::errors::IMMUTABLE);
        }
        errors.0
    },
    ..Rules::SPEC_AND_STATUS_PLAIN
};

static CSI_DRIVER: Rules = Rules {
    default: |obj| {
        if let Some(spec) = at_mut(obj, "spec") {
            default_value(spec, "attachRequired", true);
            default_value(spec, "podInfoOnMount", false);
            default_value(spec, "storageCapacity", false);
            default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            default_value(spec, "requiresRepublish", false);
            default_value(spec, "seLinuxMount", false);
            default_value(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    },
    validate: |obj| {
        let mut errors = Errors::new();
        for (i, mode) in list(obj, "spec.volumeLifecycleModes").iter().enumerate() {
            let mode = mode.as_str().unwrap_or_default();
            if !matches!(mode, "Persistent" | "Ephemeral") {
                errors.not_supported(
                    index("spec.volumeLifecycleModes", i),
                    mode,
                    &["Ephemeral", "Persistent"],
                );
            }
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec.attachRequired");
        immutable(&mut errors, new, old, "spec.volumeLifecycleModes");
        errors.0
    },
    generation: true,
    ..Rules::PLAIN
};

static CSI_NODE: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        for (i, driver) in list(obj, "spec.drivers").iter().enumerate() {
            let field = index("spec.drivers", i);
            for key in ["name", "nodeID"] {
                if text(driver, key).is_empty() {
                    errors.required(child(&field, key), "");
                }
            }
        }
        errors.0
    },
    ..Rules::PLAIN
};

static CSI_STORAGE_CAPACITY: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        let class = text(obj, "storageClassName");
        errors.invalid_each("storageClassName", class, names::dns1123_subdomain(class));
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "nodeTopology");
        immutable(&mut errors, new, old, "storageClassName");
        errors.0
    },
    ..Rules::PLAIN
};

static VOLUME_ATTRIBUTES_CLASS: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        if text(obj, "driverName").is_empty() {
            errors.required("driverName", "");
        }
        for (key, _) in entries(obj, "parameters") {
            if key.is_empty() {
                errors.invalid(keyed("parameters", key), "", "field can not be empty.");
            }
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        for path in ["driverName", "parameters"] {
            if !same_at(new, old, path) {
                errors.forbidden(path, format!("updates to {path} are forbidden."));
            }
        }
        errors.0
    },
    names: NameRule::Dns1123Subdomain,
    ..Rules::PLAIN
};
