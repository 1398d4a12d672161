//! Resource lists: quantities by resource name.

use std::collections::BTreeMap;

pub(crate) use rkube_api::quantity::Quantity;
use rkube_component_helpers::resource::is_extended;
use rkube_component_helpers::resource_names::is_object_count;
use serde_json::Value;

use crate::errors::{Errors, NOT_NEGATIVE};
use crate::tree::{at, at_mut};

/// Returns the quantity of a field; zero if it is unset or malformed (validation reports that).
pub(crate) fn read(value: Option<&Value>) -> Quantity {
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
            .map(|(k, v)| (k.clone(), read(Some(v))))
            .collect()
    };
    amounts(a) == amounts(b)
}

/// Validates the name of a container resource: qualified, and standard if it has no domain.
pub(crate) fn validate_container_name(errors: &mut Errors, name: &str, field: &str) {
    crate::core::requirements::container_name(errors, name, field);
}

/// Validates that a quantity is not negative, and an integer if the resource is indivisible.
pub(crate) fn validate_quantity(errors: &mut Errors, name: &str, value: &Value, field: &str) {
    match Quantity::from_value(value) {
        Err(e) => errors.invalid(field, value.clone(), e.to_string()),
        Ok(quantity) => {
            if quantity.sign() < 0 {
                errors.invalid(field, quantity.to_string(), NOT_NEGATIVE);
            }
            let whole = is_extended(name) || is_object_count(name);
            if whole && quantity.milli_value() % 1000 != 0 {
                errors.invalid(field, quantity.to_string(), "must be an integer");
            }
        }
    }
}

/// Returns the canonical text of the quantity at a path; `0` if unset.
pub(crate) fn canonical(value: &Value, path: &str) -> String {
    read(Some(at(value, path))).to_string()
}
