//! Functions of quantities.

use std::cmp::Ordering;
use std::sync::Arc;

use rkube_api::quantity::{Format, Quantity};
use rkube_go_regexp::Pattern;

use super::convert::text;
use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::value::{EvalError, Outcome, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("quantity", to_quantity),
    ("isQuantity", is_quantity),
    ("sign", sign),
    ("isGreaterThan", is_greater_than),
    ("isLessThan", is_less_than),
    ("compareTo", compare_to),
    ("asApproximateFloat", as_approximate_float),
    ("isInteger", is_integer),
    ("asInteger", as_integer),
    ("add", add),
    ("sub", sub),
];

fn to_quantity<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => match Quantity::parse(text(s)?) {
            Ok(quantity) => Ok(Value::Quantity(Arc::new(quantity))),
            Err(e) => Err(EvalError::new(e.to_string())),
        },
        _ => no_overload(),
    }
}

fn is_quantity<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::Bool(Quantity::parse(text(s)?).is_ok())),
        _ => no_overload(),
    }
}

fn sign<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Quantity(q)] => Ok(Value::Int(i64::from(q.sign()))),
        _ => no_overload(),
    }
}

fn is_greater_than<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    compare(args).map(|o| Value::Bool(o == Ordering::Greater))
}

fn is_less_than<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    compare(args).map(|o| Value::Bool(o == Ordering::Less))
}

fn compare_to<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    compare(args).map(|o| Value::Int(o as i64))
}

fn as_approximate_float<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [Value::Quantity(q)] => Ok(Value::Double(q.as_f64())),
        _ => no_overload(),
    }
}

fn is_integer<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Quantity(q)] => Ok(Value::Bool(integer(q).is_some())),
        _ => no_overload(),
    }
}

fn as_integer<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Quantity(q)] => integer(q)
            .map(Value::Int)
            .ok_or_else(|| EvalError::new("cannot convert value to integer")),
        _ => no_overload(),
    }
}

fn add<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    arithmetic(args, Quantity::add)
}

fn sub<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    arithmetic(args, Quantity::sub)
}

fn compare(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(a.cmp(b)),
        [Value::Semver(a), Value::Semver(b)] => Ok(a.compare(b)),
        _ => no_overload(),
    }
}

/// Returns the quantity as an integer, `None` if it is not one.
fn integer(q: &Quantity) -> Option<i64> {
    let value = q.value();
    // Quantities beyond 64 bits are saturated; upstream does not convert them.
    if value.unsigned_abs() >= i64::MAX.unsigned_abs() {
        return None;
    }
    (Quantity::new(value, Format::DecimalSi).cmp(q) == Ordering::Equal).then_some(value)
}

fn arithmetic<'a>(args: &[Value<'a>], compute: fn(Quantity, Quantity) -> Quantity) -> Outcome<'a> {
    let [Value::Quantity(a), other] = args else {
        return no_overload();
    };
    let other = match other {
        Value::Quantity(b) => **b,
        Value::Int(i) => Quantity::new(*i, Format::DecimalExponent),
        _ => return no_overload(),
    };
    Ok(Value::Quantity(Arc::new(compute(**a, other))))
}
