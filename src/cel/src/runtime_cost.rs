//! Actual costs of calls. The figures are upstream's, so that expressions fit the same budgets.

use std::net::IpAddr;

use crate::ast::op;
use crate::ctx::Ctx;
use crate::plan::Call;
use crate::value::{List, Value};

fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::Optional(Some(inner)) => size(inner),
        value => value.size().unwrap_or(1),
    }
}

/// Multiplies an amount by a factor and rounds up.
fn share(amount: u64, factor: f64) -> u64 {
    (amount as f64 * factor).ceil() as u64
}

fn arg(args: &[Value<'_>], at: usize) -> u64 {
    args.get(at).map_or(1, size)
}

fn pattern_cost(text: u64, pattern: u64) -> u64 {
    share(text + 1, 0.1).saturating_mul(share(pattern, 0.25))
}

/// Returns the cost of a call by the size of its arguments.
pub(crate) fn cost_of_call(call: &Call, args: &[Value<'_>], ctx: &mut Ctx<'_, '_>) -> u64 {
    list_cost(call.overload, args)
        .or_else(|| library_cost(call, args, ctx))
        .unwrap_or_else(|| standard_cost(call.overload, args))
}

/// Returns the cost of a function of the list and set extensions.
fn list_cost(overload: &str, args: &[Value<'_>]) -> Option<u64> {
    let first = || arg(args, 0);
    let second = || arg(args, 1);
    Some(match overload {
        "list_slice" => match (args.get(1), args.get(2)) {
            (Some(Value::Int(from)), Some(Value::Int(to))) => {
                let taken = to.saturating_sub(*from).max(0) as u64;
                11 + taken.min(first())
            }
            _ => 11,
        },
        "lists_range" => match args.first() {
            Some(Value::Int(n)) => 11u64.saturating_add((*n).max(0) as u64),
            _ => 11,
        },
        "list_reverse" => 11 + first(),
        "list_flatten" => 11 + first(),
        "list_flatten_int" => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => (*depth).max(0) as f64,
                _ => 1.0,
            };
            11u64.saturating_add((first() as f64 * depth) as u64)
        }
        "list_sets_contains_list" | "list_sets_intersects_list" => {
            1u64.saturating_add(first().saturating_mul(second()))
        }
        "list_sets_equivalent_list" => {
            1u64.saturating_add(first().saturating_mul(second()).saturating_mul(2))
        }
        "list_distinct" => self_compare(&args[0]),
        id if id.ends_with("_sort") => self_compare(&args[0]),
        id if id.ends_with("_sortByAssociatedKeys") => self_compare(&args[1]),
        _ => return None,
    })
}

/// Returns the cost of a function of Kubernetes' libraries or the string
/// extension.
fn library_cost(call: &Call, args: &[Value<'_>], ctx: &mut Ctx<'_, '_>) -> Option<u64> {
    let first = || arg(args, 0);
    let second = || arg(args, 1);
    Some(match call.function {
        "check" => 350_000,
        "fieldSelector" | "labelSelector" => {
            let length = second();
            10 + share(length, 0.1) + share(share(length, 0.5), 50.0)
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            args.first().map_or(0, |v| traversal(v, ctx))
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => share(first(), 0.1),
        "ip" if call.overload != "cidr_ip" => share(first(), 0.1),
        "replace" | "split" | "ip.isCanonical" => share(first(), 0.2),
        // Charged afterwards, by the size of the result.
        "join" => 0,
        "find" | "findAll" => pattern_cost(first(), second()),
        "containsIP" => {
            let mut cost = share(first() * 2, 0.1);
            if call.overload == "cidr_contains_ip_string" {
                cost += share(second(), 0.1);
            }
            cost
        }
        "containsCIDR" => {
            let mut cost = share(first() * 2, 0.1) + share(first(), 0.1) + 1;
            if call.overload == "cidr_contains_cidr_string" {
                cost += share(second(), 0.1);
            }
            cost
        }
        "validate" => {
            let Some(Value::Format(format)) = args.first() else {
                return None;
            };
            pattern_cost(second(), format.pattern_size)
        }
        op::EQUALS if is_own(args.first()) => 1,
        _ => return None,
    })
}

/// Returns the cost of a function of the language.
fn standard_cost(overload: &str, args: &[Value<'_>]) -> u64 {
    let first = || arg(args, 0);
    let second = || arg(args, 1);
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => share(first(), 0.1),
        "in_list" => second(),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes"
        | "equals"
        | "not_equals" => share(first().min(second()), 0.1),
        "add_string" | "add_bytes" => share(first().saturating_add(second()), 0.1),
        "matches_string" => pattern_cost(first(), second()),
        "contains_string" => share(first(), 0.1).saturating_mul(share(second(), 0.1)),
        _ => 1,
    }
}

/// Returns the additional cost of a call by the size of its result.
pub(crate) fn of_result(call: &Call, result: &Value<'_>) -> u64 {
    match call.function {
        "join" => share(size(result), 0.2),
        _ => 0,
    }
}

/// Returns whether a value has a type of the Kubernetes libraries; their comparison costs one.
fn is_own(value: Option<&Value<'_>>) -> bool {
    matches!(
        value,
        Some(
            Value::Quantity(_)
                | Value::Ip(IpAddr::V4(_) | IpAddr::V6(_))
                | Value::Cidr(..)
                | Value::Format(_)
                | Value::Url(_)
                | Value::Semver(_)
                | Value::Check(_)
        )
    )
}

fn self_compare(value: &Value<'_>) -> u64 {
    let Value::List(list) = value else {
        return 11;
    };
    let n = list.len() as u64;
    let factor = match first_of(list) {
        Some(Value::String(_) | Value::Bytes(_)) => 2.1,
        _ => 2.0,
    };
    11u64.saturating_add((n.saturating_mul(n) as f64 * factor) as u64)
}

fn first_of<'a>(list: &List<'a>) -> Option<Value<'a>> {
    list.get(0)?.ok()
}

/// Returns the cost of a complete traversal of a value.
fn traversal(value: &Value<'_>, ctx: &mut Ctx<'_, '_>) -> u64 {
    if ctx.work(1).is_err() {
        return u64::MAX;
    }
    match value {
        Value::String(s) => (s.len() as f64 * 0.1) as u64,
        Value::Bytes(b) => (b.len() as f64 * 0.1) as u64,
        Value::List(list) => {
            let mut sum = 0u64;
            for item in list.iter().flatten() {
                sum = sum.saturating_add(traversal(&item, ctx));
                if ctx.work == 0 {
                    return u64::MAX;
                }
            }
            sum
        }
        Value::Map(map) => map.keys().into_iter().fold(0u64, |sum, key| {
            let value = match map.get(&key) {
                Some(Ok(value)) => traversal(&value, ctx),
                _ => 0,
            };
            sum.saturating_add(traversal(&key, ctx))
                .saturating_add(value)
        }),
        Value::Object(crate::value::Object::Json(map, _)) => {
            let mut sum = 0u64;
            for (key, json) in *map {
                sum = sum
                    .saturating_add((key.len() as f64 * 0.1) as u64)
                    .saturating_add(traversal(&Value::json(json), ctx));
            }
            sum
        }
        _ => 1,
    }
}
