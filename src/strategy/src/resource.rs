//! Dynamic resource allocation.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::core::service::immutable;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::tree::{default_number, default_text, has, list_mut, text};

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
        if let Some(exact) = crate::tree::at_mut(request, "exactly") {
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
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec");
        errors.0
    },
    ..Rules::SPEC_AND_STATUS_PLAIN
};

static RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: |obj| requests(obj, "spec.spec.devices.requests"),
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "spec");
        errors.0
    },
    ..Rules::PLAIN
};

static RESOURCE_SLICE: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        for path in ["spec.driver", "spec.pool.name"] {
            if text(obj, path).is_empty() {
                errors.required(path, "");
            }
        }
        let places = [
            "spec.nodeName",
            "spec.nodeSelector",
            "spec.allNodes",
            "spec.perDeviceNodeSelection",
        ]
        .iter()
        .filter(|p| has(obj, p))
        .count();
        if places != 1 {
            errors.required(
                "spec",
                "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
            );
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors: Vec<FieldError> = Vec::new();
        let mut found = Errors::new();
        for path in ["spec.nodeName", "spec.driver", "spec.pool.name"] {
            immutable(&mut found, new, old, path);
        }
        errors.append(&mut found.0);
        errors
    },
    generation: true,
    selectable: &["spec.nodeName", "spec.driver"],
    ..Rules::PLAIN
};

static DEVICE_CLASS: Rules = Rules {
    generation: true,
    ..Rules::PLAIN
};
