//! Tolerations of taints, as in upstream's `Toleration.ToleratesTaint`.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Returns whether a toleration tolerates a taint with these fields.
pub fn tolerates(toleration: &Toleration, key: &str, value: &str, effect: &str) -> bool {
    let applies = |field: &Option<String>, of_taint: &str| {
        let field = field.as_deref().unwrap_or_default();
        field.is_empty() || field == of_taint
    };
    if !applies(&toleration.effect, effect) || !applies(&toleration.key, key) {
        return false;
    }
    let own_value = toleration.value.as_deref().unwrap_or_default();
    let numbers = || Some((value.parse::<i64>().ok()?, own_value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => own_value == value,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(of_taint, bound)| of_taint < bound),
        "Gt" => numbers().is_some_and(|(of_taint, bound)| of_taint > bound),
        _ => false,
    }
}

/// Returns whether a toleration tolerates a taint.
pub fn tolerates_taint(toleration: &Toleration, taint: &Taint) -> bool {
    let value = taint.value.as_deref().unwrap_or_default();
    tolerates(toleration, &taint.key, value, &taint.effect)
}

/// Returns whether any of the tolerations tolerates a taint.
pub fn any_tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations
        .iter()
        .any(|toleration| tolerates_taint(toleration, taint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn operators() {
        let taint = Taint {
            key: "a".into(),
            value: Some("5".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        };
        let check = |toleration: Value| {
            let toleration = serde_json::from_value(toleration).unwrap();
            tolerates_taint(&toleration, &taint)
        };
        for tolerated in [
            json!({"key": "a", "value": "5"}),
            json!({"key": "a", "operator": "Equal", "value": "5", "effect": "NoSchedule"}),
            json!({"key": "a", "operator": "Exists"}),
            json!({"operator": "Exists"}),
            json!({"key": "a", "operator": "Lt", "value": "6"}),
            json!({"key": "a", "operator": "Gt", "value": "4"}),
        ] {
            assert!(check(tolerated.clone()), "{tolerated}");
        }
        for refused in [
            json!({"key": "a"}),
            json!({"key": "a", "value": "6"}),
            json!({"key": "b", "operator": "Exists"}),
            json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}),
            json!({"key": "a", "operator": "Lt", "value": "5"}),
            json!({"key": "a", "operator": "Gt", "value": "x"}),
            json!({"key": "a", "operator": "In", "value": "5"}),
        ] {
            assert!(!check(refused.clone()), "{refused}");
        }
        assert!(!any_tolerates(&[], &taint));
    }
}
