//! Flow schemas and priority levels.

mod schemas;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::Strategy;
use crate::errors::{
    Errors, child, show_fields, shown_any, shown_number, shown_pointer, shown_text,
};
use crate::generic::{Rules, StatusMetadata};
use crate::tree::{at, at_mut, default_number, default_value, ensure, has, int, list, same, text};

/// Most queues of a priority level.
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of a flow's hash that queues are dealt from.
const MAX_HASH_BITS: f64 = 60.0;

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
    validate: schemas::validate,
    validate_status: |new, _| conditions_of(new),
    status_metadata: StatusMetadata::Kept,
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
            if let Some(queuing) = at_mut(limited, "limitResponse.queuing") {
                default_number(queuing, "queues", 64);
                default_number(queuing, "handSize", 8);
                default_number(queuing, "queueLengthLimit", 50);
            }
        }
    },
    validate: priority_level,
    validate_status: |new, _| conditions_of(new),
    status_metadata: StatusMetadata::Kept,
    ..Rules::SPEC_AND_STATUS
};

/// Validates the conditions of a status: they have types, which are distinct.
fn conditions_of(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut seen = std::collections::BTreeSet::new();
    for (i, condition) in list(obj, "status.conditions").iter().enumerate() {
        let field = format!("status.conditions[{i}].type");
        let kind = text(condition, "type");
        if !seen.insert(kind) {
            errors.duplicate(field.clone(), kind);
        }
        if kind.is_empty() {
            errors.required(field, "");
        }
    }
    errors.0
}

fn priority_level(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    // A note of an old version of the API to itself.
    let note = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
    if at(obj, "metadata.annotations").get(note).is_some() {
        let why = format!("annotation '{note}' is forbidden");
        errors.forbidden("metadata.annotations", why);
    }
    let (name, kind) = (text(obj, "metadata.name"), text(obj, "spec.type"));
    if (name == "exempt") != (kind == "Exempt") {
        errors.invalid(
            "spec.type",
            kind,
            "must be 'Exempt' if and only if `name` is 'exempt'",
        );
    }
    match kind {
        "Exempt" => {
            if has(obj, "spec.limited") {
                errors.forbidden("spec.limited", "must be nil if the type is not Limited");
            }
            shares(&mut errors, at(obj, "spec.exempt"), "spec.exempt");
        }
        "Limited" => {
            if has(obj, "spec.exempt") {
                errors.forbidden("spec.exempt", "must be nil if the type is Limited");
            }
            if has(obj, "spec.limited") {
                limited(&mut errors, at(obj, "spec.limited"));
            } else {
                errors.required("spec.limited", "must not be empty when type is Limited");
            }
        }
        other => errors.not_supported("spec.type", other, &["Exempt", "Limited"]),
    }
    mandatory_level(&mut errors, obj, name);
    errors.0
}

/// Validates that a mandatory level is as the server made it. Administrators may change the
/// shares of the exempt level.
fn mandatory_level(errors: &mut Errors, obj: &Object, name: &str) {
    let mut spec = at(obj, "spec").clone();
    let (want, what) = match name {
        "exempt" => {
            crate::tree::remove(&mut spec, "exempt");
            let what = "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value";
            (json!({"type": "Exempt"}), what)
        }
        "catch-all" => (
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5,
                "lendablePercent": 0,
                "limitResponse": {"type": "Reject"},
            }}),
            "spec of 'catch-all' must equal the fixed value",
        ),
        _ => return,
    };
    if !same(&spec, &want) {
        errors.invalid_shown("spec", &shown_level(at(obj, "spec")), what);
    }
}

fn shown_level(spec: &Value) -> String {
    let queuing = |queuing: &Value| {
        let number = |key| shown_number(queuing, key);
        show_fields(&[
            ("Queues", number("queues")),
            ("HandSize", number("handSize")),
            ("QueueLengthLimit", number("queueLengthLimit")),
        ])
    };
    let limited = |limited: &Value| {
        let response = at(limited, "limitResponse");
        let response = show_fields(&[
            ("Type", shown_text(response, "type")),
            ("Queuing", shown_pointer(at(response, "queuing"), queuing)),
        ]);
        show_fields(&[
            (
                "NominalConcurrencyShares",
                shown_number(limited, "nominalConcurrencyShares"),
            ),
            ("LimitResponse", response),
            ("LendablePercent", shown_any(limited, "lendablePercent")),
            (
                "BorrowingLimitPercent",
                shown_any(limited, "borrowingLimitPercent"),
            ),
        ])
    };
    let exempt = |exempt: &Value| {
        show_fields(&[
            (
                "NominalConcurrencyShares",
                shown_any(exempt, "nominalConcurrencyShares"),
            ),
            ("LendablePercent", shown_any(exempt, "lendablePercent")),
        ])
    };
    show_fields(&[
        ("Type", shown_text(spec, "type")),
        ("Limited", shown_pointer(at(spec, "limited"), limited)),
        ("Exempt", shown_pointer(at(spec, "exempt"), exempt)),
    ])
}

/// Validates the shares of a priority level and how much of them it lends.
fn shares(errors: &mut Errors, level: &Value, field: &str) {
    if let Some(n) = int(level, "nominalConcurrencyShares")
        && n < 0
    {
        let field = child(field, "nominalConcurrencyShares");
        errors.invalid(field, n, "must be a non-negative integer");
    }
    lent(errors, level, field);
}

fn lent(errors: &mut Errors, level: &Value, field: &str) {
    if let Some(n) = int(level, "lendablePercent")
        && !(0..=100).contains(&n)
    {
        let field = child(field, "lendablePercent");
        errors.invalid(field, n, "must be between 0 and 100, inclusive");
    }
}

fn limited(errors: &mut Errors, limited: &Value) {
    let field = "spec.limited";
    if let Some(n) = int(limited, "nominalConcurrencyShares")
        && n < 0
    {
        let field = child(field, "nominalConcurrencyShares");
        errors.invalid(field, n, "must be a non-negative integer");
    }
    limit_response(errors, limited);
    lent(errors, limited, field);
    if let Some(n) = int(limited, "borrowingLimitPercent")
        && n < 0
    {
        let field = child(field, "borrowingLimitPercent");
        errors.invalid(field, n, "if specified, must be a non-negative integer");
    }
}

fn limit_response(errors: &mut Errors, limited: &Value) {
    let queuing = "spec.limited.limitResponse.queuing";
    let queues = at(limited, "limitResponse.queuing");
    match text(limited, "limitResponse.type") {
        "Reject" => {
            if !queues.is_null() {
                let why = "must be nil if limited.limitResponse.type is not Limited";
                errors.forbidden(queuing, why);
            }
        }
        "Queue" if queues.is_null() => errors.required(
            queuing,
            "must not be empty if limited.limitResponse.type is Limited",
        ),
        "Queue" => queuing_configuration(errors, queues, queuing),
        other => errors.not_supported(
            "spec.limited.limitResponse.type",
            other,
            &["Queue", "Reject"],
        ),
    }
}

/// Validates the queues of a priority level. A request's queues are dealt from the bits of its
/// flow's hash, of which there are not enough for large hands.
fn queuing_configuration(errors: &mut Errors, queuing: &Value, field: &str) {
    let number = |key: &str| int(queuing, key).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    let length = number("queueLengthLimit");
    if length <= 0 {
        let field = child(field, "queueLengthLimit");
        errors.invalid(field, length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(child(field, "queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        let why = format!("must not be greater than {MAX_QUEUES}");
        errors.invalid(child(field, "queues"), queues, why);
    }
    let bits = ((queues as f64).log2() * hand as f64).ceil();
    let field = child(field, "handSize");
    if hand <= 0 {
        errors.invalid(field, hand, "must be positive");
    } else if hand > queues {
        let why = format!("should not be greater than queues ({queues})");
        errors.invalid(field, hand, why);
    } else if bits > MAX_HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.invalid(field, hand, why);
    }
}
