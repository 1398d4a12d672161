//! Operators, sizes, times, optional values.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Run, no_overload};
use crate::ast::op;
use crate::eval::{insert, insert_all};
use crate::value::{EvalError, List, Map, Outcome, Value};

pub(crate) fn implementation(name: &str) -> Option<Run> {
    Some(match name {
        op::NOT => |_, args, _| match args {
            [Value::Bool(b)] => Ok(Value::Bool(!b)),
            _ => no_overload(),
        },
        op::NOT_STRICTLY_FALSE => |_, args, _| match args {
            [Value::Bool(b)] => Ok(Value::Bool(*b)),
            _ => Ok(Value::Bool(true)),
        },
        op::NEGATE => |_, args, _| match args {
            [Value::Int(i)] => i.checked_neg().map(Value::Int).ok_or_else(overflow),
            [Value::Double(d)] => Ok(Value::Double(-d)),
            _ => no_overload(),
        },
        op::EQUALS => |ctx, args, _| match args {
            [a, b] => ctx.equals(a, b).map(Value::Bool),
            _ => no_overload(),
        },
        "_!=_" => |ctx, args, _| match args {
            [a, b] => ctx.equals(a, b).map(|same| Value::Bool(!same)),
            _ => no_overload(),
        },
        "_<_" => |_, args, _| compare(args, |o| o == Ordering::Less),
        "_<=_" => |_, args, _| compare(args, |o| o != Ordering::Greater),
        "_>_" => |_, args, _| compare(args, |o| o == Ordering::Greater),
        "_>=_" => |_, args, _| compare(args, |o| o != Ordering::Less),
        op::ADD => |ctx, args, _| match args {
            [Value::List(a), Value::List(b)] => {
                a.clone().concat(b.clone(), &mut ctx.work).map(Value::List)
            }
            [a, b] => add(a, b),
            _ => no_overload(),
        },
        "_-_" => |_, args, _| subtract(args),
        "_*_" => |_, args, _| match args {
            [Value::Int(a), Value::Int(b)] => {
                a.checked_mul(*b).map(Value::Int).ok_or_else(overflow)
            }
            [Value::Uint(a), Value::Uint(b)] => a
                .checked_mul(*b)
                .map(Value::Uint)
                .ok_or_else(unsigned_overflow),
            [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
            _ => no_overload(),
        },
        "_/_" => |_, args, _| match args {
            [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
                Err(EvalError::new("division by zero"))
            }
            [Value::Int(a), Value::Int(b)] => {
                a.checked_div(*b).map(Value::Int).ok_or_else(overflow)
            }
            [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
            [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
            _ => no_overload(),
        },
        "_%_" => |_, args, _| match args {
            [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
                Err(EvalError::new("modulus by zero"))
            }
            [Value::Int(a), Value::Int(b)] => {
                a.checked_rem(*b).map(Value::Int).ok_or_else(overflow)
            }
            [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
            _ => no_overload(),
        },
        op::IN => |ctx, args, _| match args {
            [needle, Value::List(list)] => {
                for item in list.iter() {
                    ctx.work(1)?;
                    if ctx.equals(&item?, needle)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            [key, Value::Map(map)] => Ok(Value::Bool(map.get(key).is_some())),
            [Value::String(name), Value::Object(object)] => {
                Ok(Value::Bool(object.field(name).is_some()))
            }
            _ => no_overload(),
        },
        "size" => |_, args, _| match args {
            [Value::Ip(_) | Value::Cidr(..)] => no_overload(),
            [value] => match value.size() {
                Some(size) => Ok(Value::Int(size as i64)),
                None => no_overload(),
            },
            _ => no_overload(),
        },
        op::MAP_INSERT => |ctx, args, _| {
            let [Value::Map(map), rest @ ..] = args else {
                return no_overload();
            };
            ctx.work(map.len() as u64)?;
            let mut own = match map {
                Map::Own(own) => (**own).clone(),
                Map::Json(..) => {
                    let mut own = crate::value::OwnMap::default();
                    insert_all(&mut own, map)?;
                    own
                }
            };
            match rest {
                [key, value] => insert(&mut own, key.clone(), value.clone())?,
                [Value::Map(more)] => insert_all(&mut own, more)?,
                _ => return no_overload(),
            }
            Ok(Value::Map(Map::Own(Arc::new(own))))
        },
        "optional.of" => |_, args, _| match args {
            [value] => Ok(Value::some(value.clone())),
            _ => no_overload(),
        },
        "optional.ofNonZeroValue" => |_, args, _| match args {
            [value] if is_zero(value) => Ok(Value::Optional(None)),
            [value] => Ok(Value::some(value.clone())),
            _ => no_overload(),
        },
        "optional.none" => |_, _, _| Ok(Value::Optional(None)),
        "value" => |_, args, _| match args {
            [Value::Optional(Some(value))] => Ok((**value).clone()),
            [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
            _ => no_overload(),
        },
        "hasValue" => |_, args, _| match args {
            [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
            _ => no_overload(),
        },
        "or" | "orValue" => |_, _, _| no_overload(),
        "first" => |_, args, _| match args {
            [Value::List(list)] => end(list, 0),
            _ => no_overload(),
        },
        "last" => |_, args, _| match args {
            [Value::List(list)] => end(list, list.len().saturating_sub(1)),
            _ => no_overload(),
        },
        "optional.unwrap" | "unwrapOpt" => |ctx, args, _| {
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
                            other.shown()
                        )));
                    }
                }
            }
            Ok(Value::list(items))
        },
        "getFullYear" => |_, args, _| moment(args, |t| i64::from(t.year())),
        "getMonth" => |_, args, _| moment(args, |t| i64::from(t.month()) - 1),
        "getDayOfYear" => |_, args, _| moment(args, |t| i64::from(t.day_of_year()) - 1),
        "getDayOfMonth" => |_, args, _| moment(args, |t| i64::from(t.day()) - 1),
        "getDate" => |_, args, _| moment(args, |t| i64::from(t.day())),
        "getDayOfWeek" => {
            |_, args, _| moment(args, |t| i64::from(t.weekday().to_sunday_zero_offset()))
        }
        "getHours" => |_, args, _| span(args, 3_600_000_000_000, |t| i64::from(t.hour())),
        "getMinutes" => |_, args, _| span(args, 60_000_000_000, |t| i64::from(t.minute())),
        "getSeconds" => |_, args, _| span(args, 1_000_000_000, |t| i64::from(t.second())),
        "getMilliseconds" => |_, args, _| {
            span(args, 1_000_000, |t| {
                i64::from(t.subsec_nanosecond()) / 1_000_000
            })
        },
        _ => return None,
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

/// A moment so much later, if it is within the years that may be written.
fn later(moment: &Timestamp, nanos: i64) -> Result<Timestamp, EvalError> {
    let error = || EvalError::new("timestamp overflow");
    let sum = moment
        .checked_add(SignedDuration::from_nanos(nanos))
        .map_err(|_| error())?;
    let first = -62_135_596_800;
    let last = 253_402_300_799;
    if (first..=last).contains(&sum.as_second()) {
        Ok(sum)
    } else {
        Err(error())
    }
}

/// The sum of two values of most types.
pub(super) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
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

fn subtract<'a>(args: &[Value<'a>]) -> Outcome<'a> {
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
            i64::try_from(a.as_nanosecond() - b.as_nanosecond())
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
        Value::Timestamp(t) => t.as_nanosecond() == -62_135_596_800_000_000_000,
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

fn zoned(t: &Timestamp, zone: Option<&Value<'_>>) -> Result<Zoned, EvalError> {
    let Some(zone) = zone else {
        return Ok(t.to_zoned(TimeZone::UTC));
    };
    let Value::String(name) = zone else {
        return no_overload();
    };
    let offset = name.find(':').and_then(|at| {
        let hours: i32 = name[..at].parse().ok()?;
        let minutes: i32 = name[at + 1..].parse().ok()?;
        let minutes = if name.starts_with('-') {
            -minutes
        } else {
            minutes
        };
        let offset = jiff::tz::Offset::from_seconds(hours * 3600 + minutes * 60).ok()?;
        Some(TimeZone::fixed(offset))
    });
    let zone = match offset {
        Some(zone) => zone,
        None if name.is_empty() || &**name == "UTC" => TimeZone::UTC,
        None => TimeZone::get(name)
            .map_err(|_| EvalError::new(format!("unknown time zone {}", &**name)))?,
    };
    Ok(t.to_zoned(zone))
}

fn moment<'a>(args: &[Value<'a>], part: fn(&Zoned) -> i64) -> Outcome<'a> {
    match args {
        [Value::Timestamp(t), rest @ ..] => Ok(Value::Int(part(&zoned(t, rest.first())?))),
        _ => no_overload(),
    }
}

fn span<'a>(args: &[Value<'a>], unit: i64, part: fn(&Zoned) -> i64) -> Outcome<'a> {
    match args {
        [Value::Duration(d)] => Ok(Value::Int(d / unit)),
        _ => moment(args, part),
    }
}
