//! Pod disruption budgets.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::apps::{at_most_all, count_or_percent, not_negative};
use crate::errors::{Errors, show_fields, shown_any};
use crate::generic::Rules;
use crate::tree::{at, has, list, text};
use crate::{conditions, selectors};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "PodDisruptionBudget").then_some(&PDB)
}

static PDB: Rules = Rules {
    validate,
    validate_status: |new, _| {
        let mut errors = Errors::new();
        let field = "status.conditions";
        conditions::validate(&mut errors, list(new, field), field);
        let counts = [
            "disruptionsAllowed",
            "currentHealthy",
            "desiredHealthy",
            "expectedPods",
        ];
        not_negative(&mut errors, new, "status", &counts);
        errors.0
    },
    // As upstream, requires `resourceVersion`: concurrent writers must not overwrite each other.
    unconditional: false,
    metadata: false,
    ..Rules::SPEC_AND_STATUS
};

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if has(obj, "spec.minAvailable") && has(obj, "spec.maxUnavailable") {
        let spec = at(obj, "spec");
        let shown = show_fields(&[
            ("MinAvailable", shown_any(spec, "minAvailable")),
            ("Selector", selectors::show_selector(at(spec, "selector"))),
            ("MaxUnavailable", shown_any(spec, "maxUnavailable")),
            (
                "UnhealthyPodEvictionPolicy",
                shown_any(spec, "unhealthyPodEvictionPolicy"),
            ),
        ]);
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid_shown("spec", &shown, why);
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
    let field = "spec.unhealthyPodEvictionPolicy";
    let known = ["AlwaysAllow", "IfHealthyBudget"];
    if has(obj, field) && !known.contains(&text(obj, field)) {
        errors.not_supported(field, text(obj, field), &known);
    }
    errors.0
}
