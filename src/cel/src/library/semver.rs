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
    let (parse, text) = parser_and_text(args)?;
    parse(text)
        .map(|version| Value::Semver(Arc::new(version)))
        .map_err(EvalError::new)
}

fn is_semver<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let (parse, text) = parser_and_text(args)?;
    Ok(Value::Bool(parse(text).is_ok()))
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

/// A parser of versions. The error is the message.
type Parser = fn(&str) -> Result<Semver, String>;

/// Returns the parser that the arguments choose, and the text to parse.
fn parser_and_text<'v>(args: &'v [Value<'_>]) -> Result<(Parser, &'v str), EvalError> {
    match args {
        [s] | [s, Value::Bool(false)] => Ok((Semver::parse, text(s)?)),
        [s, Value::Bool(true)] => Ok((Semver::parse_loose, text(s)?)),
        _ => no_overload(),
    }
}

fn field<'a>(args: &[Value<'a>], field: fn(&Semver) -> u64) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::Semver(v)] => Ok(Value::Int(field(v) as i64)),
        _ => no_overload(),
    }
}
