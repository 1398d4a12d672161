//! Controller revisions: snapshots of the state of stateful sets and daemon sets.

use rkube_api::Object;
use rkube_api::status::FieldError;

use super::not_negative;
use crate::core::service::immutable;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::tree::has;

/// The strategy of kind `ControllerRevision`.
pub(crate) static CONTROLLER_REVISION: Rules = Rules {
    validate,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        immutable(&mut errors, new, old, "data");
        errors.0
    },
    ..Rules::PLAIN
};

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if !has(obj, "data") {
        errors.required("data", "data is mandatory");
    }
    not_negative(&mut errors, obj, "", &["revision"]);
    errors.0
}
