//! Controller revisions: snapshots of the state of stateful sets and daemon sets.

use super::not_negative;
use crate::core::service::immutable;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::tree::{at, has};

/// The strategy of kind `ControllerRevision`.
pub(crate) static CONTROLLER_REVISION: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        not_negative(&mut errors, obj, "", &["revision"]);
        errors.0
    },
    validate_new: |obj| {
        let mut errors = Errors::new();
        if !has(obj, "data") {
            errors.required("data", "data is mandatory");
        } else if !at(obj, "data").is_object() {
            errors.required("data", "data must be a valid JSON object");
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "data");
        errors.0
    },
    ..Rules::PLAIN
};
