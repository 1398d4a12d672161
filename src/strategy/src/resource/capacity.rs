//! Validation of the capacity of a device that several claims may share.

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::quantities::Quantity;
use crate::tree::{at, has, list};

/// Most amounts that may be asked for.
const MAX_AMOUNTS: usize = 10;

fn quantity(value: &Value, path: &str) -> Option<Quantity> {
    let value = at(value, path);
    (!value.is_null()).then(|| crate::quantities::read(Some(value)))
}

/// Validates a capacity, with the policy for requests if the device can be `shared`.
pub(super) fn validate(errors: &mut Errors, capacity: &Value, shared: bool, field: &str) {
    let policy = at(capacity, "requestPolicy");
    if policy.is_null() {
        return;
    }
    let field = child(field, "requestPolicy");
    if !shared {
        errors.forbidden(field, "allowMultipleAllocations must be true");
        return;
    }
    let max = quantity(capacity, "value").unwrap_or(Quantity::ZERO);
    let amounts = list(policy, "validValues");
    let range = at(policy, "validRange");
    let default = quantity(policy, "default");
    let missing = |errors: &mut Errors, key: &str| {
        let why = format!("required when {key} is defined");
        errors.required(child(&field, "default"), why);
    };
    match (amounts.is_empty(), range.is_null(), default) {
        (false, false, _) => errors.forbidden(
            field,
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        ),
        (false, true, None) => missing(errors, "validValues"),
        (false, true, Some(default)) => {
            valid_amounts(errors, amounts, default, max, &child(&field, "validValues"));
        }
        (true, false, None) => missing(errors, "validRange"),
        (true, false, Some(default)) => {
            valid_range(errors, range, default, max, &child(&field, "validRange"));
        }
        (true, true, _) => {}
    }
}

fn valid_amounts(
    errors: &mut Errors,
    amounts: &[Value],
    default: Quantity,
    max: Quantity,
    field: &str,
) {
    let amounts: Vec<Quantity> = amounts
        .iter()
        .map(|value| crate::quantities::read(Some(value)))
        .collect();
    for (i, pair) in amounts.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let why = "values must be sorted in ascending order";
            errors.invalid(index(field, i + 1), pair[1].to_string(), why);
        }
    }
    let mut found = false;
    if amounts.len() > MAX_AMOUNTS {
        errors.too_many(field, amounts.len(), MAX_AMOUNTS);
    } else {
        for (i, amount) in amounts.iter().enumerate() {
            if *amount > max {
                let why = format!("option is larger than capacity value: {max}");
                errors.invalid(index(field, i), amount.to_string(), why);
            }
            found |= *amount == default;
        }
        for (i, amount) in amounts.iter().enumerate() {
            if amounts[..i]
                .iter()
                .any(|other| other.value() == amount.value())
            {
                errors.duplicate(index(field, i), amount.value().to_string());
            }
        }
    }
    if !found {
        let why = "default value is not valid according to the requestPolicy";
        errors.invalid(field, default.to_string(), why);
    }
}

fn valid_range(
    errors: &mut Errors,
    range: &Value,
    default: Quantity,
    capacity: Quantity,
    field: &str,
) {
    if !has(range, "min") {
        errors.required(child(field, "min"), "required when validRange is defined");
        return;
    }
    let min = quantity(range, "min").unwrap_or(Quantity::ZERO);
    let path = child(field, "min");
    if min > capacity {
        let why = format!("min is larger than capacity value: {capacity}");
        errors.invalid(path.clone(), min.to_string(), why);
    }
    if default < min {
        let why = format!("default is less than min: {min}");
        errors.invalid(path, default.to_string(), why);
    }
    let max = quantity(range, "max");
    if let Some(max) = max {
        let path = child(field, "max");
        if min > max {
            let why = format!("min is larger than max: {max}");
            errors.invalid(path.clone(), min.to_string(), why);
        }
        if max > capacity {
            let why = format!("max is larger than capacity value: {capacity}");
            errors.invalid(path.clone(), max.to_string(), why);
        }
        if default > max {
            let why = format!("default is more than max: {max}");
            errors.invalid(path, default.to_string(), why);
        }
    }
    let Some(step) = quantity(range, "step") else {
        return;
    };
    let path = child(field, "step");
    let added = min.add(step);
    if added > capacity {
        let why = format!("one step {added} is larger than capacity value: {capacity}");
        errors.invalid(path.clone(), step.to_string(), why);
    }
    for value in [Some(default), max].into_iter().flatten() {
        let distance = value.value().wrapping_sub(min.value());
        if step.value() != 0 && distance.wrapping_rem(step.value()) != 0 {
            let why = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.invalid(path.clone(), value.to_string(), why);
        }
    }
}
