//! Operators, sizes, times and optional values.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::SignedDuration;
use jiff::civil::{DateTime, date};
use jiff::tz::{Offset, TimeZone};
use rkube_go_regexp::Pattern;

use super::signature::{Run, no_overload};
use crate::ast::op;
use crate::ctx::Ctx;
use crate::number::go_quote;
use crate::time::{self, Moment};
use crate::value::{EvalError, List, Map, Outcome, OwnMap, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    (op::NOT, not),
    (op::NOT_STRICTLY_FALSE, not_strictly_false),
    (op::NEGATE, negate),
    (op::EQUALS, equals),
    ("_!=_", not_equals),
    ("_<_", less),
    ("_<=_", less_equals),
    ("_>_", greater),
    ("_>=_", greater_equals),
    (op::ADD, add),
    ("_-_", subtract),
    ("_*_", multiply),
    ("_/_", divide),
    ("_%_", modulo),
    (op::IN, is_in),
    ("size", size),
    (op::MAP_INSERT, map_insert),
    ("optional.of", optional_of),
    ("optional.ofNonZeroValue", optional_of_non_zero_value),
    ("optional.none", optional_none),
    ("value", optional_value),
    ("hasValue", has_value),
    ("or", or),
    ("orValue", or),
    ("first", first),
    ("last", last),
    ("optional.unwrap", unwrap_optionals),
    ("unwrapOpt", unwrap_optionals),
    ("getFullYear", get_full_year),
    ("getMonth", get_month),
    ("getDayOfYear", get_day_of_year),
    ("getDayOfMonth", get_day_of_month),
    ("getDate", get_date),
    ("getDayOfWeek", get_day_of_week),
    ("getHours", get_hours),
    ("getMinutes", get_minutes),
    ("getSeconds", get_seconds),
    ("getMilliseconds", get_milliseconds),
];

fn not<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => no_overload(),
    }
}

fn not_strictly_false<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        _ => Ok(Value::Bool(true)),
    }
}

fn negate<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Int(i)] => i.checked_neg().map(Value::Int).ok_or_else(overflow),
        [Value::Double(d)] => Ok(Value::Double(-d)),
        _ => no_overload(),
    }
}

fn equals<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [a, b] => ctx.equals(a, b).map(Value::Bool),
        _ => no_overload(),
    }
}

fn not_equals<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [a, b] => ctx.equals(a, b).map(|same| Value::Bool(!same)),
        _ => no_overload(),
    }
}

fn less<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    compare(args, |o| o == Ordering::Less)
}

fn less_equals<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    compare(args, |o| o != Ordering::Greater)
}

fn greater<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    compare(args, |o| o == Ordering::Greater)
}

fn greater_equals<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    compare(args, |o| o != Ordering::Less)
}

fn add<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::List(a), Value::List(b)] => {
            a.clone().concat(b.clone(), &mut ctx.work).map(Value::List)
        }
        [a, b] => add_values(a, b),
        _ => no_overload(),
    }
}

fn subtract<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    subtract_values(args)
}

fn multiply<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_mul(*b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => a
            .checked_mul(*b)
            .map(Value::Uint)
            .ok_or_else(unsigned_overflow),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => no_overload(),
    }
}

fn divide<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("division by zero"))
        }
        [Value::Int(a), Value::Int(b)] => a.checked_div(*b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => no_overload(),
    }
}

fn modulo<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("modulus by zero"))
        }
        [Value::Int(a), Value::Int(b)] => a.checked_rem(*b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => no_overload(),
    }
}

fn is_in<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [needle, Value::List(list)] => {
            for item in list.iter() {
                ctx.work(1)?;
                if ctx.equals(&item?, needle)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [key, Value::Map(map)] => Ok(Value::Bool(map.has(key))),
        [Value::String(name), Value::Object(object)] => {
            Ok(Value::Bool(object.field(name).is_some()))
        }
        _ => no_overload(),
    }
}

fn size<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Ip(_) | Value::Cidr(..)] => no_overload(),
        [value] => match value.size() {
            Some(size) => Ok(Value::Int(size as i64)),
            None => no_overload(),
        },
        _ => no_overload(),
    }
}

fn map_insert<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::Map(map), rest @ ..] = args else {
        return no_overload();
    };
    ctx.work(map.len() as u64)?;
    let mut own = match map {
        Map::Own(own) => (**own).clone(),
        Map::Json(..) => {
            let mut own = OwnMap::default();
            own.insert_all(map)?;
            own
        }
    };
    match rest {
        [key, value] => own.try_insert(key.clone(), value.clone())?,
        [Value::Map(more)] => own.insert_all(more)?,
        _ => return no_overload(),
    }
    Ok(Value::Map(Map::Own(Arc::new(own))))
}

fn optional_of<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }
}

fn optional_of_non_zero_value<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [value] if is_zero(value) => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }
}

fn optional_none<'a>(_: &mut Ctx<'a, '_>, _: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    Ok(Value::Optional(None))
}

fn optional_value<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => no_overload(),
    }
}

fn has_value<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => no_overload(),
    }
}

fn or<'a>(_: &mut Ctx<'a, '_>, _: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    no_overload()
}

fn first<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::List(list)] => end(list, 0),
        _ => no_overload(),
    }
}

fn last<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::List(list)] => end(list, list.len().saturating_sub(1)),
        _ => no_overload(),
    }
}

fn unwrap_optionals<'a>(
    ctx: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    let [Value::List(list)] = args else {
        return no_overload();
    };
    ctx.work(list.len() as u64)?;
    let mut items = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(value) => items.extend(value.map(|v| (*v).clone())),
            other => {
                return Err(EvalError::new(format!(
                    "value {} is not optional",
                    other.to_display()
                )));
            }
        }
    }
    Ok(Value::list(items))
}

fn get_full_year<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    moment(args, |t| i64::from(t.year()))
}

fn get_month<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    moment(args, |t| i64::from(t.month()) - 1)
}

fn get_day_of_year<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    moment(args, |t| i64::from(t.day_of_year()) - 1)
}

fn get_day_of_month<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    moment(args, |t| i64::from(t.day()) - 1)
}

fn get_date<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    moment(args, |t| i64::from(t.day()))
}

fn get_day_of_week<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    moment(args, |t| i64::from(t.weekday().to_sunday_zero_offset()))
}

fn get_hours<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    span(args, 3_600_000_000_000, |t| i64::from(t.hour()))
}

fn get_minutes<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    span(args, 60_000_000_000, |t| i64::from(t.minute()))
}

fn get_seconds<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    span(args, 1_000_000_000, |t| i64::from(t.second()))
}

fn get_milliseconds<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    span(args, 1_000_000, |t| {
        i64::from(t.subsec_nanosecond()) / 1_000_000
    })
}

fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn compare<'a>(args: &[Value<'a>], fits: fn(Ordering) -> bool) -> Outcome<'a> {
    match args {
        [a, b] => a.compare(b).map(|o| Value::Bool(fits(o))),
        _ => no_overload(),
    }
}

/// Adds a duration to a timestamp.
///
/// # Errors
///
/// The sum is out of the range of timestamps.
fn later(moment: &Moment, nanos: i64) -> Result<Moment, EvalError> {
    let error = || EvalError::new("timestamp overflow");
    let sum = moment
        .utc
        .checked_add(SignedDuration::from_nanos(nanos))
        .map_err(|_| error())?;
    if time::is_in_range(sum) {
        Ok(moment.at(sum))
    } else {
        Err(error())
    }
}

/// Adds two values of one type, or a duration and a timestamp. Does not support lists.
pub(super) fn add_values<'a>(a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a
            .checked_add(*b)
            .map(Value::Uint)
            .ok_or_else(unsigned_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text([&**a, &**b].concat())),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&**a, &**b].concat().into())),
        (Value::Duration(a), Value::Duration(b)) => a
            .checked_add(*b)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new("duration overflow")),
        (Value::Duration(d), Value::Timestamp(t)) | (Value::Timestamp(t), Value::Duration(d)) => {
            later(t, *d).map(Value::Timestamp)
        }
        _ => no_overload(),
    }
}

fn subtract_values<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_sub(*b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => a
            .checked_sub(*b)
            .map(Value::Uint)
            .ok_or_else(unsigned_overflow),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => a
            .checked_sub(*b)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new("duration overflow")),
        [Value::Timestamp(t), Value::Duration(d)] => d
            .checked_neg()
            .ok_or_else(|| EvalError::new("duration overflow"))
            .and_then(|d| later(t, d))
            .map(Value::Timestamp),
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            i64::try_from(a.utc.duration_since(b.utc).as_nanos())
                .map(Value::Duration)
                .map_err(|_| EvalError::new("duration overflow"))
        }
        _ => no_overload(),
    }
}

fn end<'a>(list: &List<'a>, at: usize) -> Outcome<'a> {
    match list.get(at) {
        Some(value) => Ok(Value::some(value?)),
        None => Ok(Value::Optional(None)),
    }
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::Duration(d) => *d == 0,
        Value::Timestamp(t) => t.utc == date(1, 1, 1).at(0, 0, 0, 0),
        Value::String(s) => s.is_empty(),
        Value::Bytes(b) => b.is_empty(),
        Value::List(l) => l.len() == 0,
        Value::Map(m) => m.len() == 0,
        Value::Object(crate::value::Object::Json(map, _)) => map.is_empty(),
        Value::Object(crate::value::Object::Own(made)) => made.fields.is_empty(),
        Value::Optional(o) => o.is_none(),
        _ => false,
    }
}

/// Returns a time as clocks show it in a zone: `±hh:mm`, or a name; without zone, at its own offset.
///
/// # Errors
///
/// The zone is unknown, or the clocks are out of range.
fn in_zone(time: Moment, zone: Option<&Value<'_>>) -> Result<DateTime, EvalError> {
    let Some(zone) = zone else {
        return Ok(time.local());
    };
    let time = time.utc;
    let Value::String(name) = zone else {
        return no_overload();
    };
    let seconds = match name.split_once(':') {
        Some((hours, minutes)) => {
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            let minutes = if name.starts_with('-') {
                hours.saturating_mul(60).saturating_sub(minutes)
            } else {
                hours.saturating_mul(60).saturating_add(minutes)
            };
            minutes.saturating_mul(60)
        }
        None if name.is_empty() || &**name == "UTC" => 0,
        None => {
            let zone = TimeZone::get(name)
                .map_err(|_| EvalError::new(format!("unknown time zone {}", &**name)))?;
            // The last hours of the year 9999 are no timestamps of this library.
            let timestamp = Offset::UTC
                .to_timestamp(time)
                .unwrap_or(jiff::Timestamp::MAX);
            i64::from(zone.to_offset(timestamp).seconds())
        }
    };
    time.checked_add(SignedDuration::from_secs(seconds))
        .map_err(|_| EvalError::new("timestamp overflow"))
}

/// Parses a part of an offset.
///
/// # Errors
///
/// The message of Go's `strconv.Atoi`.
fn number(text: &str) -> Result<i64, EvalError> {
    text.parse().map_err(|e: std::num::ParseIntError| {
        let why = match e.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                "value out of range"
            }
            _ => "invalid syntax",
        };
        EvalError::new(format!("strconv.Atoi: parsing {}: {why}", go_quote(text)))
    })
}

fn moment<'a>(args: &[Value<'a>], part: fn(&DateTime) -> i64) -> Outcome<'a> {
    match args {
        [Value::Timestamp(t), rest @ ..] => Ok(Value::Int(part(&in_zone(*t, rest.first())?))),
        _ => no_overload(),
    }
}

fn span<'a>(args: &[Value<'a>], unit: i64, part: fn(&DateTime) -> i64) -> Outcome<'a> {
    match args {
        [Value::Duration(d)] => Ok(Value::Int(d / unit)),
        _ => moment(args, part),
    }
}
