//! Priority classes and runtime classes.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::errors::{Errors, IMMUTABLE, NOT_NEGATIVE};
use crate::generic::Rules;
use crate::tree::{at, default_text, entries, int, same_at, text};
use crate::{Strategy, names, quantities};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "PriorityClass" => &PRIORITY_CLASS,
        "RuntimeClass" => &RUNTIME_CLASS,
        _ => return None,
    })
}

/// Highest priority of user-defined classes; higher values are reserved for system classes.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

static PRIORITY_CLASS: Rules = Rules {
    default: |obj| default_text(obj, "preemptionPolicy", "PreemptLowerPriority"),
    validate: |obj| {
        let mut errors = Errors::new();
        let name = text(obj, "metadata.name");
        if name.starts_with("system-") {
            let known = match name {
                "system-cluster-critical" => Some(2_000_000_000),
                "system-node-critical" => Some(2_000_001_000),
                _ => None,
            };
            if known.is_none() || known != int(obj, "value") {
                errors.forbidden(
                    "metadata.name",
                    "priority class names with 'system-' prefix are reserved for system use only",
                );
            }
        } else if int(obj, "value").unwrap_or(0) > HIGHEST_USER_PRIORITY {
            errors.forbidden(
                "value",
                format!(
                    "maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
                ),
            );
        }
        match text(obj, "preemptionPolicy") {
            "PreemptLowerPriority" | "Never" => {}
            "" => errors.required("preemptionPolicy", ""),
            other => errors.not_supported(
                "preemptionPolicy",
                other,
                &["Never", "PreemptLowerPriority"],
            ),
        }
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::new();
        if int(new, "value").unwrap_or(0) != int(old, "value").unwrap_or(0) {
            errors.forbidden("value", "may not be changed in an update.");
        }
        if !same_at(new, old, "preemptionPolicy") {
            errors.invalid(
                "preemptionPolicy",
                at(new, "preemptionPolicy").clone(),
                IMMUTABLE,
            );
        }
        errors.0
    },
    generation: true,
    ..Rules::PLAIN
};

static RUNTIME_CLASS: Rules = Rules {
    default: |obj| quantities::normalize(obj, "overhead.podFixed"),
    validate: runtime_class,
    create_on_update: true,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        if !same_at(new, old, "handler") {
            errors.invalid("handler", at(new, "handler").clone(), IMMUTABLE);
        }
        errors.0
    },
    ..Rules::PLAIN
};

fn runtime_class(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let handler = text(obj, "handler");
    errors.invalid_each("handler", handler, names::dns1123_label(handler));
    for (name, value) in entries(obj, "overhead.podFixed") {
        if quantities::of(Some(value)).sign() < 0 {
            errors.invalid(
                format!("overhead.podFixed[{name}]"),
                value.clone(),
                NOT_NEGATIVE,
            );
        }
    }
    crate::metadata::label_map(
        &mut errors,
        at(obj, "scheduling.nodeSelector"),
        "scheduling.nodeSelector",
    );
    errors.0
}
