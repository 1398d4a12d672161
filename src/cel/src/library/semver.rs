//! Functions of semantic versions.

use std::sync::Arc;

use rkube_go_regexp::Pattern;

use super::convert::text;
use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::value::{EvalError, Outcome, Semver, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("semver", to_semver),
    ("isSemver", is_semver),
    ("major", major),
    ("minor", minor),
    ("patch", patch),
];

fn to_semver<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    parse(args)?
        .map(|v| Value::Semver(Arc::new(v)))
        .map_err(EvalError::new)
}

fn is_semver<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    Ok(Value::Bool(parse(args)?.is_ok()))
}

fn major<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    field(args, |v| v.major())
}

fn minor<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    field(args, |v| v.minor())
}

fn patch<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    field(args, |v| v.patch())
}

fn parse(args: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    match args {
        [s] | [s, Value::Bool(false)] => Ok(Semver::parse(text(s)?)),
        [s, Value::Bool(true)] => Ok(Semver::parse_loose(text(s)?)),
        _ => no_overload(),
    }
}

fn field<'a>(args: &[Value<'a>], field: fn(&Semver) -> u64) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::Semver(v)] => Ok(Value::Int(field(v) as i64)),
        _ => no_overload(),
    }
}
