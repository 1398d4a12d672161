//! Functions of regular expressions.

use rkube_go_regexp::Pattern;

use super::convert::{text, texts};
use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::value::{EvalError, Outcome, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] =
    &[("matches", matches), ("find", find), ("findAll", find_all)];

fn matches<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], regex: Option<&Pattern>) -> Outcome<'a> {
    let [s, pattern] = args else {
        return no_overload();
    };
    let s = text(s)?;
    with_regex(pattern, regex, |r| Value::Bool(r.is_match(s))).map_err(EvalError::new)
}

fn find<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], regex: Option<&Pattern>) -> Outcome<'a> {
    let [s, pattern] = args else {
        return no_overload();
    };
    let s = text(s)?;
    with_regex(pattern, regex, |r| {
        Value::text(r.find(s).unwrap_or_default())
    })
    .map_err(|e| EvalError::new(format!("Illegal regex: {e}")))
}

fn find_all<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], regex: Option<&Pattern>) -> Outcome<'a> {
    let [s, pattern, rest @ ..] = args else {
        return no_overload();
    };
    let s = text(s)?;
    let most = match rest {
        [] => usize::MAX,
        [Value::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
        _ => return no_overload(),
    };
    let found = with_regex(pattern, regex, |r| {
        r.find_all(s)
            .take(most)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .map_err(|e| EvalError::new(format!("Illegal regex: {e}")))?;
    texts(found)
}

fn with_regex<T>(
    pattern: &Value<'_>,
    constant: Option<&Pattern>,
    then: impl FnOnce(&Pattern) -> T,
) -> Result<T, String> {
    match constant {
        Some(regex) => Ok(then(regex)),
        None => Ok(then(&Pattern::new(text(pattern).map_err(|e| e.message)?)?)),
    }
}
