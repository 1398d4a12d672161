//! Priority classes and runtime classes.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::core::pod_validation;
use crate::core::requirements::Rules as Requirements;
use crate::errors::{Errors, IMMUTABLE, index, show_fields, shown_any, shown_text};
use crate::generic::{Generation, Rules};
use crate::tree::{at, default_value, flag, has, int, list, map, same_at, text};
use crate::{Strategy, names, node_labels, quantities};

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
    default: |obj| default_value(obj, "preemptionPolicy", "PreemptLowerPriority"),
    // An update is only checked for what it changes.
    validate_new: |obj| {
        let mut errors = Errors::new();
        let name = text(obj, "metadata.name");
        if name.starts_with("system-") {
            let known = match name {
                "system-cluster-critical" => Some(2_000_000_000),
                "system-node-critical" => Some(2_000_001_000),
                _ => None,
            };
            let wrong = match known {
                None => Some(format!("{name} is not a known system priority class")),
                Some(value) if Some(value) != int(obj, "value") => {
                    Some(format!("value of {name} PriorityClass must be {value}"))
                }
                Some(_) if flag(obj, "globalDefault") => Some(format!(
                    "globalDefault of {name} PriorityClass must be false"
                )),
                Some(_) => None,
            };
            if let Some(wrong) = wrong {
                errors.forbidden(
                    "metadata.name",
                    format!("priority class names with 'system-' prefix are reserved for system use only. error: {wrong}"),
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
                &["PreemptLowerPriority", "Never"],
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
    generation: Generation::One,
    ..Rules::PLAIN
};

static RUNTIME_CLASS: Rules = Rules {
    default: |obj| quantities::normalize(obj, "overhead.podFixed"),
    validate: runtime_class,
    validate_update: |new, old| {
        let mut errors = Errors::new();
        if !same_at(new, old, "handler") {
            errors.invalid("handler", at(new, "handler").clone(), IMMUTABLE);
        }
        errors.0
    },
    warnings: |new, _| node_labels::selector_warnings(at(new, "scheduling.nodeSelector")),
    create_on_update: true,
    unconditional: false,
    ..Rules::PLAIN
};

fn runtime_class(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let handler = text(obj, "handler");
    if handler.is_empty() {
        errors.required("handler", "");
    } else {
        errors.invalid_each("handler", handler, names::dns1123_label(handler));
    }
    if let Some(overhead) = map(obj, "overhead.podFixed") {
        // As upstream, the overhead is reported as the limits of a container.
        let limits = serde_json::json!({ "limits": overhead });
        Requirements::of_containers(false).check(&mut errors, &limits, "overhead");
    }
    crate::metadata::label_map(
        &mut errors,
        at(obj, "scheduling.nodeSelector"),
        "scheduling.nodeSelector",
    );
    if has(obj, "scheduling") {
        let path = "scheduling.tolerations";
        pod_validation::tolerations(&mut errors, at(obj, "scheduling"), path);
        let tolerations = list(obj, path);
        let key = |t| ["key", "operator", "value", "effect"].map(|key| text(t, key));
        for (i, toleration) in tolerations.iter().enumerate() {
            if tolerations[..i]
                .iter()
                .any(|other| key(other) == key(toleration))
            {
                errors.duplicate_shown(index(path, i), &shown_toleration(toleration));
            }
        }
    }
    errors.0
}

fn shown_toleration(toleration: &serde_json::Value) -> String {
    show_fields(&[
        ("Key", shown_text(toleration, "key")),
        ("Operator", shown_text(toleration, "operator")),
        ("Value", shown_text(toleration, "value")),
        ("Effect", shown_text(toleration, "effect")),
        (
            "TolerationSeconds",
            shown_any(toleration, "tolerationSeconds"),
        ),
    ])
}
