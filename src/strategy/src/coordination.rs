//! Leases.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::names;
use crate::tree::{has, int, remove, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "Lease").then_some(&LEASE)
}

static LEASE: Rules = Rules {
    validate,
    create_on_update: true,
    unconditional: false,
    // The feature gate of these fields is off in v1.36.
    prepare: |_, lease, old| {
        for field in ["spec.strategy", "spec.preferredHolder"] {
            if !old.is_some_and(|old| has(old, field)) {
                remove(lease, field);
            }
        }
    },
    ..Rules::PLAIN
};

/// Validates a strategy. As upstream, the path names it twice.
fn strategy(errors: &mut Errors, strategy: &str) {
    let field = "spec.strategy.strategy";
    if strategy.contains('/') {
        errors.invalid_each(field, strategy, names::qualified_name(strategy));
    } else if strategy != "OldestEmulationVersion" {
        errors.not_supported(field, strategy, &["OldestEmulationVersion"]);
    }
}

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
    if has(obj, "spec.strategy") {
        strategy(&mut errors, text(obj, "spec.strategy"));
    }
    if !text(obj, "spec.preferredHolder").is_empty() && text(obj, "spec.strategy").is_empty() {
        errors.forbidden(
            "spec.preferredHolder",
            "may only be specified if `strategy` is defined",
        );
    }
    errors.0
}
