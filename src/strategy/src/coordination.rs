//! Leases.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::tree::{int, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "Lease").then_some(&LEASE)
}

static LEASE: Rules = Rules {
    validate,
    create_on_update: true,
    unconditional: false,
    ..Rules::PLAIN
};

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if let Some(n) = int(obj, "spec.leaseDurationSeconds")
        && n <= 0
    {
        errors.invalid("spec.leaseDurationSeconds", n, "must be greater than 0");
    }
    if let Some(n) = int(obj, "spec.leaseTransitions")
        && n < 0
    {
        errors.invalid("spec.leaseTransitions", n, crate::errors::NOT_NEGATIVE);
    }
    if !text(obj, "spec.preferredHolder").is_empty() && text(obj, "spec.strategy").is_empty() {
        errors.forbidden(
            "spec.preferredHolder",
            "may only be specified if `strategy` is defined",
        );
    }
    errors.0
}
