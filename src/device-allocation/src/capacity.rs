//! Capacity of devices that claims share.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, CapacityRequestPolicyRange, Device};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use rkube_api::quantity::{Format, Quantity};

use crate::state::{Amounts, amount};

/// Returns whether the device has the wanted capacity left, given what claims consume of it and
/// what the current search has consumed. Capacities that the device does not have are never left.
pub(crate) fn is_left(
    device: &Device,
    wanted: Option<&BTreeMap<String, Text>>,
    consumed: Option<&Amounts>,
    searching: Option<&Amounts>,
) -> bool {
    let empty = BTreeMap::new();
    let capacity = device.capacity.as_ref().unwrap_or(&empty);
    let wanted = wanted.into_iter().flatten();
    if wanted.clone().any(|(name, _)| !capacity.contains_key(name)) {
        return false;
    }
    capacity.iter().all(|(name, own)| {
        let asked = wanted.clone().find(|(asked, _)| *asked == name);
        let policy = own.request_policy.as_ref();
        let takes = taken(
            asked.map(|(_, text)| amount(text)),
            policy,
            amount(&own.value),
        );
        let of = |amounts: Option<&Amounts>| {
            amounts
                .and_then(|a| a.get(name))
                .copied()
                .unwrap_or(Quantity::ZERO)
        };
        !policy.is_some_and(|policy| violates(takes, policy))
            && of(consumed) + of(searching) + takes <= amount(&own.value)
    })
}

/// Returns what a request takes of each capacity of a shared device.
pub(crate) fn consumption(device: &Device, wanted: Option<&BTreeMap<String, Text>>) -> Amounts {
    let capacity = device.capacity.iter().flatten();
    capacity
        .map(|(name, own)| {
            let asked = wanted.and_then(|w| w.get(name)).map(amount);
            let policy = own.request_policy.as_ref();
            (name.clone(), taken(asked, policy, amount(&own.value)))
        })
        .collect()
}

/// Returns what is taken of one capacity: the request, rounded up as the policy says; without a
/// request the policy's default, or everything.
fn taken(
    asked: Option<Quantity>,
    policy: Option<&CapacityRequestPolicy>,
    all: Quantity,
) -> Quantity {
    let Some(asked) = asked else {
        return policy
            .and_then(|policy| policy.default.as_ref())
            .map_or(all, amount);
    };
    let Some(policy) = policy else {
        return asked;
    };
    if let Some(range) = &policy.valid_range {
        return in_range(asked, range);
    }
    let mut values = policy.valid_values.iter().flatten().map(amount);
    values.find(|value| asked <= *value).unwrap_or(asked)
}

fn in_range(asked: Quantity, range: &CapacityRequestPolicyRange) -> Quantity {
    let min = amount(&range.min);
    if asked < min {
        return min;
    }
    let Some(step) = range.step.as_ref().map(|step| amount(step).value()) else {
        return asked;
    };
    if step <= 0 {
        return asked;
    }
    let above = asked.value().saturating_sub(min.value());
    let steps = above / step + i64::from(above % step != 0);
    let value = min.value().saturating_add(step.saturating_mul(steps));
    Quantity::new(value, Format::BinarySi)
}

fn violates(takes: Quantity, policy: &CapacityRequestPolicy) -> bool {
    if policy.default.as_ref().map(amount) == Some(takes) {
        return false;
    }
    if let Some(range) = &policy.valid_range {
        let over = range.max.as_ref().is_some_and(|max| takes > amount(max));
        let step = range.step.as_ref().map_or(0, |step| amount(step).value());
        let above = takes.value().saturating_sub(amount(&range.min).value());
        return over || (step > 0 && above % step != 0);
    }
    let values = policy.valid_values.as_deref().unwrap_or_default();
    !values.is_empty() && values.iter().all(|value| amount(value) != takes)
}
