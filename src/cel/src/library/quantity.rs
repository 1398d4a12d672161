//! Amounts.

use std::cmp::Ordering;
use std::sync::Arc;

use rkube_api::quantity::{Format, Quantity};

use super::convert::text;
use super::{Run, no_overload};
use crate::value::{EvalError, Outcome, Value};

pub(crate) fn implementation(name: &str) -> Option<Run> {
    Some(match name {
        "quantity" => |_, args, _| match args {
            [s] => match Quantity::parse(text(s)?) {
                Ok(quantity) => Ok(Value::Quantity(Arc::new(quantity))),
                Err(e) => Err(EvalError::new(e.to_string())),
            },
            _ => no_overload(),
        },
        "isQuantity" => |_, args, _| match args {
            [s] => Ok(Value::Bool(Quantity::parse(text(s)?).is_ok())),
            _ => no_overload(),
        },
        "sign" => |_, args, _| match args {
            [Value::Quantity(q)] => Ok(Value::Int(i64::from(q.sign()))),
            _ => no_overload(),
        },
        "isGreaterThan" => |_, args, _| compare(args).map(|o| Value::Bool(o == Ordering::Greater)),
        "isLessThan" => |_, args, _| compare(args).map(|o| Value::Bool(o == Ordering::Less)),
        "compareTo" => |_, args, _| compare(args).map(|o| Value::Int(o as i64)),
        "asApproximateFloat" => |_, args, _| match args {
            [Value::Quantity(q)] => Ok(Value::Double(q.as_f64())),
            _ => no_overload(),
        },
        "isInteger" => |_, args, _| match args {
            [Value::Quantity(q)] => Ok(Value::Bool(integer(q).is_some())),
            _ => no_overload(),
        },
        "asInteger" => |_, args, _| match args {
            [Value::Quantity(q)] => integer(q)
                .map(Value::Int)
                .ok_or_else(|| EvalError::new("cannot convert value to integer")),
            _ => no_overload(),
        },
        "add" => |_, args, _| arithmetic(args, Quantity::add),
        "sub" => |_, args, _| arithmetic(args, Quantity::sub),
        _ => return None,
    })
}

fn compare(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(a.cmp(b)),
        [Value::Semver(a), Value::Semver(b)] => Ok(a.compare(b)),
        _ => no_overload(),
    }
}

/// The amount as a whole number, if it is one.
fn integer(q: &Quantity) -> Option<i64> {
    let value = q.value();
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
