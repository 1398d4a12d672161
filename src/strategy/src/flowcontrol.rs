//! Flow schemas and priority levels.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::tree::{at_mut, default_number, default_text, default_value, ensure, has, int, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "FlowSchema" => &FLOW_SCHEMA,
        "PriorityLevelConfiguration" => &PRIORITY_LEVEL,
        _ => return None,
    })
}

static FLOW_SCHEMA: Rules = Rules {
    default: |obj| {
        if let Some(spec) = at_mut(obj, "spec") {
            default_number(spec, "matchingPrecedence", 1000);
        }
    },
    validate: |obj| {
        let mut errors = Errors::new();
        let precedence = int(obj, "spec.matchingPrecedence").unwrap_or(0);
        if !(1..=10_000).contains(&precedence) {
            errors.invalid(
                "spec.matchingPrecedence",
                precedence,
                "must be a number between 1 and 10000",
            );
        }
        if text(obj, "spec.priorityLevelConfiguration.name").is_empty() {
            errors.required(
                "spec.priorityLevelConfiguration.name",
                "must reference a priority level",
            );
        }
        errors.0
    },
    ..Rules::SPEC_AND_STATUS
};

static PRIORITY_LEVEL: Rules = Rules {
    default: |obj| {
        let Some(spec) = at_mut(obj, "spec") else {
            return;
        };
        if let Some(exempt) = at_mut(spec, "exempt") {
            default_value(exempt, "nominalConcurrencyShares", 0);
            default_value(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = at_mut(spec, "limited") {
            default_value(limited, "nominalConcurrencyShares", 30);
            default_value(limited, "lendablePercent", 0);
            ensure(limited, "limitResponse");
            if let Some(response) = at_mut(limited, "limitResponse") {
                default_text(response, "type", "Reject");
                if let Some(queuing) = at_mut(response, "queuing") {
                    default_number(queuing, "queues", 64);
                    default_number(queuing, "handSize", 8);
                    default_number(queuing, "queueLengthLimit", 50);
                }
            }
        }
    },
    validate: priority_level,
    ..Rules::SPEC_AND_STATUS
};

fn priority_level(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    match text(obj, "spec.type") {
        "Exempt" => {
            if has(obj, "spec.limited") {
                errors.forbidden("spec.limited", "must be nil if the type is not Limited");
            }
        }
        "Limited" => {
            if !has(obj, "spec.limited") {
                errors.required("spec.limited", "must not be empty when type is Limited");
            }
        }
        other => errors.not_supported("spec.type", other, &["Exempt", "Limited"]),
    }
    errors.0
}
