//! Storage classes, CSI objects and volume attachments.

use std::collections::{BTreeMap, BTreeSet};

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::core::service::immutable;
use crate::errors::{Errors, child, index, show_fields, shown_any, shown_text};
use crate::generic::{Generation, Rules, StatusMetadata};
use crate::tree::{at, at_mut, default_value, entries, has, int, list, same, same_at, text};
use crate::{NameRule, Strategy, names, node_labels, quantities, selectors};

/// Most parameters of a class.
const MAX_PARAMETERS: usize = 512;
/// Largest sum of the sizes of parameters, in bytes.
const MAX_SIZE: usize = 256 << 10;
/// Longest message of an error of an attachment, in bytes.
const MAX_ERROR: usize = 1024;
/// Longest name of a node in a CSI driver, in bytes.
const MAX_NODE_ID: usize = 256;

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
        for path in [
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ] {
            immutable(&mut errors, new, old, path);
        }
        errors.0
    },
    warnings: |new, _| {
        let mut warnings = Vec::new();
        for (i, term) in list(new, "allowedTopologies").iter().enumerate() {
            for (j, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
                if let Some(why) = node_labels::deprecated(text(expression, "key")) {
                    let field = format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key");
                    warnings.push(format!("{field}: {why}"));
                }
            }
        }
        warnings
    },
    ..Rules::PLAIN
};

fn storage_class(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    provisioner(&mut errors, obj, "provisioner");
    parameters(&mut errors, obj, false);
    match text(obj, "reclaimPolicy") {
        "" | "Delete" | "Retain" => {}
        other => errors.not_supported("reclaimPolicy", other, &["Delete", "Retain"]),
    }
    match text(obj, "volumeBindingMode") {
        "Immediate" | "WaitForFirstConsumer" => {}
        "" if !has(obj, "volumeBindingMode") => errors.required("volumeBindingMode", ""),
        other => errors.not_supported(
            "volumeBindingMode",
            other,
            &["Immediate", "WaitForFirstConsumer"],
        ),
    }
    allowed_topologies(&mut errors, obj);
    errors.0
}

/// Validates the name of a provisioner or driver: qualified, in letters of either case.
fn provisioner(errors: &mut Errors, obj: &Object, key: &str) {
    let name = text(obj, key);
    if name.is_empty() {
        errors.required(key, "");
    } else {
        let name = name.to_lowercase();
        errors.invalid_each(key, &name, names::qualified_name(&name));
    }
}

/// Validates the number, keys and total size of `parameters`; `required` refuses none at all.
fn parameters(errors: &mut Errors, obj: &Object, required: bool) {
    let count = entries(obj, "parameters").count();
    if count > MAX_PARAMETERS {
        errors.too_long("parameters", MAX_PARAMETERS);
        return;
    }
    let mut size = 0;
    for (key, value) in entries(obj, "parameters") {
        if key.is_empty() {
            errors.invalid("parameters", "", "field can not be empty.");
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MAX_SIZE {
        errors.too_long("parameters", MAX_SIZE);
    }
    if required && count == 0 {
        errors.required("parameters", "must contain at least one key/value pair");
    }
}

/// Validates the topologies of a storage class: distinct terms of distinct keys and values.
fn allowed_topologies(errors: &mut Errors, obj: &Object) {
    let terms = list(obj, "allowedTopologies");
    // As upstream, a term without expressions equals those that are still to come.
    let mut seen = vec![BTreeMap::new(); terms.len()];
    for (i, term) in terms.iter().enumerate() {
        let base = format!("allowedTopologies[{i}].matchLabelExpressions");
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (j, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
            let field = index(&base, j);
            let key = text(expression, "key");
            let values = topology_values(errors, expression, &field);
            errors.invalid_each(&child(&field, "key"), key, names::qualified_name(key));
            if keys.insert(key, values).is_some() {
                errors.duplicate(child(&field, "key"), key);
            }
        }
        for _ in seen.iter().filter(|other| **other == keys) {
            errors.duplicate(base.clone(), "");
        }
        seen.push(keys);
    }
}

fn topology_values<'a>(
    errors: &mut Errors,
    expression: &'a Value,
    field: &str,
) -> BTreeSet<&'a str> {
    let field = child(field, "values");
    let mut seen = BTreeSet::new();
    if list(expression, "values").is_empty() {
        errors.required(field.clone(), "");
    }
    for (i, value) in list(expression, "values").iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        if !seen.insert(value) {
            errors.duplicate(index(&field, i), value);
        }
    }
    seen
}

static VOLUME_ATTACHMENT: Rules = Rules {
    validate: volume_attachment,
    validate_status: |new, old| {
        // As upstream, whose status has the update strategy of the object.
        let mut errors = Errors(volume_attachment(new));
        immutable(&mut errors, new, old, "spec");
        errors.0
    },
    status_metadata: StatusMetadata::Reset,
    unconditional: false,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        if !same_at(new, old, "spec") {
            errors.invalid("spec", at(new, "spec").clone(), crate::errors::IMMUTABLE);
        }
        errors.0
    },
    ..Rules::SPEC_AND_STATUS_PLAIN
};

fn volume_attachment(obj: &Object) -> Vec<FieldError> {
    const ONE_SOURCE: &str =
        "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let mut errors = Errors::new();
    names::csi_driver(&mut errors, text(obj, "spec.attacher"), "spec.attacher");
    let volume = "spec.source.persistentVolumeName";
    match (has(obj, volume), has(obj, "spec.source.inlineVolumeSpec")) {
        (false, false) => errors.required("spec.source", ONE_SOURCE),
        (true, true) => errors.forbidden("spec.source", ONE_SOURCE),
        (true, false) => {
            if text(obj, volume).is_empty() {
                errors.required(volume, "must specify non empty persistentVolumeName");
            }
        }
        (false, true) => inline_volume(&mut errors, at(obj, "spec.source.inlineVolumeSpec")),
    }
    let node = text(obj, "spec.nodeName");
    errors.invalid_each("spec.nodeName", node, names::dns1123_subdomain(node));
    attachment_status(&mut errors, at(obj, "status"));
    if has(obj, volume) {
        let name = text(obj, volume);
        errors.invalid_each(volume, name, names::dns1123_subdomain(name));
    }
    errors.0
}

/// Validates the size of what a driver tells about an attachment.
fn attachment_status(errors: &mut Errors, status: &Value) {
    let metadata = entries(status, "attachmentMetadata");
    let size: usize = metadata
        .map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len())
        .sum();
    if size > MAX_SIZE {
        errors.too_long("status.attachmentMetadata", MAX_SIZE);
    }
    for key in ["attachError", "detachError"] {
        let error = at(status, key);
        let field = child("status", key);
        if text(error, "message").len() > MAX_ERROR {
            // As upstream, the limit in the message is not the one that applies.
            errors.too_long(child(&field, "message"), MAX_SIZE);
        }
        if let Some(code) = int(error, "errorCode")
            && code < 0
        {
            let why = names::inclusive_range_error(0, i64::from(i32::MAX));
            errors.invalid(child(&field, "errorCode"), code, why);
        }
    }
}

/// Validates the spec of a volume without an object. Only CSI has such volumes.
fn inline_volume(errors: &mut Errors, spec: &Value) {
    const CONTEXT: &str = "in the context of inline volumes";
    let base = "spec.source.inlineVolumeSpec";
    for key in ["claimRef", "capacity"] {
        if !crate::tree::is_empty(at(spec, key)) {
            errors.forbidden(child(base, key), format!("may not be specified {CONTEXT}"));
        }
    }
    if !has(spec, "csi") {
        errors.required(child(base, "csi"), format!("has to be specified {CONTEXT}"));
    }
    if list(spec, "accessModes").is_empty() {
        errors.required(child(base, "accessModes"), "");
    }
}

static CSI_DRIVER: Rules = Rules {
    default: |obj| {
        if let Some(spec) = at_mut(obj, "spec") {
            default_value(spec, "attachRequired", true);
            default_value(spec, "podInfoOnMount", false);
            default_value(spec, "storageCapacity", false);
            default_value(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            default_value(spec, "requiresRepublish", false);
            default_value(spec, "seLinuxMount", false);
            if list(spec, "volumeLifecycleModes").is_empty() {
                crate::tree::set(spec, "volumeLifecycleModes", json!(["Persistent"]));
            }
        }
    },
    validate: csi_driver,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        // The spelling of the first path is upstream's.
        for (path, field) in [
            ("spec.attachRequired", "spec.attachedRequired"),
            ("spec.volumeLifecycleModes", "spec.volumeLifecycleModes"),
        ] {
            if !same_at(new, old, path) {
                errors.invalid(field, at(new, path).clone(), crate::errors::IMMUTABLE);
            }
        }
        errors.0
    },
    // The feature gate of the field is off in v1.36.
    prepare: |_, driver, old| {
        let field = "spec.preventPodSchedulingIfMissing";
        if !old.is_some_and(|old| has(old, field)) {
            crate::tree::remove(driver, field);
        }
    },
    warnings: |new, old| {
        let tokens = "spec.tokenRequests";
        let changed = !old.is_some_and(|old| same_at(old, new, tokens));
        let unset = !has(new, "spec.serviceAccountTokenInSecrets");
        match changed && unset && !list(new, tokens).is_empty() {
            true => vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()],
            false => Vec::new(),
        }
    },
    generation: Generation::GivenThenCounted,
    unconditional: false,
    ..Rules::PLAIN
};

fn csi_driver(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for (path, field) in [
        ("spec.attachRequired", "spec.attachedRequired"),
        ("spec.podInfoOnMount", "spec.podInfoOnMount"),
        ("spec.storageCapacity", "spec.storageCapacity"),
    ] {
        if !has(obj, path) {
            errors.required(field, "");
        }
    }
    let policy = text(obj, "spec.fsGroupPolicy");
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    if has(obj, "spec.fsGroupPolicy") && !policies.contains(&policy) {
        errors.not_supported("spec.fsGroupPolicy", policy, &policies);
    }
    token_requests(&mut errors, obj);
    for mode in list(obj, "spec.volumeLifecycleModes") {
        let mode = mode.as_str().unwrap_or_default();
        let modes = ["Persistent", "Ephemeral"];
        if !modes.contains(&mode) {
            errors.not_supported("spec.volumeLifecycleModes", mode, &modes);
        }
    }
    if !has(obj, "spec.seLinuxMount") {
        errors.required("spec.seLinuxMount", "");
    }
    if let Some(seconds) = int(obj, "spec.nodeAllocatableUpdatePeriodSeconds")
        && seconds < 10
    {
        errors.invalid(
            "spec.nodeAllocatableUpdatePeriodSeconds",
            seconds,
            "must be greater than or equal to 10 seconds",
        );
    }
    let secrets = "spec.serviceAccountTokenInSecrets";
    if has(obj, secrets) && list(obj, "spec.tokenRequests").is_empty() {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(secrets, at(obj, secrets).clone(), why);
    }
    errors.0
}

/// Validates the tokens that a driver asks for: one per audience, valid for at least 10 minutes.
fn token_requests(errors: &mut Errors, obj: &Object) {
    let mut audiences = BTreeSet::new();
    for (i, request) in list(obj, "spec.tokenRequests").iter().enumerate() {
        let field = index("spec.tokenRequests", i);
        let audience = text(request, "audience");
        if !audiences.insert(audience) {
            errors.duplicate(child(&field, "audience"), audience);
            continue;
        }
        let Some(seconds) = int(request, "expirationSeconds") else {
            continue;
        };
        let field = child(&field, "expirationSeconds");
        if seconds < 600 {
            let why = "may not specify a duration less than 10 minutes";
            errors.invalid(field, seconds, why);
        } else if seconds > 1 << 32 {
            let why = "may not specify a duration larger than 2^32 seconds";
            errors.invalid(field, seconds, why);
        }
    }
}

static CSI_NODE: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        let mut seen = BTreeSet::new();
        for (i, driver) in list(obj, "spec.drivers").iter().enumerate() {
            let field = index("spec.drivers", i);
            csi_node_driver(&mut errors, driver, &field, &mut seen);
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            crate::tree::remove(&mut driver, "allocatable");
            driver
        };
        for before in list(old, "spec.drivers") {
            for now in list(new, "spec.drivers") {
                if text(before, "name") == text(now, "name") && !same(&fixed(before), &fixed(now)) {
                    let shown = show_fields(&[
                        ("Name", shown_text(now, "name")),
                        ("NodeID", shown_text(now, "nodeID")),
                        ("TopologyKeys", shown_any(now, "topologyKeys")),
                        ("Allocatable", "null".to_owned()),
                    ]);
                    let why = crate::errors::IMMUTABLE;
                    errors.invalid_shown("spec.drivers", &shown, why);
                }
            }
        }
        errors.0
    },
    unconditional: false,
    ..Rules::PLAIN
};

fn csi_node_driver<'a>(
    errors: &mut Errors,
    driver: &'a Value,
    field: &str,
    seen: &mut BTreeSet<&'a str>,
) {
    let name = text(driver, "name");
    names::csi_driver(errors, name, &child(field, "name"));
    let id = text(driver, "nodeID");
    if id.is_empty() {
        errors.required(child(field, "nodeID"), "");
    }
    if id.len() > MAX_NODE_ID {
        let why = format!("must be {MAX_NODE_ID} characters or less");
        errors.invalid(child(field, "nodeID"), id, why);
    }
    if let Some(count) = int(driver, "allocatable.count")
        && count < 0
    {
        errors.invalid(
            child(field, "allocatable.count"),
            count,
            crate::errors::NOT_NEGATIVE,
        );
    }
    if !seen.insert(name) {
        errors.duplicate(child(field, "name"), name);
    }
    let mut keys = BTreeSet::new();
    for key in list(driver, "topologyKeys") {
        let key = key.as_str().unwrap_or_default();
        if key.is_empty() {
            errors.required(field, "");
        }
        if !keys.insert(key) {
            errors.duplicate(field, key);
        }
        errors.invalid_each(field, key, names::qualified_name(key));
    }
}

static CSI_STORAGE_CAPACITY: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        selectors::validate(&mut errors, at(obj, "nodeTopology"), "nodeTopology");
        let class = text(obj, "storageClassName");
        errors.invalid_each("storageClassName", class, names::dns1123_subdomain(class));
        let capacity = quantities::read(Some(at(obj, "capacity")));
        if capacity.sign() < 0 {
            let why = crate::errors::NOT_NEGATIVE;
            errors.invalid("capacity", capacity.to_string(), why);
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "nodeTopology");
        immutable(&mut errors, new, old, "storageClassName");
        errors.0
    },
    warnings: |new, _| {
        node_labels::label_selector_warnings(at(new, "nodeTopology"), "nodeTopology")
    },
    unconditional: false,
    ..Rules::PLAIN
};

static VOLUME_ATTRIBUTES_CLASS: Rules = Rules {
    validate_new: attributes_class,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        for path in ["driverName", "parameters"] {
            if !same_at(new, old, path) {
                errors.forbidden(path, format!("updates to {path} are forbidden."));
            }
        }
        errors.extend(attributes_class(new));
        errors.0
    },
    names: NameRule::Dns1123Subdomain,
    ..Rules::PLAIN
};

fn attributes_class(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    provisioner(&mut errors, obj, "driverName");
    parameters(&mut errors, obj, true);
    errors.0
}
