//! Resource lists: quantities by resource name.

use std::collections::BTreeMap;

pub(crate) use rkube_api::quantity::Quantity;
use rkube_component_helpers::resource::{is_extended, is_native};
use serde_json::{Map, Value};

use crate::errors::{Errors, NOT_NEGATIVE, child, keyed};
use crate::names;
use crate::tree::{at, at_mut, map};

/// Returns the quantity of a field; zero if it is unset or malformed (validation reports that).
pub(crate) fn of(value: Option<&Value>) -> Quantity {
    value
        .and_then(|v| Quantity::from_value(v).ok())
        .unwrap_or(Quantity::ZERO)
}

/// Converts the quantities of the map at a path to canonical form, rounded up to thousandths
/// as by upstream's defaulting.
pub(crate) fn normalize(value: &mut Value, path: &str) {
    for (_, entry) in at_mut(value, path)
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        normalize_value(entry);
    }
}

/// Converts one quantity to canonical form, rounded up to thousandths.
pub(crate) fn normalize_value(value: &mut Value) {
    if let Ok(mut quantity) = Quantity::from_value(value)
        && !value.is_null()
    {
        quantity.round_up(-3);
        let canonical = quantity.to_string();
        if value.as_str() != Some(&canonical) {
            *value = canonical.into();
        }
    }
}

/// Returns whether two resource lists have equal amounts, whatever their notation.
pub(crate) fn same_list(a: &Value, b: &Value) -> bool {
    let amounts = |v: &Value| -> BTreeMap<String, Quantity> {
        v.as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), of(Some(v))))
            .collect()
    };
    amounts(a) == amounts(b)
}

/// Returns whether a name without a domain is a standard container resource.
fn is_standard_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Validates the name of a container resource: qualified, and standard if it has no domain.
pub(crate) fn validate_container_name(errors: &mut Errors, name: &str, field: &str) {
    errors.invalid_each(field, name, names::qualified_name(name));
    if !name.contains('/') && !is_standard_container_resource(name) {
        errors.invalid(field, name, "must be a standard resource for containers");
    } else if name.contains('/') && !is_native(name) && !is_extended(name) {
        errors.invalid(
            field,
            name,
            "doesn't follow extended resource name standard",
        );
    }
}

/// Validates that a quantity is not negative, and an integer if the resource is indivisible.
pub(crate) fn validate_quantity(errors: &mut Errors, name: &str, value: &Value, field: &str) {
    match Quantity::from_value(value) {
        Err(e) => errors.invalid(field, value.clone(), e.to_string()),
        Ok(quantity) => {
            if quantity.sign() < 0 {
                errors.invalid(field, quantity.to_string(), NOT_NEGATIVE);
            }
            let whole = is_extended(name)
                || matches!(
                    name,
                    "pods"
                        | "services"
                        | "replicationcontrollers"
                        | "resourcequotas"
                        | "secrets"
                        | "configmaps"
                        | "persistentvolumeclaims"
                        | "services.nodeports"
                        | "services.loadbalancers"
                );
            if whole && quantity.milli_value() % 1000 != 0 {
                errors.invalid(field, quantity.to_string(), "must be an integer");
            }
        }
    }
}

/// Validates the names and quantities of a resource list.
pub(crate) fn validate_list(errors: &mut Errors, quantities: &Map<String, Value>, path: &str) {
    for (name, value) in quantities {
        let field = keyed(path, name);
        validate_container_name(errors, name, &field);
        validate_quantity(errors, name, value, &field);
    }
}

/// Validates the resource requirements of a container or pod.
pub(crate) fn validate_requirements(errors: &mut Errors, requirements: &Value, path: &str) {
    let limits = map(requirements, "limits");
    let requests = map(requirements, "requests");
    let (limits_path, requests_path) = (child(path, "limits"), child(path, "requests"));
    let mut huge = false;
    let mut cpu_or_memory = false;
    let mut look = |name: &str| {
        huge |= name.starts_with("hugepages-");
        cpu_or_memory |= matches!(name, "cpu" | "memory");
    };
    for (name, value) in limits.into_iter().flatten() {
        let field = keyed(&limits_path, name);
        validate_container_name(errors, name, &field);
        validate_quantity(errors, name, value, &field);
        look(name);
    }
    for (name, value) in requests.into_iter().flatten() {
        let field = keyed(&requests_path, name);
        validate_container_name(errors, name, &field);
        validate_quantity(errors, name, value, &field);
        look(name);
        let request = of(Some(value));
        // As upstream, the error's path is that of the list, not of the entry.
        match limits.and_then(|l| l.get(name)) {
            Some(limit) => {
                let limit = of(Some(limit));
                let strict = is_extended(name) || name.starts_with("hugepages-");
                if strict && request != limit {
                    errors.invalid(
                        requests_path.clone(),
                        request.to_string(),
                        format!("must be equal to {name} limit of {limit}"),
                    );
                } else if request > limit {
                    errors.invalid(
                        requests_path.clone(),
                        request.to_string(),
                        format!("must be less than or equal to {name} limit of {limit}"),
                    );
                }
            }
            None if is_extended(name) || name.starts_with("hugepages-") => errors.required(
                limits_path.clone(),
                "Limit must be set for non overcommitable resources",
            ),
            None => {}
        }
    }
    if huge && !cpu_or_memory {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Returns the canonical text of the quantity at a path; `0` if unset.
pub(crate) fn canonical(value: &Value, path: &str) -> String {
    of(Some(at(value, path))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_fit_limits() {
        let mut errors = Errors::new();
        validate_requirements(
            &mut errors,
            &json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
            "resources",
        );
        assert_eq!(
            errors.0[0].to_string(),
            "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
        );
        assert_eq!(errors.0.len(), 1);
    }
}
