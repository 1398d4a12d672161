//! Pod disruption budgets.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::apps::{at_most_all, count_or_percent};
use crate::errors::Errors;
use crate::generic::Rules;
use crate::selectors;
use crate::tree::{at, has, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "PodDisruptionBudget").then_some(&PDB)
}

static PDB: Rules = Rules {
    validate,
    // As upstream, requires `resourceVersion`: concurrent writers must not overwrite each other.
    unconditional: false,
    ..Rules::SPEC_AND_STATUS
};

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if has(obj, "spec.minAvailable") && has(obj, "spec.maxUnavailable") {
        errors.invalid(
            "spec",
            at(obj, "spec").clone(),
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for key in ["spec.minAvailable", "spec.maxUnavailable"] {
        let value = at(obj, key);
        if !value.is_null() {
            count_or_percent(&mut errors, value, key);
            at_most_all(&mut errors, value, key);
        }
    }
    if has(obj, "spec.selector") {
        selectors::validate(&mut errors, at(obj, "spec.selector"), "spec.selector");
    }
    match text(obj, "spec.unhealthyPodEvictionPolicy") {
        "" | "IfHealthyBudget" | "AlwaysAllow" => {}
        other => errors.not_supported(
            "spec.unhealthyPodEvictionPolicy",
            other,
            &["AlwaysAllow", "IfHealthyBudget"],
        ),
    }
    errors.0
}
