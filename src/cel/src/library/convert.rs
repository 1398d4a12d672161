//! Conversions between types.

use std::sync::Arc;

use rkube_go_regexp::Pattern;

use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::time::{self, Moment};
use crate::value::{EvalError, Outcome, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("type", type_of),
    ("dyn", to_dyn),
    ("bool", to_bool),
    ("bytes", to_bytes),
    ("double", to_double),
    ("duration", to_duration),
    ("int", to_int),
    ("uint", to_uint),
    ("string", to_string),
    ("timestamp", to_timestamp),
];

fn type_of<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [value] => Ok(Value::Type(value.type_of())),
        _ => no_overload(),
    }
}

fn to_dyn<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [value] => Ok(value.clone()),
        _ => no_overload(),
    }
}

fn to_bool<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        [Value::String(s)] => match &**s {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(conversion_error(&args[0], "bool")),
        },
        _ => no_overload(),
    }
}

fn to_bytes<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Bytes(b)] => Ok(Value::Bytes(b.clone())),
        [Value::String(s)] => Ok(Value::Bytes(Arc::from(s.as_bytes()))),
        _ => no_overload(),
    }
}

fn to_double<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Double(d)] => Ok(Value::Double(*d)),
        [Value::Int(i)] => Ok(Value::Double(*i as f64)),
        [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
        [Value::String(s)] => parse_double(s)
            .map(Value::Double)
            .ok_or_else(|| conversion_error(&args[0], "double")),
        _ => no_overload(),
    }
}

fn to_duration<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Duration(d)] => Ok(Value::Duration(*d)),
        [Value::Int(i)] => Ok(Value::Duration(*i)),
        [Value::String(s)] => time::parse_duration(s)
            .map(Value::Duration)
            .ok_or_else(|| conversion_error(&args[0], "google.protobuf.Duration")),
        _ => no_overload(),
    }
}

fn to_int<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Int(i)] => Ok(Value::Int(*i)),
        [Value::Duration(d)] => Ok(Value::Int(*d)),
        [Value::Timestamp(t)] => Ok(Value::Int(time::to_seconds(t.utc))),
        [Value::Uint(u)] => i64::try_from(*u)
            .map(Value::Int)
            .map_err(|_| EvalError::new("integer overflow")),
        [Value::Double(d)] => {
            // As in cel-go, excludes the limits: doubles that large cannot represent every integer.
            if *d > -9_223_372_036_854_775_808.0 && *d < 9_223_372_036_854_775_807.0 {
                Ok(Value::Int(*d as i64))
            } else {
                Err(EvalError::new("integer overflow"))
            }
        }
        [Value::String(s)] => s
            .parse()
            .map(Value::Int)
            .map_err(|_| conversion_error(&args[0], "int")),
        _ => no_overload(),
    }
}

fn to_uint<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Uint(u)] => Ok(Value::Uint(*u)),
        [Value::Int(i)] => u64::try_from(*i)
            .map(Value::Uint)
            .map_err(|_| EvalError::new("unsigned integer overflow")),
        [Value::Double(d)] => {
            if *d >= 0.0 && *d < 18_446_744_073_709_551_615.0 {
                Ok(Value::Uint(*d as u64))
            } else {
                Err(EvalError::new("unsigned integer overflow"))
            }
        }
        [Value::String(s)] => s
            .parse()
            .ok()
            // Go takes no sign here.
            .filter(|_| !s.starts_with('+'))
            .map(Value::Uint)
            .ok_or_else(|| conversion_error(&args[0], "uint")),
        _ => no_overload(),
    }
}

fn to_string<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [value @ Value::String(_)] => Ok(value.clone()),
        [Value::Type(t)] => Ok(Value::text(t.runtime_name())),
        [value] => value.to_text().map(Value::text),
        _ => no_overload(),
    }
}

fn to_timestamp<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Timestamp(t)] => Ok(Value::Timestamp(*t)),
        [Value::Int(i)] => time::from_seconds(*i)
            .map(|t| Value::Timestamp(Moment::utc(t)))
            .ok_or_else(|| EvalError::new("timestamp overflow")),
        [Value::String(s)] => match Moment::parse(s) {
            Ok(t) if time::is_in_range(t.utc) => Ok(Value::Timestamp(t)),
            Ok(_) => Err(EvalError::new("timestamp overflow")),
            Err(_) => Err(conversion_error(&args[0], "google.protobuf.Timestamp")),
        },
        _ => no_overload(),
    }
}

/// Parses a number as Go's `strconv.ParseFloat`, which fails if it is too large.
fn parse_double(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    let named = text.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E'));
    (number.is_finite() || named).then_some(number)
}

fn conversion_error(value: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!(
        "type conversion error from '{}' to '{to}'",
        value.type_of().runtime_name()
    ))
}

/// Returns the text of a string value.
///
/// # Errors
///
/// The value is not a string.
pub(crate) fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, EvalError> {
    match value {
        Value::String(s) => Ok(s),
        _ => no_overload(),
    }
}

/// Returns a list of strings.
pub(crate) fn texts<'a>(items: impl IntoIterator<Item = String>) -> Outcome<'a> {
    Ok(Value::list(items.into_iter().map(Value::text).collect()))
}
