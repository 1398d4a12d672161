//! Dynamic resource allocation.

mod capacity;
mod claims;
mod common;
mod slices;
mod status;

use rkube_api::Object;
use serde_json::json;

use crate::Strategy;
use crate::core::service::immutable;
use crate::errors::Errors;
use crate::generic::{Generation, Rules, StatusMetadata};
use crate::tree::{at, at_mut, default_number, default_text, list_mut, put, set, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "ResourceClaim" => &RESOURCE_CLAIM,
        "ResourceClaimTemplate" => &RESOURCE_CLAIM_TEMPLATE,
        "ResourceSlice" => &RESOURCE_SLICE,
        "DeviceClass" => &DEVICE_CLASS,
        _ => return None,
    })
}

fn requests(obj: &mut Object, path: &str) {
    for request in list_mut(obj, path) {
        if let Some(exact) = at_mut(request, "exactly") {
            exact_request(exact);
        }
        for sub in list_mut(request, "firstAvailable") {
            exact_request(sub);
        }
    }
}

fn exact_request(request: &mut Object) {
    default_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        default_number(request, "count", 1);
    }
    for toleration in list_mut(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

static RESOURCE_CLAIM: Rules = Rules {
    default: |obj| requests(obj, "spec.devices.requests"),
    validate_new: |obj| {
        let mut errors = Errors::new();
        claims::devices(&mut errors, at(obj, "spec.devices"), "spec.devices");
        errors.0
    },
    // As the spec never changes, nothing else is validated again.
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec");
        errors.0
    },
    prepare_status: status::drop_deallocated,
    validate_status: status::validate,
    status_metadata: StatusMetadata::Reset,
    ..Rules::SPEC_AND_STATUS_PLAIN
};

static RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: |obj| requests(obj, "spec.spec.devices.requests"),
    validate: |obj| {
        let mut errors = Errors::new();
        let metadata = at(obj, "spec.metadata");
        crate::metadata::annotations(&mut errors, metadata, "spec.metadata.annotations");
        crate::metadata::labels(&mut errors, metadata, "spec.metadata.labels");
        claims::template_metadata(&mut errors, metadata, "spec.metadata");
        let devices = at(obj, "spec.spec.devices");
        claims::devices(&mut errors, devices, "spec.spec.devices");
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec");
        errors.0
    },
    ..Rules::PLAIN
};

static RESOURCE_SLICE: Rules = Rules {
    prepare: |ctx, slice, _| {
        for device in list_mut(slice, "spec.devices") {
            slices::drop_disabled(device);
            for taint in list_mut(device, "taints") {
                if at(taint, "timeAdded").is_null() {
                    set(taint, "timeAdded", rkube_api::meta::rfc3339(ctx.now));
                }
            }
        }
    },
    validate_new: |obj| slices::validate(obj, None),
    validate_update: |new, old| slices::validate(new, Some(old)),
    warnings: |new, _| {
        let driver = text(new, "spec.driver");
        match driver.chars().any(char::is_uppercase) {
            true => vec![format!(
                "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
            )],
            false => Vec::new(),
        }
    },
    generation: Generation::Counted,
    selectable: &["spec.nodeName", "spec.driver"],
    ..Rules::PLAIN
};

static DEVICE_CLASS: Rules = Rules {
    default: |class| {
        // As Go's encoder, which has the spec in every object.
        if at(class, "spec").is_null() {
            put(class, "spec", json!({}));
        }
    },
    validate: |obj| {
        let mut errors = Errors::new();
        common::selectors(&mut errors, at(obj, "spec.selectors"), "spec.selectors");
        let configs = at(obj, "spec.config");
        common::limited(
            &mut errors,
            configs,
            32,
            "spec.config",
            common::configuration,
        );
        let name = at(obj, "spec.extendedResourceName");
        if let Some(name) = name.as_str()
            && !rkube_component_helpers::resource::is_extended(name)
        {
            let why = "must be a valid extended resource name";
            errors.invalid("spec.extendedResourceName", name, why);
        }
        errors.0
    },
    generation: Generation::Counted,
    ..Rules::PLAIN
};
